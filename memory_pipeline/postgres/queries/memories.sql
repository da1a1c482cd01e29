-- The application's table, read and written as an application would. A time that Python cannot
-- represent (infinity, years before 2 and after 9998) is read as NULL.

-- name: read
-- Return memories by id with the provenance of their vectors, and the vectors if requested. Rows
-- beyond the byte limit come without content (never the first row).
WITH sized AS (
    SELECT m.id, sum(coalesce(pg_column_size(m.raw_data), 0)) OVER (ORDER BY m.id) AS bytes,
           row_number() OVER (ORDER BY m.id) AS place
    FROM public.memory_logs m WHERE m.id = ANY(%(ids)s::bigint[])
)
SELECT m.id, memory_pipeline.tenant_of(m.user_id::text, m.project_id::text) AS tenant,
       m.user_id::text AS user_id, m.project_id::text AS project_id,
       s.bytes <= %(byte_limit)s OR s.place = 1 AS fits,
       CASE WHEN s.bytes <= %(byte_limit)s OR s.place = 1
            THEN coalesce(m.raw_data::text, 'null') END AS raw,
       CASE WHEN %(vectors)s THEN m.embedding END AS embedding,
       CASE WHEN m.created_at BETWEEN '0002-01-01' AND '9998-12-31' THEN m.created_at END AS created_at,
       CASE WHEN m.updated_at BETWEEN '0002-01-01' AND '9998-12-31' THEN m.updated_at END AS updated_at,
       m.xmin::text AS version, p.text_hash, p.model, p.vector_hash,
       b.embedding AS backed_up, b.text_hash AS backed_up_text_hash, b.model AS backed_up_model
FROM public.memory_logs m
JOIN sized s ON s.id = m.id
LEFT JOIN memory_pipeline.provenance p ON p.memory_id = m.id
LEFT JOIN memory_pipeline.vector_backup b ON b.memory_id = m.id AND %(vectors)s
ORDER BY m.id;

-- name: versions
-- Return the current tenant of these memories, and the version of each row.
SELECT m.id, memory_pipeline.tenant_of(m.user_id::text, m.project_id::text) AS tenant,
       m.xmin::text AS version
FROM public.memory_logs m WHERE m.id = ANY(%(ids)s::bigint[]);

-- name: ids_of_tenant
-- Return the ids of a tenant's memories after the given id, in order.
SELECT m.id FROM public.memory_logs m
WHERE memory_pipeline.tenant_of(m.user_id::text, m.project_id::text) = %(tenant)s
  AND (%(after)s::bigint IS NULL OR m.id > %(after)s::bigint)
ORDER BY m.id LIMIT %(limit)s;

-- name: count_of_tenant$
-- Count a tenant's memories.
SELECT count(*) FROM public.memory_logs m
WHERE memory_pipeline.tenant_of(m.user_id::text, m.project_id::text) = %(tenant)s;

-- name: sizes
-- Count the memories of every tenant; rows without a tenant, or with too long a name, belong to no
-- tenant.
SELECT memory_pipeline.tenant_of(m.user_id::text, m.project_id::text) AS tenant,
       count(*) AS memories
FROM public.memory_logs m
WHERE octet_length(memory_pipeline.tenant_of(m.user_id::text, m.project_id::text)) <= 1000
GROUP BY 1;

-- name: tenant_of_values$
-- Return the tenant of a memory with these values, each read and printed by its column's type.
SELECT memory_pipeline.tenant_of(m.user_id::text, m.project_id::text)
FROM jsonb_populate_record(
    NULL::public.memory_logs,
    jsonb_build_object('user_id', %(user_id)s::text, 'project_id', %(project_id)s::text)
) AS m;

-- name: insert$
-- Store a new memory; return its id. A time is given in UTC and with its zone, as text: a column
-- with a time zone reads the zone, one without ignores it and holds UTC, whatever the session's
-- TimeZone is.
INSERT INTO public.memory_logs (user_id, project_id, raw_data, created_at)
VALUES (
    %(user_id)s, %(project_id)s, %(raw)s::jsonb,
    (jsonb_populate_record(NULL::public.memory_logs, jsonb_build_object(
        'created_at',
        coalesce(%(created_at)s, to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US"+00"'))
    ))).created_at
)
RETURNING id;

-- name: update!
-- Replace the content of a tenant's memory. The time as in insert.
UPDATE public.memory_logs SET
    raw_data = %(raw)s::jsonb,
    updated_at = (jsonb_populate_record(NULL::public.memory_logs, jsonb_build_object(
        'updated_at', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US"+00"')
    ))).updated_at
WHERE id = %(id)s AND memory_pipeline.tenant_of(user_id::text, project_id::text) = %(tenant)s;

-- name: delete!
-- Delete a tenant's memory.
DELETE FROM public.memory_logs
WHERE id = %(id)s AND memory_pipeline.tenant_of(user_id::text, project_id::text) = %(tenant)s;
