-- The registry: tenants, their generations and the Chroma servers that hold them.

-- name: partition_key$
-- Return a tenant's partition key; no row where the tenant is not registered.
SELECT partition_key FROM memory_pipeline.tenant WHERE tenant = %(tenant)s;

-- name: register$
-- Register a tenant under a partition key; no row where either is taken. Its tokens begin above
-- those of every registration before: a lease on a tenant that was forgotten since is void.
WITH numbered AS (
    UPDATE memory_pipeline.installation SET registrations = registrations + 1
    RETURNING registrations
)
INSERT INTO memory_pipeline.tenant (tenant, partition_key, lease_token)
SELECT %(tenant)s, %(partition_key)s, registrations << 32 FROM numbered
ON CONFLICT DO NOTHING
RETURNING partition_key;

-- name: register_pending$
-- Register a tenant as `register` does, but only while it has a pending change. The change is
-- locked: where a forgetting deletes it first, nothing is registered.
WITH pending AS MATERIALIZED (
    SELECT FROM memory_pipeline.change WHERE tenant = %(tenant)s LIMIT 1 FOR KEY SHARE
), numbered AS (
    UPDATE memory_pipeline.installation SET registrations = registrations + 1
    WHERE EXISTS (SELECT FROM pending)
    RETURNING registrations
)
INSERT INTO memory_pipeline.tenant (tenant, partition_key, lease_token)
SELECT %(tenant)s, %(partition_key)s, registrations << 32 FROM numbered
ON CONFLICT DO NOTHING
RETURNING partition_key;

-- name: has_changes$
-- Return whether a tenant has a change, whatever its state.
SELECT EXISTS (SELECT FROM memory_pipeline.change WHERE tenant = %(tenant)s);

-- name: partition_keys
-- Return every tenant with its partition key, in the order of registration.
SELECT tenant, partition_key FROM memory_pipeline.tenant ORDER BY registered_at, tenant;

-- name: generation^
-- Return one generation.
SELECT g.id, g.tenant, g.server, g.collection_id, g.model, g.config_hash, g.state
FROM memory_pipeline.generation g WHERE g.id = %(id)s;

-- name: live_generation^
-- Return the generation that a tenant's searches query, by one indexed read.
SELECT g.id, g.tenant, g.server, g.collection_id, g.model, g.config_hash, g.state
FROM memory_pipeline.tenant t JOIN memory_pipeline.generation g ON g.id = t.live
WHERE t.tenant = %(tenant)s;

-- name: building_generation^
-- Return the generation that a rebuild fills for a tenant.
SELECT g.id, g.tenant, g.server, g.collection_id, g.model, g.config_hash, g.state
FROM memory_pipeline.tenant t JOIN memory_pipeline.generation g ON g.id = t.building
WHERE t.tenant = %(tenant)s;

-- name: serves_others$
-- Return whether other tenants of this server were synced recently: their small writes wait for
-- large ones. The end of a rebuild is no sync.
SELECT EXISTS (
    SELECT FROM memory_pipeline.tenant t JOIN memory_pipeline.generation g ON g.id = t.live
    WHERE g.server = %(server)s AND t.tenant <> %(tenant)s
      AND t.last_synced_at BETWEEN clock_timestamp() - make_interval(secs => %(seconds)s)
                               AND clock_timestamp()
      AND NOT EXISTS (
          SELECT FROM memory_pipeline.rebuild r
          WHERE r.tenant = t.tenant AND r.ended_at = t.last_synced_at
      )
);

-- name: is_being_filled$
-- Return whether a rebuild whose owner is alive fills this generation.
SELECT EXISTS (
    SELECT FROM memory_pipeline.rebuild r
    WHERE r.generation = %(id)s AND r.state = 'running' AND r.owned_until > clock_timestamp()
);

-- name: begin_generation!
-- Record a generation before its collection is created, so that no collection is ever unknown. Not
-- on a retired server, and not for a tenant that was forgotten. Serialises with a concurrent
-- retire_server and with a forgetting: whichever locks its row first runs first.
INSERT INTO memory_pipeline.generation (id, tenant, server, model, config_hash, memories)
SELECT %(id)s, t.tenant, s.id, %(model)s, %(config_hash)s, %(memories)s
FROM memory_pipeline.server s CROSS JOIN memory_pipeline.tenant t
WHERE s.id = %(server)s AND s.state <> 'retired' AND t.tenant = %(tenant)s
FOR SHARE OF s FOR KEY SHARE OF t;

-- name: is_registered$
-- Return whether a tenant is registered.
SELECT EXISTS (SELECT FROM memory_pipeline.tenant WHERE tenant = %(tenant)s);

