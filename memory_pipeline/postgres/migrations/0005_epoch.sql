-- Postgres may go back in time (a restore, a failover): how that is noticed, and what has to be
-- proven then.

-- The epochs of this database, newest last; the markers of the Chroma servers name the newest that
-- they were told of. Where the database was when it began.
CREATE TABLE memory_pipeline.epoch (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    nonce uuid NOT NULL UNIQUE DEFAULT gen_random_uuid(),
    home text NOT NULL,
    timeline bigint NOT NULL,
    outbox bigint NOT NULL,
    begun_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- A sign that Postgres went back, once each; with the nonce that some marker named and that no epoch
-- here has. swept_at: since then no collection is left that only the forgotten state knew.
CREATE TABLE memory_pipeline.setback (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    reason text NOT NULL,
    nonce uuid UNIQUE,
    noticed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    swept_at timestamptz
);

-- From where its marker was last written: another home in there means another database. NULL: never,
-- or this database was told to take the server over.
ALTER TABLE memory_pipeline.server ADD COLUMN home text;

-- What has to be brought before the tenant is proven again: the reset that compares all of it, and
-- what that finds. A tenant without any is proven.
ALTER TABLE memory_pipeline.change ADD COLUMN unproven boolean NOT NULL DEFAULT false;
CREATE INDEX change_unproven ON memory_pipeline.change (tenant) WHERE unproven;
