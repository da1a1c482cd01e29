-- Dead letters in full: the kind of refusal, the content, the model, settings and version; waived or
-- not; alerted or not. And the indexes that make replays cheap.

ALTER TABLE memory_pipeline.failure
    ADD COLUMN kind text NOT NULL DEFAULT 'unknown',
    -- The hash of the content that was refused last. A waiver is for this content and no other.
    ADD COLUMN content_hash text,
    ADD COLUMN model text,
    ADD COLUMN config_hash text,
    ADD COLUMN version text,
    -- A digest of model, config_hash and version; and every such digest under which this content was
    -- tried, so that two versions running side by side do not retry it again and again.
    ADD COLUMN cause text NOT NULL DEFAULT '',
    ADD COLUMN tried_under text[] NOT NULL DEFAULT '{}',
    ADD COLUMN waived_at timestamptz,
    ADD COLUMN waived_by text,
    ADD COLUMN waived_because text,
    ADD COLUMN alerted_at timestamptz;

UPDATE memory_pipeline.failure SET kind = split_part(last_error, ':', 1)
WHERE split_part(last_error, ':', 1) IN ('embedding', 'index');

-- Finds dead letters of another cause than the current one with two short range scans.
CREATE INDEX failure_cause ON memory_pipeline.failure (cause)
    WHERE buried_at IS NOT NULL AND waived_at IS NULL;
CREATE INDEX failure_unalerted ON memory_pipeline.failure (buried_at)
    WHERE buried_at IS NOT NULL AND waived_at IS NULL AND alerted_at IS NULL;

-- Finds a pending recheck of a memory. It holds no change of an application, and a claim updates no
-- column that it depends on.
CREATE INDEX change_again ON memory_pipeline.change (tenant, memory_id) WHERE again;
