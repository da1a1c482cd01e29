-- Capture: the triggers on memory_logs and what they call. Idempotent; run on every migrate.

-- name: tenant_by_user_id#
-- Say which tenant a memory belongs to. NULL: to none, and it is not indexed.
CREATE OR REPLACE FUNCTION memory_pipeline.tenant_of(user_id text, project_id text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN user_id;

-- name: tenant_by_project_id#
-- Say which tenant a memory belongs to. NULL: to none, and it is not indexed.
CREATE OR REPLACE FUNCTION memory_pipeline.tenant_of(user_id text, project_id text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN project_id;

-- name: tenant_by_both#
-- Say which tenant a memory belongs to: a JSON array, so that no two pairs ever meet in one string.
CREATE OR REPLACE FUNCTION memory_pipeline.tenant_of(user_id text, project_id text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN jsonb_build_array(user_id, project_id)::text;

-- name: capture_function#
-- Append one change for each tenant that a row belonged or belongs to.
-- It raises nothing of its own and swallows nothing. A tenant that is NULL or longer than 1,000 bytes
-- is none: its memories are not indexed, and `status` counts them. It reads no table. Images are compared
-- (*<>), not values: jsonb calls 1.0 and 1.00 equal, and prints them differently.
CREATE OR REPLACE FUNCTION memory_pipeline.capture() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    was text;
    now_is text;
BEGIN
    IF TG_OP = 'INSERT' THEN
        now_is := memory_pipeline.tenant_of(NEW.user_id::text, NEW.project_id::text);
    ELSIF TG_OP = 'DELETE' THEN
        was := memory_pipeline.tenant_of(OLD.user_id::text, OLD.project_id::text);
    ELSE
        was := memory_pipeline.tenant_of(OLD.user_id::text, OLD.project_id::text);
        now_is := memory_pipeline.tenant_of(NEW.user_id::text, NEW.project_id::text);
        IF OLD.id = NEW.id AND was IS NOT DISTINCT FROM now_is THEN
            IF NOT ROW(OLD.raw_data, OLD.project_id, OLD.created_at)::record
                    *<> ROW(NEW.raw_data, NEW.project_id, NEW.created_at)::record THEN
                -- Nothing that a document depends on, or our own backup and it alone.
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
    END IF;
    -- An index row holds no longer text, and the application's statement must not fail by that.
    IF octet_length(was) <= 1000 THEN
        INSERT INTO memory_pipeline.change (tenant, memory_id) VALUES (was, OLD.id);
    END IF;
    IF octet_length(now_is) <= 1000 THEN
        INSERT INTO memory_pipeline.change (tenant, memory_id) VALUES (now_is, NEW.id);
    END IF;
    RETURN NULL;
END $$;

-- name: truncate_function#
-- Remember that everything of everyone went.
CREATE OR REPLACE FUNCTION memory_pipeline.capture_truncate() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO memory_pipeline.truncation DEFAULT VALUES;
    RETURN NULL;
END $$;

-- name: hint_function#
-- Wake whoever listens. A hint only: polling finds everything. PREPARE TRANSACTION fails after a
-- NOTIFY, so there is none where two-phase commit is on.
CREATE OR REPLACE FUNCTION memory_pipeline.hint() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('max_prepared_transactions') = '0' THEN
        PERFORM pg_notify('memory_pipeline', '');
    END IF;
    RETURN NULL;
END $$;

-- name: capture_triggers#
-- Capture under every replication role: a restore or a replica's apply must not slip by.
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
