-- The table that is indexed, schema.table: another one must never be read in its place.
ALTER TABLE memory_pipeline.installation
    ADD COLUMN table_name text NOT NULL DEFAULT 'public' || '.memory_logs';
