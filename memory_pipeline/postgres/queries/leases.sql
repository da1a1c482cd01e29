-- Leases: one writer a tenant, on Postgres' clock. The token only grows.

-- name: acquire_lease^
-- Take the lease if nobody holds it; tell the new token and how often in a row it was in vain, or nothing. Nor is it waited for whoever
-- has the row locked: one that was frozen between a lock and its commit would hold up everybody.
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
-- Extend the lease, only under its token and only while it stands.
UPDATE memory_pipeline.tenant
SET lease_until = clock_timestamp() + make_interval(secs => %(lease_seconds)s)
WHERE tenant = %(tenant)s AND lease_token = %(token)s AND lease_until > clock_timestamp();

-- name: release_lease!
-- Give the lease back after success, only under its token.
UPDATE memory_pipeline.tenant
SET lease_until = NULL, lease_owner = NULL, retry_at = NULL, retries = 0, last_error = NULL,
    last_synced_at = clock_timestamp()
WHERE tenant = %(tenant)s AND lease_token = %(token)s;

-- name: postpone!
-- Give the lease back after an error, only under its token; the pause doubles, with jitter.
UPDATE memory_pipeline.tenant
SET lease_until = NULL, lease_owner = NULL, retries = retries + 1, last_error = %(error)s,
    retry_at = clock_timestamp() + make_interval(secs =>
        least(%(retry_max_seconds)s, %(retry_seconds)s * power(2, least(retries, 16)))
        * (0.75 + random() / 2))
WHERE tenant = %(tenant)s AND lease_token = %(token)s;
