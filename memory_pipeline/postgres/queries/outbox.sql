-- The outbox. Each query that claims, acks or unclaims names the caller's token as its guard.

-- name: fan_out_truncations$
-- Turn each TRUNCATE into one reset of every registered tenant; return whether rows of tenants that
-- are not registered may have come as well. SKIP LOCKED: a worker that is frozen while it does the
-- same must not block the others.
WITH gone AS (
    DELETE FROM memory_pipeline.truncation
    WHERE seq IN (SELECT seq FROM memory_pipeline.truncation FOR UPDATE SKIP LOCKED)
    RETURNING reason
), reset AS (
    INSERT INTO memory_pipeline.change (tenant, memory_id)
    SELECT t.tenant, NULL FROM (
        -- Locked: where a forgetting deletes the tenant first, it gets no reset.
        SELECT tenant FROM memory_pipeline.tenant WHERE EXISTS (SELECT FROM gone)
        ORDER BY tenant FOR KEY SHARE
    ) AS t
)
SELECT coalesce(bool_or(reason <> 'truncate'), false) FROM gone;

-- name: lift_time_limit$
-- Let the rest of this transaction take its time: it reads the whole table.
SELECT set_config('statement_timeout', '0', true);

-- name: reset_new_tenants!
-- Enqueue a reset of every tenant that has rows and is not registered yet.
INSERT INTO memory_pipeline.change (tenant, memory_id)
SELECT DISTINCT memory_pipeline.tenant_of(m.user_id::text, m.project_id::text), NULL::bigint
FROM public.memory_logs m
WHERE octet_length(memory_pipeline.tenant_of(m.user_id::text, m.project_id::text)) <= 1000
  AND NOT EXISTS (
      SELECT FROM memory_pipeline.tenant t
      WHERE t.tenant = memory_pipeline.tenant_of(m.user_id::text, m.project_id::text)
  );

-- name: note_storage!
-- Record that every tenant is to be compared if the table, its partitions or its triggers are not
-- those that the catalog had when all tenants were covered. One statement: what changes after its
-- snapshot is found by the next one.
WITH found AS (
    SELECT memory_pipeline.storage() AS storage
), changed AS (
    UPDATE memory_pipeline.installation i SET storage = found.storage
    FROM found
    WHERE found.storage IS NOT NULL AND i.storage IS DISTINCT FROM found.storage
    RETURNING i.one
)
INSERT INTO memory_pipeline.truncation (reason) SELECT 'storage' FROM changed;

-- name: pending_tenants
-- Return every tenant with changes that may be claimed now, oldest change first, with the server of
-- its collection. A loose index scan: one probe a tenant instead of a scan of all changes. A change
-- that is claimed under a lease that has not expired is being worked on. Tenants whose back-off has
-- not ended are left out unless paused is true.
WITH RECURSIVE named AS (
    (SELECT tenant FROM memory_pipeline.change ORDER BY tenant LIMIT 1)
    UNION ALL
    SELECT (SELECT c.tenant FROM memory_pipeline.change c
            WHERE c.tenant > named.tenant ORDER BY c.tenant LIMIT 1)
    FROM named WHERE named.tenant IS NOT NULL
)
SELECT named.tenant AS tenant, t.partition_key AS partition_key,
       greatest(0, extract(epoch FROM clock_timestamp() - oldest.changed_at))::float8
           AS waits_seconds,
       g.server AS server
FROM named
LEFT JOIN memory_pipeline.tenant t ON t.tenant = named.tenant
LEFT JOIN memory_pipeline.generation g ON g.id = coalesce(t.live, t.building)
JOIN LATERAL (
    SELECT c.changed_at FROM memory_pipeline.change c
    WHERE c.tenant = named.tenant
      AND (c.not_before IS NULL OR c.not_before <= clock_timestamp())
      AND (c.covered_by IS NULL OR c.covered_by IS DISTINCT FROM t.building)
      AND (c.claim_token IS NULL OR c.claim_token <> t.lease_token
           OR t.lease_until IS NULL OR t.lease_until <= clock_timestamp())
    ORDER BY c.seq LIMIT 1
) AS oldest ON true
WHERE named.tenant IS NOT NULL
  AND (%(paused)s OR t.retry_at IS NULL OR t.retry_at <= clock_timestamp())
