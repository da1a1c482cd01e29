-- The backup of computed vectors, and what refuses it. Each backup is one statement: a process that
-- is frozen, or cut off, between a statement and its commit would hold locks for long.

-- name: back_up
-- Store vectors and their provenance in memory_logs, where the row is still the version that was
-- read and no transaction holds it: in id order, so that no application waits long and none is
-- chosen as a deadlock's victim; and it waits for no lock once it holds rows. Return the rows that
-- were locked, and whether the vector was stored: a trigger of the application may leave a row out.
-- Where one changes the vector, or what a document is made of, the statement is undone (MP001).
WITH marked AS MATERIALIZED (
    -- Marks this transaction for the capture trigger: it stores vectors and nothing else.
    SELECT set_config('memory_pipeline.backup', pg_current_xact_id()::text, true),
           set_config('lock_timeout', '200ms', true)
), given AS (
    -- No cast of the vectors: their type may be in a schema that is not on the search path.
    SELECT * FROM unnest(%(ids)s::bigint[], %(versions)s::text[], %(vectors)s,
                         %(text_hashes)s::text[], %(models)s::text[], %(vector_hashes)s::text[])
        AS g (id, version, vector, text_hash, model, vector_hash)
), mine AS MATERIALIZED (
    SELECT m.id, m.user_id, m.project_id, m.raw_data, m.created_at
    FROM marked, public.memory_logs m JOIN given ON given.id = m.id
    WHERE m.xmin::text = given.version
    ORDER BY m.id
    FOR UPDATE OF m SKIP LOCKED
), stored AS (
    UPDATE public.memory_logs m SET embedding = given.vector
    FROM given JOIN mine ON mine.id = given.id
    WHERE m.id = given.id
    RETURNING m.id,
        CASE WHEN ROW(m.embedding, m.id, m.user_id, m.project_id, m.raw_data, m.created_at)::record
              *<> ROW(given.vector, mine.id, mine.user_id, mine.project_id, mine.raw_data,
                      mine.created_at)::record
             THEN memory_pipeline.refuse_backup() END AS changed
), noted AS (
    INSERT INTO memory_pipeline.provenance AS p (memory_id, text_hash, model, vector_hash)
    SELECT id, text_hash, model, vector_hash FROM given JOIN stored USING (id) ORDER BY id
    ON CONFLICT (memory_id) DO UPDATE SET
        text_hash = EXCLUDED.text_hash, model = EXCLUDED.model, vector_hash = EXCLUDED.vector_hash
    WHERE (p.text_hash, p.model, p.vector_hash)
          IS DISTINCT FROM (EXCLUDED.text_hash, EXCLUDED.model, EXCLUDED.vector_hash)
), superseded AS (
    DELETE FROM memory_pipeline.vector_backup b USING stored WHERE b.memory_id = stored.id
)
SELECT mine.id, stored.id IS NOT NULL AS stored FROM mine LEFT JOIN stored ON stored.id = mine.id;

-- name: back_up_in_table
-- Store vectors in the pipeline's own table, where the row is still the version that was read; the
-- row itself is neither written nor locked. Return the rows that were so. A row that moves, or goes,
-- while this runs does no harm: the vector is stored with its text and its model.
WITH hasty AS MATERIALIZED (
    SELECT set_config('lock_timeout', '200ms', true)
), given AS (
    SELECT * FROM unnest(%(ids)s::bigint[], %(versions)s::text[], %(vectors)s,
                         %(text_hashes)s::text[], %(models)s::text[])
        AS g (id, version, vector, text_hash, model)
), mine AS MATERIALIZED (
    SELECT given.* FROM hasty, given JOIN public.memory_logs m ON m.id = given.id
    WHERE m.xmin::text = given.version
), stored AS (
    INSERT INTO memory_pipeline.vector_backup (memory_id, text_hash, model, embedding)
    SELECT id, text_hash, model, vector FROM mine ORDER BY id
    ON CONFLICT (memory_id) DO UPDATE SET
        text_hash = EXCLUDED.text_hash, model = EXCLUDED.model, embedding = EXCLUDED.embedding
)
SELECT id, true AS stored FROM mine;

-- name: record_backup_refusal!
-- Record why vectors are not backed up, and of how many memories so far.
INSERT INTO memory_pipeline.backup_refusal AS r (backup, reason, memories)
VALUES (%(backup)s, %(reason)s, %(memories)s)
ON CONFLICT (one) DO UPDATE SET
    backup = EXCLUDED.backup, reason = EXCLUDED.reason, last_at = clock_timestamp(),
    memories = EXCLUDED.memories + CASE WHEN r.reason = EXCLUDED.reason THEN r.memories ELSE 0 END,
    first_at = CASE WHEN r.reason = EXCLUDED.reason THEN r.first_at ELSE clock_timestamp() END;

-- name: clear_backup_refusal!
-- Record that vectors are backed up.
DELETE FROM memory_pipeline.backup_refusal;

-- name: backup_refusal^
-- Return why the last backup of vectors was refused; no row where it was not.
SELECT backup, reason, memories, first_at FROM memory_pipeline.backup_refusal;

-- name: update_triggers
-- Return the triggers and rules of the application that an UPDATE of embedding would fire, on the
-- table, its partitions and its children, and whether each may change or leave out the row.
WITH RECURSIVE tables AS (
    SELECT to_regclass('public.memory_logs')::oid AS relation
    UNION
    SELECT i.inhrelid FROM tables JOIN pg_inherits i ON i.inhparent = tables.relation
)
SELECT 'trigger' AS kind, t.tgname::text AS name, t.tgrelid::regclass::text AS on_table,
       p.proname::text AS function, (t.tgtype & 2) > 0 AND (t.tgtype & 1) > 0 AS before_row
FROM tables
JOIN pg_trigger t ON t.tgrelid = tables.relation
JOIN pg_proc p ON p.oid = t.tgfoid
WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND t.tgenabled IN ('O', 'A')
  AND (t.tgtype & 16) > 0
  AND p.pronamespace IS DISTINCT FROM to_regnamespace('memory_pipeline')
  AND (t.tgattr = '' OR EXISTS (
      SELECT FROM pg_attribute a
      WHERE a.attrelid = t.tgrelid AND a.attname = 'embedding' AND a.attnum = ANY(t.tgattr)
  ))
UNION ALL
SELECT 'rule', r.rulename::text, r.ev_class::regclass::text, '', true
FROM tables JOIN pg_rewrite r ON r.ev_class = tables.relation
WHERE r.ev_type = '2' AND r.ev_enabled IN ('O', 'A')
ORDER BY 3, 2;

-- name: forget_gone$
-- Delete the backed-up vectors, and the provenance, of memories that no longer exist; return how
-- many. A change does so for its memory; this is for what was written late, or after a TRUNCATE.
WITH vectors AS (
    DELETE FROM memory_pipeline.vector_backup WHERE memory_id IN (
        SELECT b.memory_id FROM memory_pipeline.vector_backup b
        WHERE NOT EXISTS (SELECT FROM public.memory_logs m WHERE m.id = b.memory_id)
        LIMIT %(limit)s
    )
    RETURNING memory_id
), provenances AS (
    DELETE FROM memory_pipeline.provenance WHERE memory_id IN (
        SELECT p.memory_id FROM memory_pipeline.provenance p
        WHERE NOT EXISTS (SELECT FROM public.memory_logs m WHERE m.id = p.memory_id)
        LIMIT %(limit)s
    )
    RETURNING memory_id
)
SELECT (SELECT count(*) FROM vectors) + (SELECT count(*) FROM provenances);
