-- Dead letters as people see them: what kind of refusal, of which content, under what; waived or
-- not; told or not. And what makes replaying cheap.

ALTER TABLE memory_pipeline.failure
    ADD COLUMN kind text NOT NULL DEFAULT 'unknown',
    -- Of the content that was refused last. A waiver is for this content and no other.
    ADD COLUMN content_hash text,
    ADD COLUMN model text,
    ADD COLUMN config_hash text,
    ADD COLUMN version text,
    -- The three of them in one word; and every such word under which this content was tried, so
    -- that two versions that run side by side do not have it tried again and again.
    ADD COLUMN cause text NOT NULL DEFAULT '',
    ADD COLUMN tried_under text[] NOT NULL DEFAULT '{}',
    ADD COLUMN waived_at timestamptz,
    ADD COLUMN waived_by text,
    ADD COLUMN waived_because text,
    ADD COLUMN alerted_at timestamptz;

UPDATE memory_pipeline.failure SET kind = split_part(last_error, ':', 1)
WHERE split_part(last_error, ':', 1) IN ('embedding', 'index');

-- Whether a dead letter was buried under another cause than that of now: two short range scans.
CREATE INDEX failure_cause ON memory_pipeline.failure (cause)
    WHERE buried_at IS NOT NULL AND waived_at IS NULL;
CREATE INDEX failure_unalerted ON memory_pipeline.failure (buried_at)
    WHERE buried_at IS NOT NULL AND waived_at IS NULL AND alerted_at IS NULL;

-- Whether a memory is to be looked at again already. No change of an application is in it, and a
-- claim touches nothing that it depends on.
CREATE INDEX change_again ON memory_pipeline.change (tenant, memory_id) WHERE again;