ORDER BY oldest.changed_at;

-- name: lock_lease^
-- Lock the lease for this transaction and return the generations to write, or no row when the lease
-- is lost. A damaged live generation is not written; the building one that replaces it is.
SELECT CASE WHEN g.state = 'live' THEN t.live END AS live, t.building
FROM memory_pipeline.tenant t LEFT JOIN memory_pipeline.generation g ON g.id = t.live
WHERE t.tenant = %(tenant)s AND t.lease_token = %(token)s AND t.lease_until > clock_timestamp()
FOR NO KEY UPDATE OF t;

-- name: claim
-- Claim the oldest changes that are due and that no rebuild under way covers. Runs in the
-- transaction that locked the lease. Returns the token that had claimed each change before: its
-- request may still reach Chroma.
WITH due AS MATERIALIZED (
    SELECT c.seq, c.claim_token
    FROM memory_pipeline.change c
    WHERE c.tenant = %(tenant)s
      AND (c.not_before IS NULL OR c.not_before <= clock_timestamp())
      AND (c.covered_by IS NULL OR c.covered_by IS DISTINCT FROM %(building)s::uuid)
    ORDER BY c.seq
    LIMIT %(batch_size)s
    FOR UPDATE SKIP LOCKED
)
UPDATE memory_pipeline.change c
SET claim_token = %(token)s
FROM due
WHERE c.tenant = %(tenant)s AND c.seq = due.seq
RETURNING c.seq, c.memory_id, due.claim_token AS claimed_before,
          c.recheck, CASE WHEN c.memory_id IS NOT NULL AND NOT c.confirm AND NOT c.recheck
               THEN greatest(0, extract(epoch FROM clock_timestamp() - c.changed_at))::float8
          END AS age,
          greatest(0, extract(epoch FROM clock_timestamp() - c.changed_at))::float8
              AS waited_seconds;

-- name: schedule_confirms!
-- Schedule a second write of these memories for when every request under way has been applied or
-- has timed out. A confirm that is already scheduled is postponed. Runs in the claim's transaction.
INSERT INTO memory_pipeline.change (tenant, memory_id, not_before, confirm)
SELECT %(tenant)s, m, clock_timestamp() + make_interval(secs => %(wait_seconds)s), true
FROM unnest(%(memory_ids)s::bigint[]) AS m
ON CONFLICT (tenant, memory_id) WHERE confirm
DO UPDATE SET
    not_before = greatest(memory_pipeline.change.not_before, EXCLUDED.not_before),
    claim_token = NULL;

-- name: ack!
-- Delete changes, only under the token that claimed them and only while its lease is valid.
DELETE FROM memory_pipeline.change c
WHERE c.tenant = %(tenant)s AND c.seq = ANY(%(seqs)s::bigint[]) AND c.claim_token = %(token)s
  AND EXISTS (
      SELECT FROM memory_pipeline.tenant t
      WHERE t.tenant = %(tenant)s AND t.lease_token = %(token)s
        AND t.lease_until > clock_timestamp()
  );

-- name: unclaim!
-- Return changes to the outbox, not before a pause; only changes for which no request was sent.
UPDATE memory_pipeline.change c
SET claim_token = NULL,
    not_before = CASE WHEN %(pause_seconds)s > 0
                      THEN clock_timestamp() + make_interval(secs => %(pause_seconds)s) END
WHERE c.tenant = %(tenant)s AND c.seq = ANY(%(seqs)s::bigint[]) AND c.claim_token = %(token)s;

-- name: enqueue!
-- Append a change for each memory that is to be rechecked. While an unproven tenant's reset is
-- pending, changes enqueued for it may come from that reset, so the tenant stays unproven until
-- they are done too. A tenant that was forgotten meanwhile gets none: it would come back by them.
WITH registered AS MATERIALIZED (
    SELECT t.tenant FROM memory_pipeline.tenant t WHERE t.tenant = %(tenant)s FOR KEY SHARE
)
INSERT INTO memory_pipeline.change (tenant, memory_id, recheck, unproven)
SELECT registered.tenant, m, true, EXISTS (
    SELECT FROM memory_pipeline.change r
    WHERE r.tenant = registered.tenant AND r.unproven AND r.memory_id IS NULL
)
FROM registered, unnest(%(memory_ids)s::bigint[]) AS m;

