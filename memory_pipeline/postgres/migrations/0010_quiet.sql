-- How long a worker may be silent after its last heartbeat: it rests while there is no work.
ALTER TABLE memory_pipeline.worker ADD COLUMN quiet_seconds double precision NOT NULL DEFAULT 0;
