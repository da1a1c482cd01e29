-- Attaching to memory_logs: the decisions, and every tenant that was there before.

-- name: installation^
-- Return the decisions made when the pipeline was attached.
SELECT tenant_by, vectors, attached_at FROM memory_pipeline.installation;

-- name: install!
-- Store once which column names the tenant and whether stored vectors are trusted.
INSERT INTO memory_pipeline.installation (tenant_by, vectors)
VALUES (%(tenant_by)s, %(vectors)s)
ON CONFLICT (one) DO NOTHING;

-- name: set_vectors!
-- Change whether stored vectors that the pipeline did not write are trusted.
UPDATE memory_pipeline.installation SET vectors = %(vectors)s;

-- name: existing_tenants
-- Return every tenant that has rows now.
SELECT DISTINCT memory_pipeline.tenant_of(user_id::text, project_id::text) AS tenant
FROM public.memory_logs
WHERE octet_length(memory_pipeline.tenant_of(user_id::text, project_id::text)) <= 1000;

-- name: request_reset!
-- Enqueue a reset of these tenants.
INSERT INTO memory_pipeline.change (tenant, memory_id)
SELECT t, NULL FROM unnest(%(tenants)s::text[]) AS t;

-- name: detached!
-- Record that rows may have been written that no trigger saw.
UPDATE memory_pipeline.installation SET attached_at = NULL;

-- name: attached!
-- Record that every row that was there before has a change or was compared.
UPDATE memory_pipeline.installation SET attached_at = clock_timestamp();
