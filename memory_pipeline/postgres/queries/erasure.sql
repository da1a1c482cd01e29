-- Forgetting a tenant. The fence runs under the token of the tenant's lease, in one transaction and
-- in the order of this file; the other queries may be repeated.

-- name: request_erasure!
-- Record that a tenant is to be forgotten. Repeated, it begins again with the fence.
INSERT INTO memory_pipeline.erasure (tenant) VALUES (%(tenant)s)
ON CONFLICT (tenant) DO UPDATE
SET fenced_at = NULL, tried_at = clock_timestamp(), waits_for = '';

-- name: delete_memories!
-- Delete these memories as far as they are still the tenant's.
DELETE FROM public.memory_logs
WHERE id = ANY(%(ids)s::bigint[])
  AND memory_pipeline.tenant_of(user_id::text, project_id::text) = %(tenant)s;

-- name: lock_registration^
-- Lock a tenant's registration, only under the token of its lease: every query of the pipeline that
-- stores the tenant's name waits for this lock, and finds the tenant gone. Returns whether a request
-- that creates a collection may be on its way.
SELECT EXISTS (
    SELECT FROM memory_pipeline.generation g WHERE g.tenant = t.tenant AND g.state = 'new'
      AND g.dropped_at IS NULL
) AS creating
FROM memory_pipeline.tenant t
WHERE t.tenant = %(tenant)s AND t.lease_token = %(token)s AND t.lease_until > clock_timestamp()
FOR UPDATE;

-- name: forget_pointers!
-- Direct no search and no write to a collection of the tenant any more.
UPDATE memory_pipeline.tenant SET live = NULL, building = NULL WHERE tenant = %(tenant)s;

-- name: forget_rebuilds!
-- Delete the tenant's parts in rebuilds: the owner of a running one is fenced.
DELETE FROM memory_pipeline.rebuild WHERE tenant = %(tenant)s;

-- name: forget_generations!
-- End every generation of the tenant and mark its collection to be dropped; delete those that are
-- dropped already.
WITH gone AS (
    DELETE FROM memory_pipeline.generation WHERE tenant = %(tenant)s AND dropped_at IS NOT NULL
)
UPDATE memory_pipeline.generation
SET erase = true, ended_at = coalesce(ended_at, clock_timestamp()),
    state = CASE WHEN state IN ('live', 'building', 'corrupt') THEN 'retired'
                 WHEN state = 'new' THEN 'abandoned' ELSE state END
WHERE tenant = %(tenant)s AND dropped_at IS NULL;

-- name: forget_failures!
-- Delete the tenant's failures and dead letters. Waits for replays of them, whose changes the next
-- query then sees.
DELETE FROM memory_pipeline.failure WHERE tenant = %(tenant)s;

-- name: forget_results!
-- Delete what verifies and workers have measured of the tenant.
WITH verified AS (DELETE FROM memory_pipeline.verification WHERE tenant = %(tenant)s)
DELETE FROM memory_pipeline.freshness WHERE tenant = %(tenant)s;

-- name: forget_external_ids!
-- Delete the ids under which the tenant's memories were imported.
DELETE FROM memory_pipeline.external_id WHERE tenant = %(tenant)s;

-- name: forget_changes_of!
-- Delete the tenant's changes. A memory and its change become visible together: a memory of this
-- snapshot gets a reset in place of its change, and a later one brings its own. By either the tenant
-- registers again.
WITH gone AS (
    DELETE FROM memory_pipeline.change WHERE tenant = %(tenant)s
)
INSERT INTO memory_pipeline.change (tenant, memory_id)
SELECT %(tenant)s, NULL
WHERE EXISTS (
    SELECT FROM public.memory_logs m
    WHERE memory_pipeline.tenant_of(m.user_id::text, m.project_id::text) = %(tenant)s
);

-- name: deregister_tenant!
-- Delete the tenant's registration, with its lease.
DELETE FROM memory_pipeline.tenant WHERE tenant = %(tenant)s;

