-- Removing the pipeline from a database. memory_logs keeps its columns, its rows and its vectors; the
-- vectors in vector_backup go with the schema.

-- name: under_way^
-- Count the rebuilds whose process is alive, and the leases that are valid.
SELECT (SELECT count(*) FROM memory_pipeline.rebuild
        WHERE state = 'running' AND owned_until > clock_timestamp()) AS rebuilds,
       (SELECT count(*) FROM memory_pipeline.tenant
        WHERE lease_until > clock_timestamp()) AS leases;

-- name: triggers
-- Return every trigger that calls a function of the pipeline, on memory_logs or on a table that
-- once was memory_logs.
SELECT t.tgrelid::regclass::text AS on_table, t.tgname::text AS name
FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
WHERE p.pronamespace = to_regnamespace('memory_pipeline') AND t.tgparentid = 0 AND NOT t.tgisinternal
ORDER BY 1, 2;

-- name: vectors_in_table$
-- Count the vectors in the pipeline's own table.
SELECT count(*) FROM memory_pipeline.vector_backup;

-- name: drop_triggers#
-- Drop every trigger that calls a function of the pipeline; the names come from the catalog.
DO $$
DECLARE
    unwanted record;
BEGIN
    FOR unwanted IN
        SELECT t.tgrelid::regclass AS on_table, t.tgname AS name
        FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
        WHERE p.pronamespace = to_regnamespace('memory_pipeline') AND t.tgparentid = 0
          AND NOT t.tgisinternal
        ORDER BY 1, 2
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', unwanted.name, unwanted.on_table);
    END LOOP;
END $$;

-- name: forget_changes!
-- Delete every pending change: no worker finds anything to sync any more.
WITH truncated AS (DELETE FROM memory_pipeline.truncation)
DELETE FROM memory_pipeline.change;

-- name: other_users
-- Return what depends on the pipeline's schema without being in it: DROP SCHEMA would drop it too.
WITH mine AS (
    SELECT 'pg_class'::regclass AS class, oid FROM pg_class
    WHERE relnamespace = to_regnamespace('memory_pipeline')
    UNION ALL
    SELECT 'pg_proc'::regclass, oid FROM pg_proc WHERE pronamespace = to_regnamespace('memory_pipeline')
    UNION ALL
    SELECT 'pg_type'::regclass, oid FROM pg_type WHERE typnamespace = to_regnamespace('memory_pipeline')
)
SELECT DISTINCT i.type || ' ' || i.identity AS name
FROM mine
JOIN pg_depend d ON d.refclassid = mine.class AND d.refobjid = mine.oid
CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, d.objsubid) AS i
WHERE coalesce(i.schema, '') NOT IN ('memory_pipeline', 'pg_toast')
  AND i.identity !~ '(^|(^| )(on|for) )memory_pipeline[.]'
ORDER BY 1;

-- name: kept_generations
-- Return every generation whose collection may still exist.
SELECT g.id, g.tenant, g.server, g.collection_id, g.model, g.config_hash, g.state
FROM memory_pipeline.generation g WHERE g.dropped_at IS NULL AND g.server = %(server)s
ORDER BY g.created_at;

-- name: drop_schema#
-- Drop the pipeline's schema with everything in it.
DROP SCHEMA memory_pipeline CASCADE;
