-- Rows that come, go or move without a row trigger: how they are noticed.

-- Why every tenant is compared: a TRUNCATE; columns that the triggers could not read; or a partition
-- that came, went or was emptied, and triggers that were off for a while.
ALTER TABLE memory_pipeline.truncation
    ADD COLUMN reason text NOT NULL DEFAULT 'truncate'
        CHECK (reason IN ('truncate', 'columns', 'storage'));

-- What the catalog said of the table, its partitions and its triggers when all tenants were covered.
ALTER TABLE memory_pipeline.installation ADD COLUMN storage text;
