-- Rebuilds. A query that writes a tenant's part names its owner; a query that writes a generation,
-- or records that it was written, names the token of the tenant's lease.

-- name: request_rebuild!
-- Record which tenants a rebuild is for; parts that exist stay as they are. Not for a tenant that was
-- forgotten meanwhile.
INSERT INTO memory_pipeline.rebuild (id, tenant, re_embed)
SELECT %(id)s, t.tenant, %(re_embed)s FROM (
    SELECT tenant FROM memory_pipeline.tenant WHERE tenant = ANY(%(tenants)s::text[])
    ORDER BY tenant FOR KEY SHARE
) AS t
ON CONFLICT (id, tenant) DO NOTHING;

-- name: fail_dead_parts!
-- Close the tenant's part in another rebuild whose process is gone.
UPDATE memory_pipeline.rebuild
SET state = 'failed', ended_at = clock_timestamp(), error = 'its process ended; another rebuild took over'
WHERE tenant = %(tenant)s AND id <> %(id)s AND state = 'running' AND owned_until <= clock_timestamp();

-- name: acquire_part^
-- Become the owner of a tenant's part in a rebuild; no row where the part is done or has another
-- owner.
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
-- Return the state of a tenant's part in a rebuild.
SELECT state FROM memory_pipeline.rebuild WHERE id = %(id)s AND tenant = %(tenant)s;

-- name: checkpoint^
-- Return how far the building generation was filled, by all rebuilds that filled it: each continued
-- where the one before had stopped. Its vectors are new if every one of them computed them again.
SELECT max(r.through) AS through, bool_and(r.re_embed) AS re_embed
FROM memory_pipeline.rebuild r
WHERE r.tenant = %(tenant)s AND r.generation = %(generation)s
HAVING count(*) > 0;

-- name: renew_part!
-- Extend the ownership of a part, only as its owner.
UPDATE memory_pipeline.rebuild
SET owned_until = clock_timestamp() + make_interval(secs => %(seconds)s)
WHERE id = %(id)s AND tenant = %(tenant)s AND owner = %(owner)s AND state = 'running';

-- name: resume_part!
-- Continue the generation that was being filled from its checkpoint; only as the owner.
UPDATE memory_pipeline.rebuild SET generation = %(generation)s, through = %(through)s
WHERE id = %(id)s AND tenant = %(tenant)s AND owner = %(owner)s AND state = 'running';

-- name: register_building$
-- Make a generation the tenant's building one, only under the token of its lease, as the owner of
-- the part, and while its server is not retired: from this commit on every batch writes it too.
-- Where no live generation is usable, no pending change is needed before the flip: reading the rows
-- covers it. (Not a claimed change: its request may still reach Chroma.) begun serialises with a
-- concurrent retire_server; mine is the fenced pointer, and the other CTEs run only if it changed a
-- row.
WITH begun AS MATERIALIZED (
    -- Serialises with a concurrent retire_server: whichever locks the row first runs first.
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
-- Return whether this token may write this generation for this owner.
SELECT EXISTS (
    SELECT FROM memory_pipeline.tenant t
    JOIN memory_pipeline.rebuild r ON r.tenant = t.tenant AND r.id = %(id)s
    WHERE t.tenant = %(tenant)s AND t.lease_token = %(token)s AND t.lease_until > clock_timestamp()
      AND t.building = %(generation)s AND r.owner = %(owner)s AND r.state = 'running'
);

-- name: return_lease!
-- Release the lease, only under its token; records no sync.
UPDATE memory_pipeline.tenant SET lease_until = NULL, lease_owner = NULL
WHERE tenant = %(tenant)s AND lease_token = %(token)s;

-- name: record_chunk!
-- Record a chunk as done and release the lease; only under the token that wrote the chunk, while
-- the generation is the building one, and as the owner.
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

-- name: release_part!
-- Leave a tenant's part to the process that continues the rebuild; only as the owner.
UPDATE memory_pipeline.rebuild SET state = 'waiting', owner = NULL, owned_until = NULL
WHERE id = %(id)s AND tenant = %(tenant)s AND owner = %(owner)s AND state = 'running';

-- name: fail_part!
-- Close a tenant's part that did not succeed; only as the owner. The generation stays for the next
-- attempt.
UPDATE memory_pipeline.rebuild
SET state = 'failed', error = %(error)s, ended_at = clock_timestamp()
WHERE id = %(id)s AND tenant = %(tenant)s AND owner = %(owner)s AND state = 'running';

-- name: unfinished^
-- Return the newest rebuild whose id starts with the prefix and that was cut off.
SELECT id, bool_or(re_embed) AS re_embed FROM memory_pipeline.rebuild
WHERE starts_with(id, %(prefix)s)
GROUP BY id HAVING bool_or(state IN ('waiting', 'running'))
ORDER BY max(requested_at) DESC LIMIT 1;

-- name: progress^
-- Count the tenants of a rebuild by state, and the documents written for them.
SELECT count(*) AS tenants,
       count(*) FILTER (WHERE state = 'done') AS done,
       count(*) FILTER (WHERE state = 'failed') AS failed,
       coalesce(sum(written), 0)::bigint AS written,
       coalesce(sum(reused), 0)::bigint AS reused,
       coalesce(sum(embedded), 0)::bigint AS embedded
FROM memory_pipeline.rebuild WHERE id = %(id)s;

-- name: last_rebuilds
-- Return the newest ended rebuild of each of these tenants that has one.
SELECT DISTINCT ON (tenant) tenant, state, ended_at, error
FROM memory_pipeline.rebuild
WHERE tenant = ANY(%(tenants)s::text[]) AND state IN ('done', 'failed')
ORDER BY tenant, ended_at DESC;
