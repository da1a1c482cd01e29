"""What a verify may overlook because a change waits for it, in Postgres alone."""

import psycopg
import pytest

from memory_pipeline.domain.outcomes import Failure
from memory_pipeline.domain.types import (
    MemoryId,
    ProvenanceUpdate,
    TenantId,
)
from memory_pipeline.postgres.outbox import PostgresOutbox
from memory_pipeline.postgres.rebuilds import PostgresRebuilds
from memory_pipeline.postgres.registry import PostgresRegistry
from memory_pipeline_tests.integration.races.words import PROVENANCE, begun, owned, taken
from memory_pipeline_tests.words import ADA, remember


def test_what_waits_or_is_buried_is_an_excuse(
    db: psycopg.Connection, outbox: PostgresOutbox
) -> None:
    """A difference that is on its way to be mended is no finding, whoever has claimed it."""
    waits, claimed, buried, right = (MemoryId(remember(db)) for _ in range(4))
    lease = taken(outbox)
    claim = outbox.claim(lease)
    outbox.ack(
        lease,
        claim.without([claimed]),
        landed=dict.fromkeys([waits, right], ProvenanceUpdate(PROVENANCE)),
        failures=[Failure(buried, "poison")],
        missed=[],
        recheck=[waits],
    )
    db.execute("UPDATE memory_pipeline.failure SET buried_at = now()")
    db.execute("DELETE FROM memory_pipeline.change WHERE memory_id = %s", (buried,))

    expected = outbox.expected_differences(ADA, [waits, claimed, buried, right])

    assert expected.pending == {waits, claimed}
    assert expected.buried == {buried}
    assert all(expected.explains(memory_id) for memory_id in (waits, claimed, buried))
    assert not expected.explains(right)
    assert outbox.expected_differences(ADA, [right]).pending == frozenset()
    assert outbox.expected_differences(TenantId("bob"), [waits, buried]).pending == frozenset()
    assert outbox.expected_differences(TenantId("bob"), [waits, buried]).buried == frozenset()


def test_a_failure_that_is_tried_again_expected_by_its_change_alone(
    db: psycopg.Connection, outbox: PostgresOutbox
) -> None:
    """A memory that failed and is not buried has a change that waits: that is the excuse."""
    memory_id = MemoryId(remember(db))
    lease = taken(outbox)
    outbox.ack(
        lease,
        outbox.claim(lease),
        landed={},
        failures=[Failure(memory_id, "poison")],
        missed=[],
        recheck=[],
    )

    expected = outbox.expected_differences(ADA, [memory_id])

    assert expected.pending == {memory_id}
    assert expected.buried == frozenset()


@pytest.mark.parametrize("what", ["reset", "truncation"])
def test_what_is_about_everything_expected_everything(
    db: psycopg.Connection, registry: PostgresRegistry, outbox: PostgresOutbox, what: str
) -> None:
    """While a whole tenant waits to be reconciled no memory of it is judged."""
    memory_id = MemoryId(remember(db))
    db.execute("DELETE FROM memory_pipeline.change")
    assert not outbox.expected_differences(ADA, [memory_id]).explains(memory_id)

    db.execute("TRUNCATE memory_logs")
    if what == "reset":
        outbox.pending_tenants()

    assert outbox.expected_differences(ADA, [memory_id]).everything
    assert outbox.expected_differences(ADA, [memory_id]).explains(memory_id)


def test_what_a_rebuild_under_way_covers_is_no_excuse(
    db: psycopg.Connection,
    registry: PostgresRegistry,
    rebuilds: PostgresRebuilds,
    outbox: PostgresOutbox,
) -> None:
    """It has to stand in the new collection before the flip acks it; given up, it waits again."""
    memory_id = MemoryId(remember(db))
    build, lease, generation = owned(rebuilds), taken(outbox), begun(registry)
    rebuilds.register_building(build, lease, generation)
    assert not outbox.expected_differences(ADA, [memory_id]).explains(memory_id)

    db.execute("UPDATE memory_pipeline.change SET claim_token = 1")
    assert outbox.expected_differences(ADA, [memory_id]).explains(memory_id)

    db.execute("UPDATE memory_pipeline.change SET claim_token = NULL")
    registry.abandon(lease, generation.id)
    assert outbox.expected_differences(ADA, [memory_id]).explains(memory_id)
