-- Dead letters: shown, replayed, waived, alerted. No query here deletes one: a memory that is
-- indexed or deleted clears its own.

-- name: newest_dead_letters
-- Return the selected dead letters, newest first; with each, the number of all selected and of
-- waived ones.
SELECT count(*) OVER () AS letters, count(f.waived_at) OVER () AS letters_waived,
       f.tenant, f.memory_id, f.kind, f.first_error, f.last_error, f.attempts, f.first_at,
       f.last_at, f.buried_at, f.content_hash, f.model, f.config_hash, f.version,
       f.waived_at, f.waived_by, f.waived_because
FROM memory_pipeline.failure f
WHERE f.buried_at IS NOT NULL
  AND (%(tenants)s::text[] IS NULL OR f.tenant = ANY(%(tenants)s::text[]))
  AND (%(kinds)s::text[] IS NULL OR f.kind = ANY(%(kinds)s::text[]))
  AND (%(memory_ids)s::bigint[] IS NULL OR f.memory_id = ANY(%(memory_ids)s::bigint[]))
  AND (%(older_than_seconds)s::float8 IS NULL
       OR f.buried_at <= clock_timestamp() - make_interval(secs => %(older_than_seconds)s::float8))
  AND (%(waived)s::boolean IS NULL OR (f.waived_at IS NOT NULL) = %(waived)s::boolean)
ORDER BY f.buried_at DESC, f.tenant, f.memory_id
LIMIT %(limit)s;

-- name: dead_letter_keys
-- Return the keys of the selected dead letters, after the given key, in order.
SELECT f.tenant, f.memory_id
FROM memory_pipeline.failure f
WHERE f.buried_at IS NOT NULL
  AND (%(tenants)s::text[] IS NULL OR f.tenant = ANY(%(tenants)s::text[]))
  AND (%(kinds)s::text[] IS NULL OR f.kind = ANY(%(kinds)s::text[]))
  AND (%(memory_ids)s::bigint[] IS NULL OR f.memory_id = ANY(%(memory_ids)s::bigint[]))
  AND (%(older_than_seconds)s::float8 IS NULL
       OR f.buried_at <= clock_timestamp() - make_interval(secs => %(older_than_seconds)s::float8))
  AND (%(waived)s::boolean IS NULL OR (f.waived_at IS NOT NULL) = %(waived)s::boolean)
  AND (%(after_tenant)s::text IS NULL
       OR (f.tenant, f.memory_id) > (%(after_tenant)s::text, %(after_id)s::bigint))
ORDER BY f.tenant, f.memory_id
LIMIT %(limit)s;

-- name: dead_letters_of_tenants
-- Count the dead letters of each tenant that has any, and the waived ones.
SELECT tenant, count(*) AS letters, count(waived_at) AS letters_waived
FROM memory_pipeline.failure WHERE buried_at IS NOT NULL GROUP BY tenant;

-- name: replay_dead_letters$
-- Give these dead letters all their attempts again and enqueue their memories, in one statement:
-- each has a pending change or is still buried. Only while they are buried.
WITH held AS MATERIALIZED (
    SELECT f.tenant, f.memory_id
    FROM memory_pipeline.failure f
    JOIN unnest(%(tenants)s::text[], %(memory_ids)s::bigint[]) AS g (tenant, memory_id)
        ON f.tenant = g.tenant AND f.memory_id = g.memory_id
    WHERE f.buried_at IS NOT NULL
    ORDER BY f.tenant, f.memory_id
    FOR UPDATE OF f
), risen AS (
    UPDATE memory_pipeline.failure f
    SET buried_at = NULL, attempts = 0, alerted_at = NULL
    FROM held h
    WHERE f.tenant = h.tenant AND f.memory_id = h.memory_id
    RETURNING f.tenant, f.memory_id
), enqueued AS (
    INSERT INTO memory_pipeline.change (tenant, memory_id, recheck)
    SELECT tenant, memory_id, true FROM risen ORDER BY tenant, memory_id
)
SELECT count(*) FROM risen;

