-- Rebuilds. Whoever writes a tenant's row names itself as its owner; whoever writes a generation, or
-- says that it was written, names the token of the tenant's lease.

-- name: request_rebuild!
-- Note which tenants a rebuild is for; those it knows already stay as they are.
INSERT INTO memory_pipeline.rebuild (id, tenant, re_embed)
SELECT %(id)s, t, %(re_embed)s FROM unnest(%(tenants)s::text[]) AS t
ON CONFLICT (id, tenant) DO NOTHING;

-- name: fail_dead_parts!
-- Close the tenant's part in another rebuild whose process is gone.
UPDATE memory_pipeline.rebuild
SET state = 'failed', ended_at = clock_timestamp(), error = 'its process ended; another rebuild took over'
WHERE tenant = %(tenant)s AND id <> %(id)s AND state = 'running' AND owned_until <= clock_timestamp();

-- name: acquire_part^
-- Become the owner of a tenant's part in a rebuild; nothing where it is done or somebody else's.
UPDATE memory_pipeline.rebuild r
SET state = 'running', owner = %(owner)s, error = NULL, ended_at = NULL,
    started_at = coalesce(started_at, clock_timestamp()),
    owned_until = clock_timestamp() + make_interval(secs => %(seconds)s)
WHERE r.id = %(id)s AND r.tenant = %(tenant)s
  AND (r.state IN ('waiting', 'failed')
       OR r.state = 'running' AND r.owned_until <= clock_timestamp())
  AND NOT EXISTS (
      SELECT FROM memory_pipeline.rebuild o
      WHERE o.tenant = r.tenant AND o.id <> r.id AND o.state = 'running'
  )
RETURNING r.re_embed;

-- name: part_state$
-- Tell how far a rebuild is with a tenant.
SELECT state FROM memory_pipeline.rebuild WHERE id = %(id)s AND tenant = %(tenant)s;

-- name: checkpoint^
-- Tell how far the generation that is building was filled, by whomever: each went on where another
-- was. Its vectors are new where all of them have computed them anew.
SELECT max(r.through) AS through, bool_and(r.re_embed) AS re_embed
FROM memory_pipeline.rebuild r
WHERE r.tenant = %(tenant)s AND r.generation = %(generation)s
HAVING count(*) > 0;

-- name: renew_part!
-- Go on being the owner.
UPDATE memory_pipeline.rebuild
SET owned_until = clock_timestamp() + make_interval(secs => %(seconds)s)
WHERE id = %(id)s AND tenant = %(tenant)s AND owner = %(owner)s AND state = 'running';

-- name: resume_part!
-- Go on with the generation that was being filled, from where that ended; only as the owner.
UPDATE memory_pipeline.rebuild SET generation = %(generation)s, through = %(through)s
WHERE id = %(id)s AND tenant = %(tenant)s AND owner = %(owner)s AND state = 'running';

-- name: register_building$
-- Make a generation the tenant's building one, only under the token of its lease, as the owner and
-- while the server that it was begun on is not given up:
-- from here on every batch writes it too. Where no live generation is usable, nobody needs the
-- changes that wait before the flip: reading the rows covers them. (Not those that were claimed:
-- a request for them may still be on its way.)
WITH begun AS MATERIALIZED (
    -- Who gives it up at this moment is waited for, or waits.
    SELECT g.id FROM memory_pipeline.generation g WHERE g.id = %(generation)s AND g.state = 'new'
    FOR UPDATE
), mine AS (
    UPDATE memory_pipeline.tenant t SET building = begun.id
    FROM begun
    WHERE t.tenant = %(tenant)s AND t.building IS NULL
      AND t.lease_token = %(token)s AND t.lease_until > clock_timestamp()
      AND EXISTS (
          SELECT FROM memory_pipeline.rebuild r
          WHERE r.id = %(id)s AND r.tenant = t.tenant AND r.owner = %(owner)s AND r.state = 'running'
      )
    RETURNING t.tenant, t.live
), named AS (
    UPDATE memory_pipeline.generation SET state = 'building', collection_id = %(collection_id)s
    WHERE id = %(generation)s AND EXISTS (SELECT FROM mine)
), noted AS (
    UPDATE memory_pipeline.rebuild SET generation = %(generation)s, through = NULL
    WHERE id = %(id)s AND tenant = %(tenant)s AND EXISTS (SELECT FROM mine)
), covered AS (
    UPDATE memory_pipeline.change c SET covered_by = %(generation)s
    FROM mine
    WHERE c.tenant = mine.tenant AND c.claim_token IS NULL AND NOT c.confirm
      AND NOT EXISTS (
          SELECT FROM memory_pipeline.generation g WHERE g.id = mine.live AND g.state = 'live'
      )
)
SELECT count(*) FROM mine;

-- name: may_fill$
-- Say whether this token may write this generation for this owner.
SELECT EXISTS (
    SELECT FROM memory_pipeline.tenant t
    JOIN memory_pipeline.rebuild r ON r.tenant = t.tenant AND r.id = %(id)s
    WHERE t.tenant = %(tenant)s AND t.lease_token = %(token)s AND t.lease_until > clock_timestamp()
      AND t.building = %(generation)s AND r.owner = %(owner)s AND r.state = 'running'
);

