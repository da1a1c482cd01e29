-- Leases: one writer a tenant, on Postgres' clock. The token only grows.

-- name: acquire_lease^
-- Take the lease if it is free: return the new token and the number of consecutive failures, or no
-- row. SKIP LOCKED: a process frozen between locking the row and committing must not block the
-- other workers.
UPDATE memory_pipeline.tenant
SET lease_owner = %(owner)s,
    lease_token = lease_token + 1,
    lease_until = clock_timestamp() + make_interval(secs => %(lease_seconds)s)
WHERE tenant = (
    SELECT t.tenant FROM memory_pipeline.tenant t
    WHERE t.tenant = %(tenant)s AND (t.lease_until IS NULL OR t.lease_until <= clock_timestamp())
    FOR NO KEY UPDATE SKIP LOCKED
)
RETURNING lease_token, retries;

-- name: renew_lease!
-- Extend the lease, only under its token and only while it is valid.
UPDATE memory_pipeline.tenant
SET lease_until = clock_timestamp() + make_interval(secs => %(lease_seconds)s)
WHERE tenant = %(tenant)s AND lease_token = %(token)s AND lease_until > clock_timestamp();

-- name: lease_holder^
-- Return the holder of a tenant's valid lease; no row where there is none.
SELECT lease_owner, lease_token, lease_until FROM memory_pipeline.tenant
WHERE tenant = %(tenant)s AND lease_until > clock_timestamp();

-- name: release_lease!
-- Release the lease after success, only under its token.
UPDATE memory_pipeline.tenant
SET lease_until = NULL, lease_owner = NULL, retry_at = NULL, retries = 0, last_error = NULL,
    last_synced_at = clock_timestamp()
WHERE tenant = %(tenant)s AND lease_token = %(token)s;

-- name: postpone!
-- Release the lease after an error, only under its token; the pause doubles, with jitter.
UPDATE memory_pipeline.tenant
SET lease_until = NULL, lease_owner = NULL, retries = retries + 1, last_error = %(error)s,
    retry_at = clock_timestamp() + make_interval(secs =>
        least(%(retry_max_seconds)s, %(retry_seconds)s * power(2, least(retries, 16)))
        * (0.75 + random() / 2))
WHERE tenant = %(tenant)s AND lease_token = %(token)s;
