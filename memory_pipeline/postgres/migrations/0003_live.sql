-- The live processes, and how fresh they keep what they serve.

-- A change that no application made: look again, as if the memory had changed.
ALTER TABLE memory_pipeline.change ADD COLUMN again boolean NOT NULL DEFAULT false;

-- A live process that said it was there. One that has not for some seconds is gone.
CREATE TABLE memory_pipeline.worker (
    id uuid PRIMARY KEY,
    host text NOT NULL,
    pid integer NOT NULL,
    version text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    beat_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

-- How old changes were when they became searchable, over the last while, in seconds. The row of all
-- tenants together has the name of none: NULL.
CREATE TABLE memory_pipeline.freshness (
    tenant text,
    measured_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    changes integer NOT NULL,
    p50 double precision NOT NULL,
    p95 double precision NOT NULL,
    p99 double precision NOT NULL,
    slowest double precision NOT NULL,
    UNIQUE NULLS NOT DISTINCT (tenant)
) WITH (fillfactor = 50);