-- name: return_lease!
-- Give the lease back, only under its token; says nothing of a sync.
UPDATE memory_pipeline.tenant SET lease_until = NULL, lease_owner = NULL
WHERE tenant = %(tenant)s AND lease_token = %(token)s;

-- name: record_chunk!
-- Record a chunk as done and give the lease back; only under the token that wrote it, while the
-- generation is the building one, and as the owner.
WITH mine AS (
    UPDATE memory_pipeline.tenant t SET lease_until = NULL, lease_owner = NULL
    WHERE t.tenant = %(tenant)s AND t.lease_token = %(token)s AND t.lease_until > clock_timestamp()
      AND t.building = %(generation)s
    RETURNING t.tenant
)
UPDATE memory_pipeline.rebuild
SET through = %(through)s, written = written + %(written)s, reused = reused + %(reused)s,
    embedded = embedded + %(embedded)s,
    owned_until = clock_timestamp() + make_interval(secs => %(seconds)s)
WHERE id = %(id)s AND tenant = %(tenant)s AND owner = %(owner)s AND state = 'running'
  AND EXISTS (SELECT FROM mine);

-- name: flip$
-- Make the building generation the live one, give the lease back, retire the old one, ack what the
-- rebuild has covered, close its part: one statement, only under the token, only while this very
-- generation is the building one, and as the owner.
WITH mine AS (
    UPDATE memory_pipeline.tenant t
    SET live = %(generation)s, building = NULL, lease_until = NULL, lease_owner = NULL,
        retry_at = NULL, retries = 0, last_error = NULL, last_synced_at = statement_timestamp()
    FROM memory_pipeline.tenant before
    WHERE before.tenant = t.tenant AND t.tenant = %(tenant)s
      AND t.lease_token = %(token)s AND t.lease_until > clock_timestamp()
      AND t.building = %(generation)s
      AND EXISTS (
          SELECT FROM memory_pipeline.rebuild r
          WHERE r.id = %(id)s AND r.tenant = t.tenant AND r.owner = %(owner)s AND r.state = 'running'
      )
    RETURNING t.tenant, before.live AS old
), retired AS (
    UPDATE memory_pipeline.generation g
    SET state = CASE g.state WHEN 'live' THEN 'retired' ELSE g.state END,
        ended_at = clock_timestamp()
    FROM mine WHERE g.id = mine.old
), risen AS (
    UPDATE memory_pipeline.generation SET state = 'live', memories = %(memories)s
    WHERE id = %(generation)s AND EXISTS (SELECT FROM mine)
), acked AS (
    DELETE FROM memory_pipeline.change c USING mine
    WHERE c.tenant = mine.tenant AND c.covered_by = %(generation)s AND c.claim_token IS NULL
), closed AS (
    UPDATE memory_pipeline.rebuild SET state = 'done', ended_at = statement_timestamp()
    WHERE id = %(id)s AND tenant = %(tenant)s AND EXISTS (SELECT FROM mine)
)
SELECT count(*) FROM mine;

-- name: release_part!
-- Leave a tenant's part to whoever goes on with the rebuild; only as the owner.
UPDATE memory_pipeline.rebuild SET state = 'waiting', owner = NULL, owned_until = NULL
WHERE id = %(id)s AND tenant = %(tenant)s AND owner = %(owner)s AND state = 'running';

-- name: fail_part!
-- Close a tenant's part in a rebuild that did not end well; only as the owner. What was filled stays
-- for the next attempt.
UPDATE memory_pipeline.rebuild
SET state = 'failed', error = %(error)s, ended_at = clock_timestamp()
WHERE id = %(id)s AND tenant = %(tenant)s AND owner = %(owner)s AND state = 'running';

-- name: unfinished^
-- Tell the newest rebuild whose id begins so and that did not get to an end.
SELECT id, bool_or(re_embed) AS re_embed FROM memory_pipeline.rebuild
WHERE starts_with(id, %(prefix)s)
GROUP BY id HAVING bool_or(state IN ('waiting', 'running'))
ORDER BY max(requested_at) DESC LIMIT 1;

-- name: progress^
-- Count the tenants of a rebuild by state, and what was written for them.
SELECT count(*) AS tenants,
       count(*) FILTER (WHERE state = 'done') AS done,
       count(*) FILTER (WHERE state = 'failed') AS failed,
       coalesce(sum(written), 0)::bigint AS written,
       coalesce(sum(reused), 0)::bigint AS reused,
       coalesce(sum(embedded), 0)::bigint AS embedded
FROM memory_pipeline.rebuild WHERE id = %(id)s;

-- name: last_rebuilds
-- Tell the newest ended rebuild of each of these tenants that has one.
SELECT DISTINCT ON (tenant) tenant, state, ended_at, error
FROM memory_pipeline.rebuild
WHERE tenant = ANY(%(tenants)s::text[]) AND state IN ('done', 'failed')
ORDER BY tenant, ended_at DESC;
