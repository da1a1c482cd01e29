-- Workers and the freshness that they measure.

-- name: heartbeat!
-- Record that a worker is alive, and since when its reports to Dagster fail; delete workers that
-- have not done so for a day.
WITH forgotten AS (
    DELETE FROM memory_pipeline.worker
    WHERE id <> %(id)s AND heartbeat_at < clock_timestamp() - interval '1 day'
)
INSERT INTO memory_pipeline.worker AS w (
    id, host, pid, version, quiet_seconds, unreported_tenants, report_failure, report_failing_since
)
VALUES (%(id)s, %(host)s, %(pid)s, %(version)s, %(quiet_seconds)s, %(unreported_tenants)s,
        %(report_failure)s::text,
        CASE WHEN %(report_failure)s::text IS NOT NULL THEN clock_timestamp() END)
ON CONFLICT (id) DO UPDATE SET
    heartbeat_at = clock_timestamp(),
    quiet_seconds = EXCLUDED.quiet_seconds,
    unreported_tenants = EXCLUDED.unreported_tenants,
    report_failure = EXCLUDED.report_failure,
    report_failing_since = CASE WHEN EXCLUDED.report_failure IS NOT NULL
        THEN coalesce(w.report_failing_since, EXCLUDED.report_failing_since) END;

-- name: deregister!
-- Delete a worker that ends.
DELETE FROM memory_pipeline.worker WHERE id = %(id)s;

-- name: workers
-- Return every worker with a recent heartbeat: one that rests has said for how long. One of the
-- future is from before the clock was set back: a worker that lives writes another within seconds.
SELECT id, host, pid, version, started_at,
       greatest(0, extract(epoch FROM clock_timestamp() - heartbeat_at))::float8 AS silent_seconds,
       quiet_seconds, unreported_tenants, report_failure,
       coalesce(greatest(0, extract(epoch FROM clock_timestamp() - report_failing_since)), 0)::float8
           AS report_failing_seconds
FROM memory_pipeline.worker
WHERE heartbeat_at BETWEEN clock_timestamp() - make_interval(secs => %(seconds)s + quiet_seconds)
                       AND clock_timestamp() + make_interval(secs => %(seconds)s)
ORDER BY started_at;

-- name: record_freshness!
-- Store how fresh tenants are; tenant NULL is all of them. Not of a tenant that was forgotten since.
WITH registered AS MATERIALIZED (
    SELECT tenant FROM memory_pipeline.tenant WHERE tenant = ANY(%(tenants)s::text[])
    ORDER BY tenant FOR KEY SHARE
)
INSERT INTO memory_pipeline.freshness AS f (tenant, changes, p50, p95, p99, slowest)
SELECT m.* FROM unnest(%(tenants)s::text[], %(changes)s::int[], %(p50)s::float8[],
                       %(p95)s::float8[], %(p99)s::float8[], %(slowest)s::float8[])
    AS m (tenant, changes, p50, p95, p99, slowest)
WHERE m.tenant IS NULL OR m.tenant IN (SELECT tenant FROM registered)
ON CONFLICT (tenant) DO UPDATE SET
    measured_at = clock_timestamp(), changes = EXCLUDED.changes, p50 = EXCLUDED.p50,
    p95 = EXCLUDED.p95, p99 = EXCLUDED.p99, slowest = EXCLUDED.slowest;

-- name: freshness
-- Return how fresh tenants were recently.
SELECT tenant, changes, p50, p95, p99, slowest FROM memory_pipeline.freshness
WHERE measured_at BETWEEN clock_timestamp() - make_interval(secs => %(seconds)s)
                      AND clock_timestamp() + make_interval(secs => %(seconds)s)
  AND (%(tenants)s::text[] IS NULL OR tenant = ANY(%(tenants)s::text[]));

-- name: waits
-- Return for how many seconds the oldest change of each of these tenants has waited.
SELECT tenant,
       greatest(0, extract(epoch FROM clock_timestamp() - min(changed_at)))::float8 AS seconds
FROM memory_pipeline.change WHERE tenant = ANY(%(tenants)s::text[]) GROUP BY tenant;

-- name: resume_paused!
-- End the back-off of every tenant: the dependency is available again. A tenant that fails again
-- backs off again.
UPDATE memory_pipeline.tenant SET retry_at = NULL WHERE retry_at > clock_timestamp();

-- name: backlog^
-- Count the pending changes, their oldest age, the dead letters, the refused backups and the
-- unfinished erasures.
SELECT count(*) AS changes,
       coalesce(greatest(0, extract(epoch FROM clock_timestamp() - min(changed_at))), 0)::float8
           AS oldest_seconds,
       (SELECT count(*) FROM memory_pipeline.failure WHERE buried_at IS NOT NULL) AS dead_letters,
       (SELECT coalesce(sum(memories), 0)::bigint FROM memory_pipeline.backup_refusal)
           AS unbacked_memories,
       (SELECT count(*) FROM memory_pipeline.erasure) AS erasures
FROM memory_pipeline.change;