-- name: charge
-- Count one more failed attempt of each memory; bury it at the limit. A waiver ends with the
-- content that it was given for.
INSERT INTO memory_pipeline.failure AS f
    (tenant, memory_id, attempts, first_error, last_error, buried_at,
     kind, content_hash, model, config_hash, version, cause, tried_under)
SELECT %(tenant)s, g.memory_id, 1, g.reason, g.reason,
       CASE WHEN %(max_attempts)s <= 1 THEN clock_timestamp() END,
       g.kind, g.content_hash, %(model)s, %(config_hash)s, %(version)s,
       %(cause)s, ARRAY[%(cause)s::text]
FROM unnest(%(memory_ids)s::bigint[], %(reasons)s::text[], %(kinds)s::text[],
            %(content_hashes)s::text[]) AS g (memory_id, reason, kind, content_hash)
ON CONFLICT (tenant, memory_id) DO UPDATE SET
    attempts = f.attempts + 1,
    last_error = EXCLUDED.last_error,
    last_at = clock_timestamp(),
    buried_at = CASE WHEN f.attempts + 1 >= %(max_attempts)s
                     THEN coalesce(f.buried_at, clock_timestamp()) END,
    kind = EXCLUDED.kind, content_hash = EXCLUDED.content_hash, model = EXCLUDED.model,
    config_hash = EXCLUDED.config_hash, version = EXCLUDED.version, cause = EXCLUDED.cause,
    tried_under = CASE WHEN f.content_hash IS DISTINCT FROM EXCLUDED.content_hash
                       THEN EXCLUDED.tried_under
                       WHEN EXCLUDED.cause = ANY(f.tried_under) THEN f.tried_under
                       ELSE f.tried_under || EXCLUDED.cause END,
    waived_at = CASE WHEN f.content_hash IS NOT DISTINCT FROM EXCLUDED.content_hash
                     THEN f.waived_at END,
    waived_by = CASE WHEN f.content_hash IS NOT DISTINCT FROM EXCLUDED.content_hash
                     THEN f.waived_by END,
    waived_because = CASE WHEN f.content_hash IS NOT DISTINCT FROM EXCLUDED.content_hash
                          THEN f.waived_because END,
    -- A memory that is updated all the time is alerted once.
    alerted_at = CASE WHEN f.content_hash IS NOT DISTINCT FROM EXCLUDED.content_hash
                           OR f.waived_at IS NULL
                      THEN f.alerted_at END
RETURNING f.memory_id, f.attempts, f.buried_at IS NOT NULL AS buried;

-- name: clear_failures!
-- Delete the failures of memories whose documents were written.
DELETE FROM memory_pipeline.failure
WHERE tenant = %(tenant)s AND memory_id = ANY(%(memory_ids)s::bigint[]);

-- name: forget_failures_of_gone!
-- Delete the failures of memories that the tenant no longer has: after a TRUNCATE no change names
-- them. A memory that comes back has a change of its own.
DELETE FROM memory_pipeline.failure f
WHERE f.tenant = %(tenant)s
  AND NOT EXISTS (
      SELECT FROM public.memory_logs m
      WHERE m.id = f.memory_id
        AND memory_pipeline.tenant_of(m.user_id::text, m.project_id::text) = f.tenant
  );

-- name: record_provenance!
-- Compare-and-set where the vectors of memories come from: store the new provenance where the
-- stored one is still what was read with the row. In id order: two workers hardly ever wait for
-- each other.
WITH given AS (
    SELECT * FROM unnest(%(memory_ids)s::bigint[], %(text_hashes)s::text[], %(models)s::text[],
                         %(vector_hashes)s::text[], %(text_hashes_before)s::text[],
                         %(models_before)s::text[], %(vector_hashes_before)s::text[])
        AS g (memory_id, text_hash, model, vector_hash,
              text_hash_before, model_before, vector_hash_before)
), unchanged AS MATERIALIZED (
    SELECT p.memory_id FROM memory_pipeline.provenance p JOIN given g USING (memory_id)
    WHERE (p.text_hash, p.model, p.vector_hash)
          = (g.text_hash_before, g.model_before, g.vector_hash_before)
    ORDER BY p.memory_id
    FOR UPDATE OF p
), renewed AS (
    UPDATE memory_pipeline.provenance p
    SET text_hash = g.text_hash, model = g.model, vector_hash = g.vector_hash
    FROM given g JOIN unchanged USING (memory_id)
    WHERE p.memory_id = g.memory_id
)
INSERT INTO memory_pipeline.provenance (memory_id, text_hash, model, vector_hash)
SELECT memory_id, text_hash, model, vector_hash FROM given
WHERE text_hash_before IS NULL ORDER BY memory_id
ON CONFLICT (memory_id) DO NOTHING;

