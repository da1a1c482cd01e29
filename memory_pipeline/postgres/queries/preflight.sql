-- The requirements of the database. Read-only.

-- name: columns
-- Return name and type of every column of memory_logs; no row where the table does not exist.
SELECT a.attname::text AS name, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS not_null
FROM pg_attribute a
WHERE a.attrelid = to_regclass('public.memory_logs') AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum;

-- name: unique_id$
-- Return whether id alone is a key of memory_logs.
SELECT EXISTS (
    SELECT FROM pg_index i
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
    WHERE i.indrelid = to_regclass('public.memory_logs')
      AND i.indisvalid AND i.indimmediate AND i.indisunique AND i.indnkeyatts = 1 AND i.indpred IS NULL AND a.attname = 'id'
);

-- name: owned$
-- Return whether this role may create triggers on memory_logs (only its owner may make them
-- ALWAYS).
SELECT pg_has_role(current_user, c.relowner, 'USAGE')
FROM pg_class c
WHERE c.oid = to_regclass('public.memory_logs');

-- name: publications
-- Return every publication that replicates the pipeline's own tables, and which tables it has.
SELECT p.pubname::text AS name,
       CASE WHEN p.puballtables THEN 'FOR ALL TABLES'
            WHEN EXISTS (SELECT FROM pg_publication_namespace n
                         WHERE n.pnpubid = p.oid
                           AND n.pnnspid = to_regnamespace('memory_pipeline'))
                THEN 'FOR TABLES IN SCHEMA memory_pipeline'
            ELSE 'FOR TABLE ' || named.tables END AS tables
FROM pg_publication p
LEFT JOIN LATERAL (
    SELECT string_agg(r.prrelid::regclass::text, ', ' ORDER BY r.prrelid::regclass::text) AS tables
    FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid
    WHERE r.prpubid = p.oid AND c.relnamespace = to_regnamespace('memory_pipeline')
) AS named ON true
WHERE p.puballtables OR named.tables IS NOT NULL
   OR EXISTS (SELECT FROM pg_publication_namespace n
              WHERE n.pnpubid = p.oid AND n.pnnspid = to_regnamespace('memory_pipeline'))
ORDER BY 1;

-- name: server_version$
-- Return the version of the server as a number.
SELECT current_setting('server_version_num')::integer;

-- name: vector_available$
-- Return whether pgvector is or can be installed.
SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'vector');

-- name: may_create$
-- Return whether this role may create a schema here.
SELECT has_database_privilege(current_database(), 'CREATE');

-- name: schema_exists$
-- Return whether the pipeline's schema exists.
SELECT to_regnamespace('memory_pipeline') IS NOT NULL;

-- name: broken_triggers
-- Return every capture trigger that is missing or would not fire under every replication role, on
-- the table and on each of its partitions.
WITH wanted AS (
    SELECT to_regclass('public.memory_logs') AS relation, name
    FROM (VALUES ('memory_pipeline_capture'), ('memory_pipeline_truncate')) AS named (name)
    UNION
    SELECT relid, 'memory_pipeline_capture'
    FROM pg_partition_tree(to_regclass('public.memory_logs')) WHERE isleaf
)
SELECT wanted.name
         || CASE WHEN wanted.relation = to_regclass('public.memory_logs') THEN ''
                 ELSE ' on ' || wanted.relation::regclass::text END AS name,
       coalesce(t.tgenabled::text, 'missing') AS state
FROM wanted
LEFT JOIN pg_trigger t ON t.tgname = wanted.name AND t.tgrelid = wanted.relation
WHERE t.tgenabled IS DISTINCT FROM 'A'
ORDER BY 1;

-- name: capture_version$
-- Return which capture functions are installed, as their last step recorded it.
SELECT obj_description(to_regprocedure('memory_pipeline.capture()'), 'pg_proc');

-- name: lock_migrations$
-- Wait until no other migrate runs; held until this session ends.
SELECT pg_advisory_lock(hashtextextended('memory_pipeline migrate', 0));
