-- The schema in the words of the rest: one word for one thing.

ALTER TABLE memory_pipeline.change RENAME COLUMN again TO recheck;
ALTER INDEX memory_pipeline.change_again RENAME TO change_recheck;

ALTER TABLE memory_pipeline.setback RENAME TO rollback_sign;
ALTER TABLE memory_pipeline.epoch RENAME COLUMN home TO database_id;
ALTER TABLE memory_pipeline.server RENAME COLUMN home TO database_id;

ALTER TABLE memory_pipeline.worker RENAME COLUMN beat_at TO heartbeat_at;
ALTER TABLE memory_pipeline.rebuild RENAME COLUMN asked_at TO requested_at;

-- A failure is a memory that was refused, with its attempts; a dead letter is one that is not tried
-- any more.
CREATE VIEW memory_pipeline.dead_letter AS
SELECT * FROM memory_pipeline.failure WHERE buried_at IS NOT NULL;
