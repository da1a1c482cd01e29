-- The flip: which generation a tenant's searches query. Each is one statement that names the token.

-- name: flip$
-- Make the building generation the live one, release the lease, retire the old generation, ack the
-- changes that the rebuild covered and close its part: one statement, only under the token, only
-- while this very generation is the building one, and as the owner. Every CTE but mine runs only if
-- mine moved the pointer.
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

-- name: flip_first!
-- Make a tenant's first generation live and enqueue a reset; only under the token of its lease, and
-- only while its server is not retired. Serialises with a concurrent retire_server: whichever locks
-- the row first runs first.
WITH begun AS MATERIALIZED (
    SELECT g.id FROM memory_pipeline.generation g WHERE g.id = %(id)s AND g.state = 'new'
    FOR UPDATE
), mine AS (
    UPDATE memory_pipeline.tenant SET live = begun.id
    FROM begun
    WHERE tenant = %(tenant)s AND live IS NULL AND building IS NULL AND lease_token = %(token)s
      AND lease_until > clock_timestamp()
    RETURNING tenant
), named AS (
    UPDATE memory_pipeline.generation SET collection_id = %(collection_id)s, state = 'live'
    WHERE id = %(id)s AND EXISTS (SELECT FROM mine)
)
INSERT INTO memory_pipeline.change (tenant, memory_id) SELECT tenant, NULL FROM mine;
