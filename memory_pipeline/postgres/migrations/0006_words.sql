-- The schema in the words of the rest: one word for one thing.

ALTER TABLE memory_pipeline.change RENAME COLUMN again TO recheck;
ALTER INDEX memory_pipeline.change_again RENAME TO change_recheck;

ALTER TABLE memory_pipeline.setback RENAME TO rollback_sign;
ALTER SEQUENCE memory_pipeline.setback_number_seq RENAME TO rollback_sign_number_seq;
ALTER INDEX memory_pipeline.setback_pkey RENAME TO rollback_sign_pkey;
ALTER INDEX memory_pipeline.setback_nonce_key RENAME TO rollback_sign_nonce_key;
ALTER TABLE memory_pipeline.epoch RENAME COLUMN home TO database_id;
ALTER TABLE memory_pipeline.server RENAME COLUMN home TO database_id;

ALTER TABLE memory_pipeline.worker RENAME COLUMN beat_at TO heartbeat_at;
ALTER TABLE memory_pipeline.rebuild RENAME COLUMN asked_at TO requested_at;
