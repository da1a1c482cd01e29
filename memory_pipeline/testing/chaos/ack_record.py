"""The record of every deleted change, kept by a trigger of the run in a schema of its own."""

import psycopg

from memory_pipeline.testing.chaos.ledger import Ack

# Records each deleted change: its claim's token, the tenant's lease token at that moment, and how
# long the lease had ended when the statement began, by Postgres's clock (a statement that began in
# time has locked the lease, and may wait for rows). A change that a flip acks has no claim: the
# generation that goes live covers it.
RECORD_ACKS = """
CREATE SCHEMA chaos;
CREATE TABLE chaos.acked (
    seq bigint, tenant text, memory_id bigint, applications boolean, covered boolean,
    claim_token bigint, lease_token bigint, late_seconds float8,
    changed float8, acked float8
);
CREATE FUNCTION chaos.record_ack() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos.acked
    SELECT OLD.seq, OLD.tenant, OLD.memory_id, NOT (OLD.confirm OR OLD.recheck),
           OLD.covered_by IS NOT NULL AND OLD.claim_token IS NULL,
           OLD.claim_token, t.lease_token,
           extract(epoch FROM statement_timestamp() - t.lease_until)::float8,
           extract(epoch FROM OLD.changed_at)::float8,
           extract(epoch FROM clock_timestamp())::float8
    FROM (VALUES (OLD.tenant)) AS o (tenant)
    LEFT JOIN memory_pipeline.tenant t ON t.tenant = o.tenant;
    RETURN OLD;
END $$;
CREATE TRIGGER record_ack BEFORE DELETE ON memory_pipeline.change
    FOR EACH ROW EXECUTE FUNCTION chaos.record_ack();
"""
ACKS = """
SELECT seq, tenant, memory_id, applications, covered, claim_token, lease_token, late_seconds,
       changed, acked
FROM chaos.acked
"""
DELETE_ACKS = "TRUNCATE chaos.acked"


def install_ack_record(connection: psycopg.Connection) -> None:
    """Record every change that is deleted from now on."""
    connection.execute(RECORD_ACKS.encode())


def take_acks(connection: psycopg.Connection) -> list[Ack]:
    """Return the acks since the last call, and delete their record."""
    acks = [Ack(*row) for row in connection.execute(ACKS)]
    connection.execute(DELETE_ACKS)
    return acks
