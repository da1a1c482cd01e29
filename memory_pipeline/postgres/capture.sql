-- Capture: the triggers on memory_logs and what they call. Idempotent; run on every migrate.

-- name: tenant_by_user_id#
-- Return the tenant of a memory; NULL: it has none and is not indexed.
CREATE OR REPLACE FUNCTION memory_pipeline.tenant_of(user_id text, project_id text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN user_id;

-- name: tenant_by_project_id#
-- Return the tenant of a memory; NULL: it has none and is not indexed.
CREATE OR REPLACE FUNCTION memory_pipeline.tenant_of(user_id text, project_id text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN project_id;

-- name: tenant_by_both#
-- Return the tenant of a memory: a JSON array, so that no two pairs give the same string.
CREATE OR REPLACE FUNCTION memory_pipeline.tenant_of(user_id text, project_id text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN jsonb_build_array(user_id, project_id)::text;

-- name: capture_function#
-- Append one change for each tenant that a row belonged or belongs to. Reads no table. A memory whose
-- tenant is NULL or longer than 1,000 bytes is not indexed, and `status` counts it. Compares row
-- images (*<>), not values: jsonb calls 1.0 and 1.00 equal, and prints them differently.
--
-- No statement of the application fails for what has become of the columns (dropped, renamed, of
-- another type): whatever the reading of a row raises, the transaction records that every tenant is
-- to be compared. The block that may raise writes nothing, so its subtransaction takes no id.
CREATE OR REPLACE FUNCTION memory_pipeline.capture() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    was text;
    now_is text;
    old_id bigint;
    new_id bigint;
BEGIN
    BEGIN
        IF TG_OP <> 'INSERT' THEN
            was := memory_pipeline.tenant_of(OLD.user_id::text, OLD.project_id::text);
            old_id := OLD.id;
        END IF;
        IF TG_OP <> 'DELETE' THEN
            now_is := memory_pipeline.tenant_of(NEW.user_id::text, NEW.project_id::text);
            new_id := NEW.id;
        END IF;
        IF TG_OP = 'UPDATE' AND old_id = new_id AND was IS NOT DISTINCT FROM now_is THEN
            IF NOT ROW(OLD.raw_data, OLD.project_id, OLD.created_at)::record
                    *<> ROW(NEW.raw_data, NEW.project_id, NEW.created_at)::record THEN
                -- No column changed that a document depends on, or only the embedding backup wrote.
                IF NOT ROW(OLD.embedding)::record *<> ROW(NEW.embedding)::record THEN
                    RETURN NULL;
                END IF;
                IF OLD.updated_at IS NOT DISTINCT FROM NEW.updated_at
                   AND current_setting('memory_pipeline.backup', true)
                       = pg_current_xact_id()::text THEN
                    RETURN NULL;
                END IF;
            END IF;
            was := NULL;
        END IF;
    EXCEPTION WHEN OTHERS THEN
        PERFORM memory_pipeline.compare_all('columns');
        RETURN NULL;
    END;
    -- An index row cannot hold a longer text; the application's statement must not fail for it.
    IF octet_length(was) <= 1000 THEN
        INSERT INTO memory_pipeline.change (tenant, memory_id) VALUES (was, old_id);
    END IF;
    IF octet_length(now_is) <= 1000 THEN
        INSERT INTO memory_pipeline.change (tenant, memory_id) VALUES (now_is, new_id);
    END IF;
    RETURN NULL;
END $$;

-- name: compare_all_function#
-- Record that every tenant is to be compared, once in a transaction.
CREATE OR REPLACE FUNCTION memory_pipeline.compare_all(reason text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('memory_pipeline.compared', true)
       IS DISTINCT FROM pg_current_xact_id()::text THEN
        INSERT INTO memory_pipeline.truncation (reason) VALUES (reason);
        PERFORM set_config('memory_pipeline.compared', pg_current_xact_id()::text, true);
    END IF;
END $$;

-- name: storage_function#
-- Return what the catalog says of the table, its partitions and its triggers: another text where
-- rows may have come, gone or moved without a row trigger of the table. NULL: there is no table.
CREATE OR REPLACE FUNCTION memory_pipeline.storage() RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
WITH RECURSIVE tree AS (
    SELECT to_regclass('public.memory_logs')::oid AS relation, true AS top
    UNION ALL
    SELECT i.inhrelid, false FROM pg_inherits i JOIN tree ON i.inhparent = tree.relation
)
SELECT md5(string_agg(concat_ws(
    ',', c.oid,
    -- A TRUNCATE of a partition fires no trigger, and gives it another file.
    CASE WHEN NOT tree.top THEN c.relfilenode END,
    -- A crash empties it.
    CASE WHEN c.relpersistence = 'u' THEN pg_postmaster_start_time() END,
    -- DISABLE and ENABLE TRIGGER each write its row again.
    t.tgname, t.tgenabled, t.xmin
), ';' ORDER BY c.oid, t.tgname))
FROM tree
JOIN pg_class c ON c.oid = tree.relation
LEFT JOIN pg_trigger t ON t.tgrelid = c.oid
    AND t.tgname IN ('memory_pipeline_capture', 'memory_pipeline_truncate')
$$;

-- name: truncate_function#
-- Record that a TRUNCATE deleted the memories of every tenant.
CREATE OR REPLACE FUNCTION memory_pipeline.capture_truncate() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO memory_pipeline.truncation DEFAULT VALUES;
    RETURN NULL;
END $$;

-- name: hint_function#
-- Wake the listening workers. A hint only: polling finds every change. PREPARE TRANSACTION fails
-- after a NOTIFY, so no hint is sent where two-phase commit is on.
CREATE OR REPLACE FUNCTION memory_pipeline.hint() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('max_prepared_transactions') = '0' THEN
        PERFORM pg_notify('memory_pipeline', '');
    END IF;
    RETURN NULL;
END $$;

-- name: capture_triggers#
-- Capture under every replication role: a restore or a replica's apply must be captured too.
CREATE OR REPLACE TRIGGER memory_pipeline_capture
    AFTER INSERT OR UPDATE OR DELETE ON public.memory_logs
    FOR EACH ROW EXECUTE FUNCTION memory_pipeline.capture();
CREATE OR REPLACE TRIGGER memory_pipeline_truncate
    AFTER TRUNCATE ON public.memory_logs
    FOR EACH STATEMENT EXECUTE FUNCTION memory_pipeline.capture_truncate();
ALTER TABLE public.memory_logs ENABLE ALWAYS TRIGGER memory_pipeline_capture;
ALTER TABLE public.memory_logs ENABLE ALWAYS TRIGGER memory_pipeline_truncate;

-- name: hint_on#
-- Send wake-up hints.
CREATE OR REPLACE TRIGGER memory_pipeline_hint
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON public.memory_logs
    FOR EACH STATEMENT EXECUTE FUNCTION memory_pipeline.hint();

-- name: hint_off#
-- Send no wake-up hints.
DROP TRIGGER IF EXISTS memory_pipeline_hint ON public.memory_logs;
