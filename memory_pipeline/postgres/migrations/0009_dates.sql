-- How many documents the last verify of a tenant saw with a date that cannot be read.

ALTER TABLE memory_pipeline.verification ADD COLUMN unread_dates bigint NOT NULL DEFAULT 0;
