-- Rebuilds: their parts, owners and checkpoints; and what placing and retiring generations needs.

-- A retired server never returns: its collections are built again elsewhere.
ALTER TABLE memory_pipeline.server
    DROP CONSTRAINT server_state_check,
    ADD CONSTRAINT server_state_check CHECK (state IN ('ready', 'lost', 'retired'));

-- abandoned: it failed while it was built. lost: its server is gone. A collection is dropped some
-- time after its generation has ended.
ALTER TABLE memory_pipeline.generation
    DROP CONSTRAINT generation_state_check,
    ADD CONSTRAINT generation_state_check
        CHECK (state IN ('new', 'live', 'building', 'retired', 'corrupt', 'abandoned', 'lost')),
    ADD COLUMN memories bigint NOT NULL DEFAULT 0,
    ADD COLUMN dropped_at timestamptz;
CREATE INDEX generation_kept ON memory_pipeline.generation (server) WHERE dropped_at IS NULL;

-- A change that was pending when a generation was begun for a tenant without a usable one: reading
-- the rows covers it, and the flip to that generation acks it.
ALTER TABLE memory_pipeline.change ADD COLUMN covered_by uuid;

-- One tenant of one rebuild. Its owner renews owned_until before each request, for at least as long
-- as a request may still arrive: a process that takes over may write the last chunk again at once.
CREATE TABLE memory_pipeline.rebuild (
    id text NOT NULL,
    tenant text NOT NULL,
    state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'running', 'done', 'failed')),
    re_embed boolean NOT NULL DEFAULT false,
    generation uuid REFERENCES memory_pipeline.generation,
    -- The generation holds every memory up to this id.
    through bigint,
    owner text,
    owned_until timestamptz,
    written bigint NOT NULL DEFAULT 0,
    reused bigint NOT NULL DEFAULT 0,
    embedded bigint NOT NULL DEFAULT 0,
    error text,
    asked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at timestamptz,
    ended_at timestamptz,
    PRIMARY KEY (id, tenant)
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX rebuild_running ON memory_pipeline.rebuild (tenant) WHERE state = 'running';
CREATE INDEX rebuild_tenant ON memory_pipeline.rebuild (tenant, asked_at);

-- The result of the last verify of a tenant; the checks in the UI are read from here.
CREATE TABLE memory_pipeline.verification (
    tenant text PRIMARY KEY,
    verified_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    documents bigint NOT NULL,
    found bigint NOT NULL,
    -- The first of them, with details.
    findings jsonb NOT NULL
);
