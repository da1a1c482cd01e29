-- What an operator wants to know. Read-only.

-- name: totals^
-- Count memories, pending changes, failures, dead letters, tenants and findings.
SELECT (SELECT count(*) FROM public.memory_logs) AS memories,
       (SELECT count(*) FROM public.memory_logs m
        WHERE octet_length(memory_pipeline.tenant_of(m.user_id::text, m.project_id::text)) <= 1000
              IS NOT TRUE)
           AS memories_without_tenant,
       (SELECT count(*) FROM memory_pipeline.change)
         + (SELECT count(*) FROM memory_pipeline.truncation) AS pending_changes,
       (SELECT coalesce(greatest(0, extract(epoch FROM clock_timestamp() - min(changed_at))), 0)::float8
        FROM (SELECT changed_at FROM memory_pipeline.change
              UNION ALL SELECT truncated_at FROM memory_pipeline.truncation) AS waits)
           AS oldest_pending_seconds,
       (SELECT count(*) FROM memory_pipeline.failure WHERE buried_at IS NOT NULL) AS dead_letters,
       (SELECT count(*) FROM memory_pipeline.failure
        WHERE buried_at IS NOT NULL AND waived_at IS NOT NULL) AS waived_dead_letters,
       (SELECT count(*) FROM memory_pipeline.failure WHERE buried_at IS NULL) AS retrying,
       (SELECT count(*) FROM memory_pipeline.tenant) AS tenants,
       (SELECT count(*) FROM memory_pipeline.tenant WHERE retry_at > clock_timestamp())
           AS paused_tenants,
       (SELECT count(*) FROM memory_pipeline.tenant t
        JOIN memory_pipeline.generation g ON g.id = t.live AND g.state IN ('corrupt', 'lost'))
           AS damaged_tenants,
       (SELECT count(*) FROM memory_pipeline.rebuild
        WHERE state = 'running' AND owned_until > clock_timestamp()) AS rebuilding_tenants,
       (SELECT coalesce(sum(found), 0)::bigint FROM memory_pipeline.verification) AS findings,
       (SELECT coalesce(sum(unread_dates), 0)::bigint FROM memory_pipeline.verification)
           AS unread_dates;

-- name: tenants
-- Return every registered tenant with its collection, its memories and its pending changes.
WITH held AS (
    SELECT memory_pipeline.tenant_of(user_id::text, project_id::text) AS tenant, count(*) AS memories
    FROM public.memory_logs GROUP BY 1
), waits AS (
    SELECT tenant, count(*) AS pending, min(changed_at) AS oldest
    FROM memory_pipeline.change GROUP BY tenant
), dead AS (
    SELECT tenant, count(*) AS letters, count(waived_at) AS waived FROM memory_pipeline.failure
    WHERE buried_at IS NOT NULL GROUP BY tenant
)
SELECT t.tenant, t.partition_key, t.live AS generation, g.collection_id, g.server,
       coalesce(held.memories, 0) AS memories, coalesce(waits.pending, 0) AS pending_changes,
       coalesce(dead.letters, 0) AS dead_letters,
       coalesce(dead.waived, 0) AS waived_dead_letters,
       coalesce(greatest(0, extract(epoch FROM clock_timestamp() - waits.oldest)), 0)::float8
           AS lag_seconds,
       t.last_synced_at, t.last_error
FROM memory_pipeline.tenant t
LEFT JOIN memory_pipeline.generation g ON g.id = t.live
LEFT JOIN held ON held.tenant = t.tenant
LEFT JOIN waits ON waits.tenant = t.tenant
LEFT JOIN dead ON dead.tenant = t.tenant
ORDER BY t.registered_at, t.tenant;

-- name: newest_changes
-- Return the newest change of each of these tenants: the version of their memories.
SELECT tenant, max(seq) AS seq, count(*) AS pending
FROM memory_pipeline.change WHERE tenant = ANY(%(tenants)s::text[]) GROUP BY tenant;

-- name: record_verification!
-- Store the result of a tenant's newest verify; not of a tenant that was forgotten meanwhile.
INSERT INTO memory_pipeline.verification AS v (tenant, documents, found, findings, unread_dates)
SELECT t.tenant, %(documents)s, %(found)s, %(findings)s, %(unread_dates)s
FROM (SELECT tenant FROM memory_pipeline.tenant WHERE tenant = %(tenant)s FOR KEY SHARE) AS t
ON CONFLICT (tenant) DO UPDATE SET
    verified_at = clock_timestamp(), documents = EXCLUDED.documents, found = EXCLUDED.found,
    findings = EXCLUDED.findings, unread_dates = EXCLUDED.unread_dates;

-- name: unseen
-- Return why every tenant is to be compared, where that has not begun.
SELECT DISTINCT reason FROM memory_pipeline.truncation WHERE reason <> 'truncate'
UNION
SELECT 'storage' FROM memory_pipeline.installation i
WHERE i.storage IS DISTINCT FROM memory_pipeline.storage() AND memory_pipeline.storage() IS NOT NULL;
