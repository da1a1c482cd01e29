-- The workers, and how fresh they keep the index.

-- A change that no application made: sync the memory as if it had changed.
ALTER TABLE memory_pipeline.change ADD COLUMN again boolean NOT NULL DEFAULT false;

-- A worker that is alive. A worker without a heartbeat for some seconds is taken to be gone.
CREATE TABLE memory_pipeline.worker (
    id uuid PRIMARY KEY,
    host text NOT NULL,
    pid integer NOT NULL,
    version text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    beat_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

-- How old changes were when they became searchable, over the last quarter of an hour, in seconds.
-- The row of all tenants together has tenant NULL.
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
