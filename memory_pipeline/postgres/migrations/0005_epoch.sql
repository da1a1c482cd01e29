-- Postgres may go back in time (a restore, a failover): how that is detected, and which tenants are
-- unproven then.

-- The epochs of this database, newest last, with the location of the database when each began. The
-- marker of a Chroma server names the newest epoch that was written to it.
CREATE TABLE memory_pipeline.epoch (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    nonce uuid NOT NULL UNIQUE DEFAULT gen_random_uuid(),
    home text NOT NULL,
    timeline bigint NOT NULL,
    outbox bigint NOT NULL,
    begun_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- A sign that Postgres went back in time, with the nonce that a marker named and no epoch here has.
-- swept_at: no collection that only the forgotten state knew is left since then.
CREATE TABLE memory_pipeline.setback (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    reason text NOT NULL,
    nonce uuid UNIQUE,
    noticed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    swept_at timestamptz
);

-- The database that wrote the server's marker last. NULL: none yet, or this database may take the
-- server over.
ALTER TABLE memory_pipeline.server ADD COLUMN home text;

-- The changes to sync before the tenant is proven again: the reset that compares all of it, and what
-- that finds. A tenant without any is proven.
ALTER TABLE memory_pipeline.change ADD COLUMN unproven boolean NOT NULL DEFAULT false;
CREATE INDEX change_unproven ON memory_pipeline.change (tenant) WHERE unproven;
