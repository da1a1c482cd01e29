-- Times that Postgres wrote before its clock was set back. Each query leaves alone what any process
-- of an installation can have written by the present clock. SKIP LOCKED: a process that is frozen
-- in a transaction must not block this one; what is skipped is shortened by the next process.

-- name: postgres_time$
-- Return Postgres' clock, in seconds since 1970.
SELECT extract(epoch FROM clock_timestamp())::float8;

-- name: shorten_leases!
-- Let each lease that ends too far ahead last as long as one that is taken now. A living holder
-- renews it; that of a dead one expires.
UPDATE memory_pipeline.tenant
SET lease_until = clock_timestamp() + make_interval(secs => %(lease_seconds)s)
WHERE tenant IN (
    SELECT t.tenant FROM memory_pipeline.tenant t
    WHERE t.lease_until > clock_timestamp() + make_interval(secs => %(too_far_seconds)s)
    FOR NO KEY UPDATE SKIP LOCKED
);

-- name: shorten_pauses!
-- Let each back-off that ends too far ahead last as long as one that begins now.
UPDATE memory_pipeline.tenant
SET retry_at = clock_timestamp() + make_interval(secs => %(wait_seconds)s)
WHERE tenant IN (
    SELECT t.tenant FROM memory_pipeline.tenant t
    WHERE t.retry_at > clock_timestamp() + make_interval(secs => %(too_far_seconds)s)
    FOR NO KEY UPDATE SKIP LOCKED
);

-- name: shorten_ownerships!
-- Let each ownership of a rebuild part that ends too far ahead last as long as one that begins now.
UPDATE memory_pipeline.rebuild
SET owned_until = clock_timestamp() + make_interval(secs => %(wait_seconds)s)
WHERE (id, tenant) IN (
    SELECT r.id, r.tenant FROM memory_pipeline.rebuild r
    WHERE r.state = 'running'
      AND r.owned_until > clock_timestamp() + make_interval(secs => %(too_far_seconds)s)
    FOR NO KEY UPDATE SKIP LOCKED
);

-- name: shorten_waits!
-- Let each change that is due too far ahead wait as long as one that is scheduled now, which is
-- never less than its requests under way may take; and let no change be younger than this moment,
-- so that the age of each grows.
UPDATE memory_pipeline.change c
SET changed_at = least(c.changed_at, clock_timestamp()),
    not_before = CASE
        WHEN c.not_before > clock_timestamp() + make_interval(secs => %(too_far_seconds)s)
        THEN clock_timestamp() + make_interval(secs => %(wait_seconds)s)
        ELSE c.not_before END
WHERE (c.tenant, c.seq) IN (
    SELECT f.tenant, f.seq FROM memory_pipeline.change f
    WHERE f.changed_at > clock_timestamp()
       OR f.not_before > clock_timestamp() + make_interval(secs => %(too_far_seconds)s)
    FOR UPDATE SKIP LOCKED
);