-- name: recheck_failures$
-- Enqueue memories that failed before, buried or not, and that a rebuild could write: its
-- generation may still be abandoned, so only a batch that writes them to live clears the failure.
WITH held AS MATERIALIZED (
    SELECT f.tenant, f.memory_id
    FROM memory_pipeline.failure f
    WHERE f.tenant = %(tenant)s AND f.memory_id = ANY(%(memory_ids)s::bigint[])
    ORDER BY f.memory_id
    FOR UPDATE OF f
), risen AS (
    UPDATE memory_pipeline.failure f
    SET buried_at = NULL, alerted_at = NULL,
        attempts = CASE WHEN f.buried_at IS NULL THEN f.attempts ELSE 0 END
    FROM held h
    WHERE f.tenant = h.tenant AND f.memory_id = h.memory_id
    RETURNING f.tenant, f.memory_id
), enqueued AS (
    INSERT INTO memory_pipeline.change (tenant, memory_id, recheck)
    SELECT tenant, memory_id, true FROM risen ORDER BY memory_id
)
SELECT count(*) FROM risen;

-- name: replay_cured$
-- Replay dead letters that another model, configuration or version refused, once for each current
-- one; only where the tenant's collection is already built with the current ones (a rebuild tries
-- every memory anyway). Waived ones stay.
WITH cured AS MATERIALIZED (
    SELECT f.tenant, f.memory_id
    FROM memory_pipeline.failure f
    JOIN memory_pipeline.tenant t ON t.tenant = f.tenant
    JOIN memory_pipeline.generation g
        ON g.id = t.live AND g.state = 'live'
           AND g.model = %(model)s AND g.config_hash = %(config_hash)s
    WHERE f.buried_at IS NOT NULL AND f.waived_at IS NULL
      AND (f.cause < %(cause)s OR f.cause > %(cause)s)
      AND NOT %(cause)s = ANY(f.tried_under)
    ORDER BY f.tenant, f.memory_id
    LIMIT %(limit)s
    FOR UPDATE OF f SKIP LOCKED
), risen AS (
    UPDATE memory_pipeline.failure f
    SET buried_at = NULL, attempts = 0, alerted_at = NULL,
        tried_under = f.tried_under || %(cause)s::text
    FROM cured c
    WHERE f.tenant = c.tenant AND f.memory_id = c.memory_id
    RETURNING f.tenant, f.memory_id
), enqueued AS (
    INSERT INTO memory_pipeline.change (tenant, memory_id, recheck)
    SELECT tenant, memory_id, true FROM risen ORDER BY tenant, memory_id
)
SELECT count(*) FROM risen;

-- name: waive_dead_letters!
-- Record that an operator waives these dead letters for as long as their content is the same.
WITH held AS MATERIALIZED (
    SELECT f.tenant, f.memory_id
    FROM memory_pipeline.failure f
    JOIN unnest(%(tenants)s::text[], %(memory_ids)s::bigint[]) AS g (tenant, memory_id)
        ON f.tenant = g.tenant AND f.memory_id = g.memory_id
    WHERE f.buried_at IS NOT NULL AND f.waived_at IS NULL
    ORDER BY f.tenant, f.memory_id
    FOR UPDATE OF f
)
UPDATE memory_pipeline.failure f
SET waived_at = clock_timestamp(), waived_by = %(by)s, waived_because = %(because)s
FROM held h
WHERE f.tenant = h.tenant AND f.memory_id = h.memory_id;

-- name: unwaive_dead_letters!
-- Withdraw the waivers of these dead letters.
WITH held AS MATERIALIZED (
    SELECT f.tenant, f.memory_id
    FROM memory_pipeline.failure f
    JOIN unnest(%(tenants)s::text[], %(memory_ids)s::bigint[]) AS g (tenant, memory_id)
        ON f.tenant = g.tenant AND f.memory_id = g.memory_id
    WHERE f.buried_at IS NOT NULL AND f.waived_at IS NOT NULL
    ORDER BY f.tenant, f.memory_id
    FOR UPDATE OF f
)
UPDATE memory_pipeline.failure f
SET waived_at = NULL, waived_by = NULL, waived_because = NULL
FROM held h
WHERE f.tenant = h.tenant AND f.memory_id = h.memory_id;

