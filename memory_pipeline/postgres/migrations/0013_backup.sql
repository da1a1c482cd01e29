-- The backup of vectors: a table of the pipeline's own for them, and what refuses a backup.

-- The vectors of memories, where MEMORY_PIPELINE_BACKUP=table keeps them here and not in
-- memory_logs. Text and model stand beside the vector: whichever worker writes last, a vector is
-- never taken for another text's. No fixed dimension: that belongs to the model.
CREATE TABLE memory_pipeline.vector_backup (
    memory_id bigint PRIMARY KEY,
    text_hash text NOT NULL,
    model text NOT NULL,
    embedding vector NOT NULL
);

-- Why vectors are not backed up, if the last attempt was refused; one row at most. backup: the
-- setting of that attempt. No content of a memory.
CREATE TABLE memory_pipeline.backup_refusal (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    backup text NOT NULL,
    reason text NOT NULL,
    memories bigint NOT NULL,
    first_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

-- Raised where a trigger of the application changes more than updated_at when a vector is stored:
-- the statement is undone, and the memory stays as it was.
CREATE FUNCTION memory_pipeline.refuse_backup() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RAISE 'the backup of a vector would change the memory' USING ERRCODE = 'MP001';
END $$;
