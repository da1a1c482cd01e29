-- Whether a worker can tell Dagster what it synced, for `status`.

ALTER TABLE memory_pipeline.worker
    ADD COLUMN unreported_tenants integer NOT NULL DEFAULT 0,
    ADD COLUMN report_failure text,
    ADD COLUMN report_failing_since timestamptz;
