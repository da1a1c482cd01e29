-- What an import with external ids has stored, so that the next one finds it again.

-- The id itself is kept as its SHA-256, for it may be a person's name and of any length. A row of
-- memory_logs is recognised by its id and its time: TRUNCATE … RESTART IDENTITY uses ids again, and
-- another memory's content must never be replaced. content_hash is that of what was imported: a
-- file that says the same as before changes nothing, whatever the application has made of the row.
CREATE TABLE memory_pipeline.external_id (
    tenant text NOT NULL,
    external_id_hash bytea NOT NULL,
    memory_id bigint NOT NULL,
    created_at timestamptz,
    content_hash bytea NOT NULL,
    PRIMARY KEY (tenant, external_id_hash)
) WITH (fillfactor = 90);