-- name: fenced!
-- Record that the tenant is out of the registry, and for how long a late request may land.
UPDATE memory_pipeline.erasure
SET fenced_at = clock_timestamp(), tried_at = clock_timestamp(),
    settles_at = clock_timestamp() + make_interval(secs => %(wait_seconds)s)
WHERE tenant = %(tenant)s;

-- name: forget_orphaned_provenance!
-- Delete the backed-up vectors, and the provenance, of memories that are gone, of whatever tenant.
WITH vectors AS (
    DELETE FROM memory_pipeline.vector_backup b
    WHERE NOT EXISTS (SELECT FROM public.memory_logs m WHERE m.id = b.memory_id)
)
DELETE FROM memory_pipeline.provenance p
WHERE NOT EXISTS (SELECT FROM public.memory_logs m WHERE m.id = p.memory_id);

-- name: erased_generations
-- Return the generations of forgotten registrations whose collections may still exist.
SELECT g.id, g.tenant, g.server, g.collection_id, g.model, g.config_hash, g.state
FROM memory_pipeline.generation g
WHERE g.tenant = %(tenant)s AND g.erase AND g.dropped_at IS NULL
ORDER BY g.created_at;

-- name: erased!
-- Delete the row of a forgotten generation whose collection is gone, and of those that the cleanup
-- has dropped.
DELETE FROM memory_pipeline.generation
WHERE tenant = %(tenant)s AND erase AND (id = %(id)s::uuid OR dropped_at IS NOT NULL);

-- name: erasures
-- Return the unfinished erasures, oldest first, with the memories that a tenant that is not fenced
-- still has, and how long a late request may land.
SELECT e.tenant, e.requested_at, e.fenced_at IS NOT NULL AS fenced,
       greatest(extract(epoch FROM e.settles_at - clock_timestamp()), 0)::float8 AS settles_seconds,
       CASE WHEN e.fenced_at IS NULL THEN (
           SELECT count(*) FROM public.memory_logs m
           WHERE memory_pipeline.tenant_of(m.user_id::text, m.project_id::text) = e.tenant
       ) ELSE 0 END AS memories, e.waits_for
FROM memory_pipeline.erasure e
WHERE (%(tenant)s::text IS NULL OR e.tenant = %(tenant)s::text)
  AND e.tried_at <= clock_timestamp() - make_interval(secs => %(idle_seconds)s)
ORDER BY e.requested_at;

-- name: postpone_erasure!
-- Record why an erasure is not finished.
UPDATE memory_pipeline.erasure SET waits_for = %(reason)s, tried_at = clock_timestamp()
WHERE tenant = %(tenant)s;

-- name: complete_erasure!
-- Delete an erasure once the tenant was fenced and none of its collections is left.
DELETE FROM memory_pipeline.erasure e
WHERE e.tenant = %(tenant)s AND e.fenced_at IS NOT NULL AND e.settles_at <= clock_timestamp()
  AND NOT EXISTS (
      SELECT FROM memory_pipeline.generation g WHERE g.tenant = e.tenant AND g.erase
  );