-- name: unalerted_dead_letters
-- Return the dead letters that no alert has named yet, oldest first.
SELECT f.tenant, f.memory_id, f.kind, f.first_error, f.last_error, f.attempts, f.first_at,
       f.last_at, f.buried_at, f.content_hash, f.model, f.config_hash, f.version,
       f.waived_at, f.waived_by, f.waived_because
FROM memory_pipeline.failure f
WHERE f.buried_at IS NOT NULL AND f.waived_at IS NULL AND f.alerted_at IS NULL
ORDER BY f.buried_at, f.tenant, f.memory_id
LIMIT %(limit)s;

-- name: mark_alerted!
-- Record that an alert has named these dead letters; a memory buried again since is named again.
UPDATE memory_pipeline.failure f
SET alerted_at = clock_timestamp()
FROM unnest(%(tenants)s::text[], %(memory_ids)s::bigint[], %(buried_at)s::timestamptz[])
    AS g (tenant, memory_id, buried_at)
WHERE f.tenant = g.tenant AND f.memory_id = g.memory_id AND f.buried_at = g.buried_at;

-- name: buried_among
-- Return which of these memories are buried.
SELECT f.memory_id FROM memory_pipeline.failure f
WHERE f.tenant = %(tenant)s AND f.memory_id = ANY(%(memory_ids)s::bigint[])
  AND f.buried_at IS NOT NULL;

-- name: replay_page^
-- Enqueue the next memories of a tenant, or of all, in id order; memories that already have an
-- unclaimed recheck are skipped. Returns the last id of the page.
WITH page AS MATERIALIZED (
    SELECT m.id, memory_pipeline.tenant_of(m.user_id::text, m.project_id::text) AS tenant
    FROM public.memory_logs m
    WHERE (%(after)s::bigint IS NULL OR m.id > %(after)s::bigint)
      AND (%(ids)s::bigint[] IS NULL OR m.id = ANY(%(ids)s::bigint[]))
      AND octet_length(memory_pipeline.tenant_of(m.user_id::text, m.project_id::text)) <= 1000
      AND (%(tenant)s::text IS NULL
           OR memory_pipeline.tenant_of(m.user_id::text, m.project_id::text) = %(tenant)s::text)
      AND (%(since)s::timestamptz IS NULL
           OR m.updated_at >= %(since)s::timestamptz OR m.created_at >= %(since)s::timestamptz)
    ORDER BY m.id LIMIT %(limit)s
), added AS (
    INSERT INTO memory_pipeline.change (tenant, memory_id, recheck)
    SELECT p.tenant, p.id, true FROM page p
    WHERE NOT EXISTS (
        SELECT FROM memory_pipeline.change c
        WHERE c.tenant = p.tenant AND c.memory_id = p.id AND c.recheck
          AND c.claim_token IS NULL AND c.covered_by IS NULL
    )
    ORDER BY p.id
    RETURNING seq
)
SELECT (SELECT count(*) FROM page) AS matched, (SELECT count(*) FROM added) AS enqueued,
       (SELECT max(id) FROM page) AS through;

-- name: replay_keys$
-- Enqueue these memories of a tenant, whether they exist or not: the document of a memory that is
-- gone is deleted once more. None of a tenant that was forgotten meanwhile.
WITH registered AS MATERIALIZED (
    SELECT t.tenant FROM memory_pipeline.tenant t WHERE t.tenant = %(tenant)s FOR KEY SHARE
), added AS (
    INSERT INTO memory_pipeline.change (tenant, memory_id, recheck)
    SELECT registered.tenant, g.id, true FROM registered, unnest(%(ids)s::bigint[]) AS g (id)
    WHERE NOT EXISTS (
        SELECT FROM memory_pipeline.change c
        WHERE c.tenant = %(tenant)s AND c.memory_id = g.id AND c.recheck
          AND c.claim_token IS NULL AND c.covered_by IS NULL
    )
    RETURNING seq
)
SELECT count(*) FROM added;

-- name: as_utc!
-- Read columns without a time zone as UTC, for this transaction.
SELECT set_config('TimeZone', 'UTC', true);
