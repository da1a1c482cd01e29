-- Attaching to memory_logs: the decisions, and every tenant that was there before.

-- name: installation^
-- Return the decisions made when the pipeline was attached.
SELECT tenant_by, vectors, attached_at FROM memory_pipeline.installation;

-- name: install!
-- Store once which table is indexed, which column names the tenant and whether stored vectors are
-- trusted.
INSERT INTO memory_pipeline.installation (table_name, tenant_by, vectors)
VALUES (%(table_name)s, %(tenant_by)s, %(vectors)s)
ON CONFLICT (one) DO NOTHING;

-- name: attached_table$
-- Return the table that is indexed. A schema of before 0007 has no such column; it is the default.
SELECT to_jsonb(i) ->> 'table_name' FROM memory_pipeline.installation i;

-- name: set_table!
-- Record the new name of the table that is indexed; rows may have been written that no trigger saw.
UPDATE memory_pipeline.installation SET table_name = %(table_name)s, attached_at = NULL;

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

-- name: lock_table!
-- Keep writes and DDL away from the table for this transaction, as CREATE TRIGGER does.
LOCK TABLE public.memory_logs IN SHARE ROW EXCLUSIVE MODE;

-- name: covers_storage$
-- Return whether every row that no trigger saw has a change. False: the next query of the workers
-- finds that, and has every tenant compared. A schema of before 0008 has not recorded it.
SELECT storage IS NULL
       OR CASE WHEN to_regprocedure('memory_pipeline.storage()') IS NOT NULL
               THEN storage = memory_pipeline.storage() END
FROM memory_pipeline.installation;

-- name: set_first_storage!
-- Record the triggers that a DBA has created, and the partitions; the attach covers all rows.
UPDATE memory_pipeline.installation SET storage = memory_pipeline.storage() WHERE storage IS NULL;

-- name: set_storage!
-- Record the triggers that have just been created, and the partitions.
UPDATE memory_pipeline.installation SET storage = memory_pipeline.storage();