-- name: traces^
-- Count what stands of a tenant in each table, in one snapshot. What another tenant has just deleted
-- has a pending change, which takes the provenance and the vector along.
SELECT (SELECT count(*) FROM public.memory_logs m
        WHERE memory_pipeline.tenant_of(m.user_id::text, m.project_id::text) = %(tenant)s)
           AS memories,
       (SELECT count(*) FROM memory_pipeline.change WHERE tenant = %(tenant)s) AS changes,
       (SELECT count(*) FROM memory_pipeline.failure WHERE tenant = %(tenant)s) AS failures,
       (SELECT count(*) FROM memory_pipeline.provenance p
        WHERE NOT EXISTS (SELECT FROM public.memory_logs m WHERE m.id = p.memory_id)
          AND NOT EXISTS (SELECT FROM memory_pipeline.change c WHERE c.memory_id = p.memory_id))
           AS provenance,
       (SELECT count(*) FROM memory_pipeline.vector_backup b
        WHERE NOT EXISTS (SELECT FROM public.memory_logs m WHERE m.id = b.memory_id)
          AND NOT EXISTS (SELECT FROM memory_pipeline.change c WHERE c.memory_id = b.memory_id)) AS vectors,
       (SELECT count(*) FROM memory_pipeline.external_id WHERE tenant = %(tenant)s)
           AS external_ids,
       (SELECT count(*) FROM memory_pipeline.generation WHERE tenant = %(tenant)s) AS generations,
       (SELECT count(*) FROM memory_pipeline.rebuild WHERE tenant = %(tenant)s) AS rebuilds,
       (SELECT count(*) FROM memory_pipeline.verification WHERE tenant = %(tenant)s)
           AS verifications,
       (SELECT count(*) FROM memory_pipeline.freshness WHERE tenant = %(tenant)s) AS freshness,
       (SELECT count(*) FROM memory_pipeline.tenant WHERE tenant = %(tenant)s) AS registrations,
       (SELECT count(*) FROM memory_pipeline.erasure WHERE tenant = %(tenant)s) AS erasures;

-- name: empty_tenants
-- Return tenants that have a collection, and for so long no memory and nothing to sync. Read once
-- over the whole table: a scan for each tenant would cost more.
SELECT t.tenant
FROM memory_pipeline.tenant t
JOIN memory_pipeline.generation g ON g.id = t.live AND g.state = 'live'
LEFT JOIN (
    SELECT DISTINCT memory_pipeline.tenant_of(user_id::text, project_id::text) AS tenant
    FROM public.memory_logs
) AS held ON held.tenant = t.tenant
WHERE held.tenant IS NULL AND t.building IS NULL
  AND coalesce(t.last_synced_at, t.registered_at)
      <= clock_timestamp() - make_interval(secs => %(seconds)s)
  AND NOT EXISTS (SELECT FROM memory_pipeline.change c WHERE c.tenant = t.tenant)
  AND NOT EXISTS (SELECT FROM memory_pipeline.failure f WHERE f.tenant = t.tenant)
ORDER BY t.last_synced_at LIMIT %(limit)s;

-- name: retire_empty$
-- Retire the collection of a tenant without memories, only under the token of its lease, and only
-- while nothing is pending, nothing failed and no rebuild is to come. A memory that commits after
-- this snapshot has a change that stays: its sync begins a new collection.
WITH mine AS (
    UPDATE memory_pipeline.tenant t SET live = NULL
    FROM memory_pipeline.tenant before
    JOIN memory_pipeline.generation g ON g.id = before.live AND g.state = 'live'
    WHERE before.tenant = t.tenant AND t.tenant = %(tenant)s
      AND t.lease_token = %(token)s AND t.lease_until > clock_timestamp()
      AND t.building IS NULL
      AND NOT EXISTS (SELECT FROM memory_pipeline.change c WHERE c.tenant = t.tenant)
      AND NOT EXISTS (SELECT FROM memory_pipeline.truncation)
      AND NOT EXISTS (SELECT FROM memory_pipeline.failure f WHERE f.tenant = t.tenant)
      AND NOT EXISTS (
          SELECT FROM memory_pipeline.rebuild r
          WHERE r.tenant = t.tenant AND r.state IN ('waiting', 'running')
      )
      AND NOT EXISTS (
          SELECT FROM public.memory_logs m
          WHERE memory_pipeline.tenant_of(m.user_id::text, m.project_id::text) = t.tenant
      )
    RETURNING before.live AS old
), retired AS (
    UPDATE memory_pipeline.generation SET state = 'retired', ended_at = clock_timestamp()
    FROM mine WHERE id = mine.old
)
SELECT count(*) FROM mine;
