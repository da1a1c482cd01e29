-- Forgetting a tenant: what stands of it until nothing is left, and tokens that outlive a registration.

-- A tenant that is being forgotten. The row is deleted when its collections are proven to be gone;
-- until then `status` shows it, and a worker continues.
CREATE TABLE memory_pipeline.erasure (
    tenant text PRIMARY KEY,
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Since then the tenant is out of the registry, and every lease on it is void.
    fenced_at timestamptz,
    -- Before then, a request that was sent before the fence may still create a collection.
    settles_at timestamptz,
    tried_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Why the last attempt did not end it.
    waits_for text NOT NULL DEFAULT ''
);

-- A generation of a forgotten registration: its row is deleted with its collection.
ALTER TABLE memory_pipeline.generation ADD COLUMN erase boolean NOT NULL DEFAULT false;
CREATE INDEX generation_erase ON memory_pipeline.generation (tenant) WHERE erase;

-- The tokens of a tenant's next registration are above those of all its registrations before: a
-- worker that still holds one of those is fenced. A registration has 2^32 of them.
ALTER TABLE memory_pipeline.installation ADD COLUMN registrations bigint NOT NULL DEFAULT 0;
UPDATE memory_pipeline.installation
SET registrations = (SELECT coalesce(max(lease_token), 0) >> 32 FROM memory_pipeline.tenant);
