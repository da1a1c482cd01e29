-- Import and export: rows of the application's table in bulk. A time counts in UTC here, whatever
-- the session's zone: a column without a time zone holds UTC.

-- name: begin_transfer$
-- Return the time of the transaction. A file or a pipe may be slow: this transaction has no time
-- limit for a statement, nor between two.
SELECT now()::text
FROM (SELECT set_config('statement_timeout', '0', true),
             set_config('idle_in_transaction_session_timeout', '0', true),
             set_config('TimeZone', 'UTC', true),
             set_config('DateStyle', 'ISO', true)) AS settings;

-- name: lock_imports$
-- Wait until no other import with external ids is under way: two would store a memory twice.
SELECT true FROM (SELECT pg_advisory_xact_lock(hashtextextended('memory_pipeline.external_id', 0))) AS l;

-- name: check_constraints!
-- Have Postgres check now what it would check at the end, so that the memory at fault is known.
SET CONSTRAINTS ALL IMMEDIATE;

-- name: defer_constraints!
-- Let what can be checked later be checked with the next batch.
SET CONSTRAINTS ALL DEFERRED;

-- name: copy_in!
-- Import memories in bulk.
COPY public.memory_logs (user_id, project_id, raw_data, created_at) FROM STDIN;

-- name: import_once
-- Store a memory under its external id: one that is not there, or what has changed in the file since
-- it was imported last. Return what was done. Its guard is lock_imports.
WITH given AS (
    SELECT r.user_id, r.project_id, r.created_at, %(raw)s::jsonb AS raw_data,
           memory_pipeline.tenant_of(r.user_id::text, r.project_id::text) AS tenant,
           sha256(convert_to(%(external_id)s::text, 'UTF8')) AS external_id_hash,
           sha256(convert_to(jsonb_build_array(%(project_id)s::text, %(created_at)s::text,
                                               %(raw)s::jsonb)::text, 'UTF8')) AS content_hash
    FROM jsonb_populate_record(NULL::public.memory_logs, jsonb_build_object(
        'user_id', %(user_id)s::text, 'project_id', %(project_id)s::text,
        'created_at', %(created_at)s::text)) AS r
), known AS MATERIALIZED (
    SELECT m.id, e.content_hash
    FROM given
    JOIN memory_pipeline.external_id e USING (tenant, external_id_hash)
    JOIN public.memory_logs m ON m.id = e.memory_id AND m.created_at IS NOT DISTINCT FROM e.created_at
        AND memory_pipeline.tenant_of(m.user_id::text, m.project_id::text) = e.tenant
), updated AS (
    UPDATE public.memory_logs m
    SET raw_data = given.raw_data, project_id = given.project_id,
        created_at = coalesce(given.created_at, m.created_at), updated_at = now()
    FROM given, known
    WHERE m.id = known.id AND known.content_hash <> given.content_hash
    RETURNING m.id, m.created_at
), inserted AS (
    INSERT INTO public.memory_logs (user_id, project_id, raw_data, created_at)
    SELECT user_id, project_id, raw_data, coalesce(created_at, now()) FROM given
    WHERE NOT EXISTS (SELECT FROM known)
    RETURNING id, created_at
), noted AS (
    INSERT INTO memory_pipeline.external_id
        (tenant, external_id_hash, memory_id, created_at, content_hash)
    SELECT given.tenant, given.external_id_hash, stored.id, stored.created_at, given.content_hash
    FROM given, (SELECT * FROM updated UNION ALL SELECT * FROM inserted) AS stored
    ON CONFLICT (tenant, external_id_hash) DO UPDATE SET
        memory_id = EXCLUDED.memory_id, created_at = EXCLUDED.created_at,
        content_hash = EXCLUDED.content_hash
)
SELECT CASE WHEN EXISTS (SELECT FROM inserted) THEN 'imported'
            WHEN EXISTS (SELECT FROM updated) THEN 'updated'
            WHEN EXISTS (SELECT FROM known) THEN 'unchanged'
            ELSE 'dropped' END AS outcome;

-- name: export
-- Print each memory of these tenants, or of all, as a line that an import takes, in the order of ids.
SELECT json_build_object('user_id', m.user_id::text, 'project_id', m.project_id::text,
                         'created_at', m.created_at, 'raw_data', m.raw_data)::text AS line
FROM public.memory_logs m
WHERE memory_pipeline.tenant_of(m.user_id::text, m.project_id::text) IS NOT NULL
  AND (%(tenants)s::text[] IS NULL
       OR memory_pipeline.tenant_of(m.user_id::text, m.project_id::text) = ANY(%(tenants)s::text[]))
ORDER BY m.id;

-- name: without_tenant$
-- Count the rows that belong to no tenant.
SELECT count(*) FROM public.memory_logs m
WHERE memory_pipeline.tenant_of(m.user_id::text, m.project_id::text) IS NULL;