-- name: abandon!
-- Stop writing a generation; only under the token of the tenant's lease. A live generation is
-- damaged: searches still query it. Where no generation is live, acked documents were in the
-- building one alone: a reset writes them again.
WITH mine AS (
    UPDATE memory_pipeline.tenant t SET building = nullif(t.building, %(id)s)
    FROM memory_pipeline.tenant before
    WHERE before.tenant = t.tenant AND t.tenant = %(tenant)s
      AND t.lease_token = %(token)s AND t.lease_until > clock_timestamp()
    RETURNING t.tenant, t.live IS NULL AND before.building = %(id)s AS all_of_it
), again AS (
    INSERT INTO memory_pipeline.change (tenant, memory_id)
    SELECT tenant, NULL FROM mine WHERE all_of_it
)
UPDATE memory_pipeline.generation
SET state = CASE state WHEN 'live' THEN 'corrupt' ELSE 'abandoned' END,
    ended_at = clock_timestamp()
WHERE id = %(id)s AND EXISTS (SELECT FROM mine);

-- name: damaged_tenants
-- Return every tenant whose live generation is damaged or lost and that no rebuild is working on; a
-- tenant that was damaged too often within the hour is left to an operator. A tenant whose very
-- first generation was left half-built by a rebuild counts too: its pending changes are covered by
-- that generation, and nothing is live.
SELECT t.tenant, t.partition_key
FROM memory_pipeline.tenant t
LEFT JOIN memory_pipeline.generation g ON g.id = t.live
WHERE (g.state IN ('corrupt', 'lost') OR t.live IS NULL AND t.building IS NOT NULL)
  AND NOT EXISTS (
          SELECT FROM memory_pipeline.rebuild r
          WHERE r.tenant = t.tenant AND r.state = 'running' AND r.owned_until > clock_timestamp()
      )
  AND (SELECT count(*) FROM memory_pipeline.generation old
       WHERE old.tenant = t.tenant AND old.state = 'corrupt'
         AND old.ended_at > clock_timestamp() - interval '1 hour') <= %(most)s
ORDER BY t.registered_at, t.tenant;

-- name: installation_id$
-- Return the id of this installation.
SELECT id FROM memory_pipeline.installation;

-- name: servers
-- Return every registered server, the number of memories in its generations, and the database that
-- wrote its marker last.
SELECT s.id, s.url, s.state, coalesce(sum(g.memories), 0)::bigint AS memories, s.database_id
FROM memory_pipeline.server s
LEFT JOIN memory_pipeline.generation g
    ON g.server = s.id AND g.state IN ('new', 'building', 'live') AND g.dropped_at IS NULL
GROUP BY s.id ORDER BY s.registered_at, s.id;

-- name: register_server!
-- Register a server by the UUID in its marker, or store its new address.
INSERT INTO memory_pipeline.server (id, url) VALUES (%(id)s, %(url)s)
ON CONFLICT (id) DO UPDATE SET url = EXCLUDED.url, state = 'ready'
WHERE server.state <> 'retired'
  AND (server.url, server.state) IS DISTINCT FROM (EXCLUDED.url, 'ready');

-- name: mark_server!
-- Store the state in which a server was found.
UPDATE memory_pipeline.server SET state = %(state)s WHERE id = %(id)s AND state NOT IN ('retired', %(state)s);

-- name: retire_server!
-- Retire a server whose data is gone. The two queries that follow run after it, in its transaction
-- and in this order: each sees what was begun, or registered, while the one before waited for its
-- lock.
UPDATE memory_pipeline.server SET state = 'retired' WHERE id = %(id)s AND state <> 'retired';

-- name: lose_generations!
-- Mark every generation on a retired server as lost: it has to be built again.
UPDATE memory_pipeline.generation
SET state = 'lost', ended_at = clock_timestamp(), dropped_at = clock_timestamp()
WHERE server = %(id)s AND state <> 'lost';

-- name: stop_building!
-- Clear the building pointers to a retired server. Tenants that had no live generation get a reset,
-- which builds one.
WITH stopped AS (
    UPDATE memory_pipeline.tenant SET building = NULL
    WHERE building IN (SELECT id FROM memory_pipeline.generation WHERE server = %(id)s)
    RETURNING tenant, live
)
INSERT INTO memory_pipeline.change (tenant, memory_id)
SELECT tenant, NULL FROM stopped WHERE live IS NULL;

-- name: dropped!
-- Record that a generation's collection is gone.
UPDATE memory_pipeline.generation SET dropped_at = clock_timestamp() WHERE id = %(id)s;

-- name: droppable
-- Return the ended generations whose collections no search and no write can still use: the grace is
-- over and no tenant points to them. A generation that never left the state new ends by age.
SELECT g.id, g.tenant, g.server, g.collection_id, g.model, g.config_hash, g.state
FROM memory_pipeline.generation g
WHERE g.dropped_at IS NULL
  AND (g.ended_at <= clock_timestamp() - make_interval(secs => %(grace_seconds)s)
       OR g.state = 'new' AND g.created_at <= clock_timestamp() - interval '1 hour')
  AND NOT EXISTS (SELECT FROM memory_pipeline.tenant t WHERE t.live = g.id OR t.building = g.id)
ORDER BY g.ended_at LIMIT %(limit)s;
