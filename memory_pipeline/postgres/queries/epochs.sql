-- Epochs: the trace that shows that Postgres went back in time, and what follows then.

-- name: database_place^
-- Return what every role may read of where this database is, and whether this one may read the rest:
-- every role may, unless the right was revoked.
SELECT (SELECT oid FROM pg_database WHERE datname = current_database())::bigint AS oid,
       current_database()::text AS name,
       to_regclass('memory_pipeline.change')::oid::bigint AS outbox,
       has_function_privilege('pg_control_system()', 'EXECUTE') AS may_read_system,
       has_function_privilege('pg_walfile_name(pg_lsn)', 'EXECUTE')
         AND has_function_privilege('pg_current_wal_lsn()', 'EXECUTE') AS may_read_timeline;

-- name: system_identifier$
-- Return the system identifier of this server.
SELECT system_identifier::text FROM pg_control_system();

-- name: timeline$
-- Return the timeline that this server writes.
SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint;

-- name: newest_epoch^
-- Return where this database was when it began its newest epoch.
SELECT database_id, timeline, outbox FROM memory_pipeline.epoch ORDER BY number DESC LIMIT 1;

-- name: newest_epoch_of^
-- Return where a database was when it began its newest epoch: this one, or the one that it was
-- copied from.
SELECT database_id, timeline, outbox FROM memory_pipeline.epoch
WHERE database_id = %(database_id)s ORDER BY number DESC LIMIT 1;

-- name: neighbours
-- Return the databases of this server that have one of these oids or names.
SELECT oid::bigint AS oid, datname::text AS name FROM pg_database
WHERE oid = ANY(%(oids)s::oid[]) OR datname = ANY(%(names)s::text[]);

-- name: known_nonces
-- Return which of these nonces are epochs of this database, or raised the alarm before.
SELECT nonce FROM memory_pipeline.epoch WHERE nonce = ANY(%(nonces)s::uuid[])
UNION
SELECT nonce FROM memory_pipeline.rollback_sign WHERE nonce = ANY(%(nonces)s::uuid[]);

-- name: newest_rollback_sign$
-- Return the number of the newest rollback sign; 0 where there is none.
SELECT coalesce(max(number), 0) FROM memory_pipeline.rollback_sign;

-- name: lock_epochs!
-- Serialise the transactions that record a rollback sign or begin an epoch.
SELECT FROM memory_pipeline.installation FOR UPDATE;

-- name: record_rollback_sign!
-- Record a sign that this database went back in time.
INSERT INTO memory_pipeline.rollback_sign (reason, nonce) VALUES (%(reason)s, %(nonce)s);

-- name: begin_epoch$
-- Begin an epoch; return its nonce.
INSERT INTO memory_pipeline.epoch (database_id, timeline, outbox)
VALUES (%(database_id)s, %(timeline)s, %(outbox)s)
RETURNING nonce;

-- name: epoch_is_due$
-- Return whether the newest epoch is at least that old, or there is none. One that begins in the
-- future is from before the clock was set back.
SELECT NOT EXISTS (
    SELECT FROM memory_pipeline.epoch
    WHERE begun_at BETWEEN clock_timestamp() - make_interval(secs => %(seconds)s)
                       AND clock_timestamp()
);

-- name: delete_old_epochs!
-- Delete all but the newest epochs. A server that was away for longer is proven when it is back.
DELETE FROM memory_pipeline.epoch
WHERE number <= (SELECT max(number) FROM memory_pipeline.epoch) - %(kept)s::bigint;

-- name: mark_all_unproven!
-- Enqueue a reset of every tenant; a tenant is unproven until its reset is done. Not before every
-- request that a worker of the forgotten state sent has been applied or has timed out: no change
-- records those.
WITH moved AS (
    UPDATE memory_pipeline.change
    SET not_before = clock_timestamp() + make_interval(secs => %(wait_seconds)s)
    WHERE unproven AND memory_id IS NULL AND claim_token IS NULL
    RETURNING tenant
)
INSERT INTO memory_pipeline.change (tenant, memory_id, not_before, unproven)
SELECT t.tenant, NULL, clock_timestamp() + make_interval(secs => %(wait_seconds)s), true
FROM memory_pipeline.tenant t
WHERE NOT EXISTS (SELECT FROM moved WHERE moved.tenant = t.tenant);

-- name: raise_tokens!
-- Raise every lease token by a trillion, above all that the forgotten state can have issued: a
-- worker that holds one of those is fenced, and no token is ever issued twice. A lease that is
-- valid expires by itself.
WITH later AS (
    -- Beyond them, too: registrations that the forgotten state made and this one does not know.
    UPDATE memory_pipeline.installation SET registrations = registrations + (1 << 20)
)
UPDATE memory_pipeline.tenant SET lease_token = lease_token + (1::bigint << 40);

-- name: record_stamp!
-- Record that a server's marker was written by this database.
UPDATE memory_pipeline.server SET database_id = %(database_id)s WHERE id = %(id)s AND database_id IS DISTINCT FROM %(database_id)s;

-- name: take_over!
-- Allow the use of servers whose markers another database wrote last.
UPDATE memory_pipeline.server SET database_id = NULL WHERE database_id IS NOT NULL;

-- name: unproven
-- Return every tenant that is not proven yet, and since when.
SELECT tenant, min(changed_at) AS since FROM memory_pipeline.change WHERE unproven GROUP BY tenant;

-- name: seconds_to_wait$
-- Return how long some unproven tenant cannot be compared yet, because of requests that may still
-- arrive.
SELECT coalesce(greatest(0, max(extract(epoch FROM not_before - clock_timestamp()))), 0)::float8
FROM memory_pipeline.change WHERE unproven AND memory_id IS NULL;

-- name: recent_rollback_signs
-- Return the recent signs that this database went back, newest first.
SELECT reason, noticed_at FROM memory_pipeline.rollback_sign
WHERE noticed_at > clock_timestamp() - make_interval(secs => %(seconds)s)
ORDER BY number DESC;

-- name: last_rollback_sign^
-- Return the newest sign that this database went back.
SELECT reason, noticed_at FROM memory_pipeline.rollback_sign ORDER BY number DESC LIMIT 1;

-- name: sweep_is_due$
-- Return whether collections of a forgotten state may be dropped: the newest sign is old enough,
-- and no sweep was completed since.
SELECT coalesce(bool_or(swept_at IS NULL)
                AND max(noticed_at) < clock_timestamp() - make_interval(secs => %(seconds)s), false)
FROM memory_pipeline.rollback_sign;

-- name: record_sweep!
-- Record that no collection of a forgotten state is left.
UPDATE memory_pipeline.rollback_sign SET swept_at = clock_timestamp() WHERE swept_at IS NULL;

-- name: known_generations
-- Return which of these generations the registry knows.
SELECT id FROM memory_pipeline.generation WHERE id = ANY(%(ids)s::uuid[]);
