-- Attaching to memory_logs: what was decided, and every tenant that was there before.

-- name: installation^
-- Tell what was decided when the pipeline was attached.
SELECT tenant_by, vectors, attached_at FROM memory_pipeline.installation;

-- name: install!
-- Decide once how tenants are told apart and what stored vectors are.
INSERT INTO memory_pipeline.installation (tenant_by, vectors)
VALUES (%(tenant_by)s, %(vectors)s)
ON CONFLICT (one) DO NOTHING;

-- name: set_vectors!
-- Decide again what stored vectors are that the pipeline did not write.
UPDATE memory_pipeline.installation SET vectors = %(vectors)s;

-- name: existing_tenants
-- Tell every tenant that has rows now.
SELECT DISTINCT memory_pipeline.tenant_of(user_id::text, project_id::text) AS tenant
FROM public.memory_logs
WHERE octet_length(memory_pipeline.tenant_of(user_id::text, project_id::text)) <= 1000;

-- name: request_reset!
-- Enqueue a reset of these tenants.
INSERT INTO memory_pipeline.change (tenant, memory_id)
SELECT t, NULL FROM unnest(%(tenants)s::text[]) AS t;

-- name: detached!
-- Note that rows were written that no trigger saw.
UPDATE memory_pipeline.installation SET attached_at = NULL;

-- name: attached!
-- Note that every row that was there before is accounted for.
UPDATE memory_pipeline.installation SET attached_at = clock_timestamp();