-- name: forget_provenance!
-- Delete the provenance, and the backed-up vectors, of memories that no longer exist.
WITH vectors AS (
    DELETE FROM memory_pipeline.vector_backup b
    WHERE b.memory_id = ANY(%(memory_ids)s::bigint[])
      AND NOT EXISTS (SELECT FROM public.memory_logs m WHERE m.id = b.memory_id)
)
DELETE FROM memory_pipeline.provenance p
WHERE p.memory_id = ANY(%(memory_ids)s::bigint[])
  AND NOT EXISTS (SELECT FROM public.memory_logs m WHERE m.id = p.memory_id);

-- name: pending$
-- Count the tenant's changes, whatever their state.
SELECT count(*) FROM memory_pipeline.change WHERE tenant = %(tenant)s;

-- name: expected_differences
-- Return which of these memories have a pending change, claimed or not, or are buried, waived or
-- not. A pending reset or TRUNCATE concerns every memory (memory_id NULL). A change that a rebuild
-- under way covers explains no difference.
SELECT DISTINCT 'pending' AS why, c.memory_id
FROM memory_pipeline.change c JOIN memory_pipeline.tenant t ON t.tenant = c.tenant
WHERE c.tenant = %(tenant)s
  AND (c.memory_id IS NULL OR c.memory_id = ANY(%(memory_ids)s::bigint[]))
  AND (c.covered_by IS NULL OR c.claim_token IS NOT NULL
       OR c.covered_by IS DISTINCT FROM t.building)
UNION ALL
SELECT DISTINCT 'pending', NULL::bigint FROM memory_pipeline.truncation
UNION ALL
SELECT CASE WHEN f.waived_at IS NULL THEN 'buried' ELSE 'waived' END, f.memory_id
FROM memory_pipeline.failure f
WHERE f.tenant = %(tenant)s AND f.memory_id = ANY(%(memory_ids)s::bigint[])
  AND f.buried_at IS NOT NULL;

-- name: has_due_changes$
-- Return whether a tenant has a change that can be claimed now.
SELECT EXISTS (
    SELECT FROM memory_pipeline.change c JOIN memory_pipeline.tenant t ON t.tenant = c.tenant
    WHERE c.tenant = %(tenant)s
      AND (c.not_before IS NULL OR c.not_before <= clock_timestamp())
      AND (c.covered_by IS NULL OR c.covered_by IS DISTINCT FROM t.building)
);

-- name: newest_of_all$
-- Return the number of the newest change of all tenants; 0 where there is none.
SELECT coalesce(max(seq), 0) FROM memory_pipeline.change;

-- name: remaining
-- Return each tenant with changes up to a number, and the holder of its lease. A confirm is left
-- out: what it writes again was synced. Changes count that are claimed, that pause, or that a
-- rebuild under way covers.
SELECT c.tenant AS tenant, count(*) AS changes,
       max(CASE WHEN t.lease_until > clock_timestamp() THEN t.lease_owner END) AS holder
FROM memory_pipeline.change c LEFT JOIN memory_pipeline.tenant t ON t.tenant = c.tenant
WHERE c.seq <= %(through)s AND NOT c.confirm
  AND (%(tenants)s::text[] IS NULL OR c.tenant = ANY(%(tenants)s::text[]))
GROUP BY c.tenant ORDER BY c.tenant;

-- name: newest_seq$
-- Return the number of a tenant's newest change; 0 where it has none.
SELECT coalesce(max(seq), 0) FROM memory_pipeline.change WHERE tenant = %(tenant)s;
