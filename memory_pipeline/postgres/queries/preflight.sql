-- The requirements of the database. Read-only.

-- name: columns
-- Return name and type of every column of memory_logs; no row where the table does not exist.
SELECT a.attname::text AS name, a.attnotnull AS not_null,
       -- Without the schema, which is printed where it is not on the search_path.
       regexp_replace(format_type(a.atttypid, a.atttypmod), '^("[^"]*"|[^".]*)\.', '') AS type
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
-- Return every publication that would replicate the pipeline's own tables.
SELECT pubname::text AS name FROM pg_publication WHERE puballtables;

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
-- Wait until no other migrate runs; held until this transaction ends, which may take minutes.
SELECT set_config('idle_in_transaction_session_timeout', '0', true),
       pg_advisory_xact_lock(hashtextextended('memory_pipeline migrate', 0));

-- name: same_name
-- Return every table of this name in any schema, of any kind, as schema.table.
SELECT n.nspname::text || '.' || c.relname::text AS name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE lower(c.relname) = lower(%(name)s) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
ORDER BY 1;

-- name: table_exists$
-- Return whether a table of this name is there.
SELECT to_regclass(%(name)s) IS NOT NULL;
