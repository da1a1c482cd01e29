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
-- the table and on everything whose rows a query of the table returns.
WITH RECURSIVE tree AS (
    SELECT to_regclass('public.memory_logs')::oid AS relation, true AS top
    UNION ALL
    SELECT i.inhrelid, false FROM pg_inherits i JOIN tree ON i.inhparent = tree.relation
), wanted AS (
    SELECT relation, top, 'memory_pipeline_truncate' AS name FROM tree WHERE top
    UNION ALL
    SELECT relation, top, 'memory_pipeline_capture' FROM tree
)
SELECT wanted.name
         || CASE WHEN wanted.top THEN '' ELSE ' on ' || wanted.relation::regclass::text END AS name,
       coalesce(t.tgenabled::text, 'missing') AS state
FROM wanted
LEFT JOIN pg_trigger t ON t.tgname = wanted.name AND t.tgrelid = wanted.relation
WHERE t.tgenabled IS DISTINCT FROM 'A'
ORDER BY 1;

-- name: relations
-- Return the table and everything whose rows a query of it returns: kind, persistence, and whether
-- it is a partition.
WITH RECURSIVE tree AS (
    SELECT to_regclass('public.memory_logs')::oid AS relation, true AS top
    UNION ALL
    SELECT i.inhrelid, false FROM pg_inherits i JOIN tree ON i.inhparent = tree.relation
)
SELECT tree.relation::regclass::text AS name, tree.top AS top, c.relkind::text AS kind,
       c.relpersistence::text AS persistence, c.relispartition AS partition
FROM tree JOIN pg_class c ON c.oid = tree.relation
ORDER BY tree.top DESC, 1;

-- name: columns_that_mislead
-- Return columns whose values a trigger does not see, or where two spellings are one value.
SELECT a.attname::text AS name, a.attgenerated::text = 'v' AS virtual,
       NOT coalesce(c.collisdeterministic, true) AS folded
FROM pg_attribute a LEFT JOIN pg_collation c ON c.oid = a.attcollation
WHERE a.attrelid = to_regclass('public.memory_logs') AND a.attnum > 0 AND NOT a.attisdropped
  AND a.attname = ANY (%(names)s)
  AND (a.attgenerated::text = 'v' OR NOT coalesce(c.collisdeterministic, true))
ORDER BY a.attnum;

-- name: encoding$
-- Return the encoding of the database.
SELECT current_setting('server_encoding');

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

-- name: find_vector$
-- Find pgvector's type by its name where it is installed in a schema that is not on the search path.
SELECT set_config('search_path', concat_ws(', ', nullif(current_setting('search_path'), ''),
                                           quote_ident(n.nspname)), %(is_local)s)
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector';
