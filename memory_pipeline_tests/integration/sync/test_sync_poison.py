"""The heart over a real Postgres and a real Chroma: what is refused is charged alone."""

from collections.abc import Callable, Collection

import psycopg
import pytest

from memory_pipeline.domain.outcomes import Failure
from memory_pipeline.domain.types import (
    Generation,
    MemoryId,
)
from memory_pipeline.errors import (
    Poison,
)
from memory_pipeline.pipeline import Pipeline
from memory_pipeline_tests.doubles import raises
from memory_pipeline_tests.embedders import BrokenEmbedder, RefusingEmbedder
from memory_pipeline_tests.integration.sync.words import (
    assert_mirrored,
    settled,
    with_embedder,
    with_index,
)
from memory_pipeline_tests.words import (
    ADA,
    change,
    count_of,
    drained_due,
    held,
    one,
    remember,
)

# ---- poison


def test_a_memory_that_the_model_refuses_is_buried_alone(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: Callable[..., None]
) -> None:
    """P5: forty-nine land at once; the fiftieth is tried so often and becomes a dead letter."""
    good = {remember(db, summary=f"memory {n}") for n in range(49)}
    bad = remember(db, summary="a cup of arsenic")
    sync = with_embedder(pipeline, RefusingEmbedder())
    drained_due(pipeline, sync)
    assert held(pipeline) == good
    wait_until(lambda: settled(pipeline, sync))
    row = db.execute(
        "SELECT memory_id, attempts, buried_at IS NOT NULL, last_error FROM memory_pipeline.failure"
    ).fetchall()
    assert [r[:3] for r in row] == [(bad, pipeline.settings.max_attempts, True)]
    assert "arsenic" not in row[0][3]
    assert held(pipeline) == good


def test_a_dead_letter_is_cleared_when_the_memory_lands(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: Callable[..., None]
) -> None:
    """P5: what the application mended is searchable, and no longer a failure."""
    bad = remember(db, summary="a cup of arsenic")
    sync = with_embedder(pipeline, RefusingEmbedder())
    wait_until(lambda: settled(pipeline, sync))
    assert count_of(db, "failure WHERE buried_at IS NOT NULL") == 1
    change(db, bad, "a cup of tea")
    drained_due(pipeline, sync)
    assert count_of(db, "failure") == 0
    assert_mirrored(pipeline)


def test_a_hot_poison_memory_is_buried_though_it_is_updated_all_the_time(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """Attempts are the memory's, not the change's; a neighbour lands each time."""
    bad = remember(db, summary="a cup of arsenic")
    sync = with_embedder(pipeline, RefusingEmbedder())
    neighbours = set()
    for n in range(pipeline.settings.max_attempts):
        change(db, bad, f"arsenic number {n}")
        neighbours.add(remember(db, summary=f"neighbour {n}"))
        sync.run(ADA)
        assert held(pipeline) == neighbours
    assert count_of(db, "failure WHERE buried_at IS NOT NULL") == 1


def test_a_model_that_refuses_everything_charges_nobody(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P5: a broken model is an outage; nothing was sent, so nothing stays claimed."""
    for n in range(3):
        remember(db, summary=f"memory {n}")
    [outcome] = drained_due(pipeline, with_embedder(pipeline, BrokenEmbedder()))
    assert outcome.verdict == "postponed"
    assert count_of(db, "failure") == 0
    assert count_of(db, "change WHERE claim_token IS NOT NULL OR confirm") == 0
    assert settled(pipeline)
    assert_mirrored(pipeline)


def test_a_document_that_chroma_refuses_is_isolated(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: Callable[..., None]
) -> None:
    """P5: the others of its batch land; it is charged, because a control write succeeds."""
    memories = [remember(db, summary=f"memory {n}") for n in range(20)]
    bad = memories[7]
    asked: list[bool] = []

    def refuse(_: Generation, ids: Collection[MemoryId]) -> None:
        if bad in ids:
            raise Poison("this document is refused")

    sync = with_index(pipeline, before=refuse, on_control=lambda: asked.append(True))
    drained_due(pipeline, sync)
    assert held(pipeline) == set(memories) - {bad}
    assert asked
    wait_until(lambda: settled(pipeline, sync))
    assert one(db, "SELECT memory_id FROM memory_pipeline.failure") == bad
    assert count_of(db, "failure WHERE buried_at IS NOT NULL") == 1
    assert count_of(db, "generation") == 1


@pytest.mark.parametrize("where", ["prime", "deletes"])
def test_a_refusal_without_a_document_is_no_crash(
    pipeline: Pipeline, db: psycopg.Connection, where: str
) -> None:
    """A sync never raises for a tenant's own troubles; the other tenants have their turn."""
    gone = remember(db, "ada")
    drained_due(pipeline)
    db.execute("DELETE FROM memory_logs WHERE id = %s", (gone,))
    refuse = raises(Poison("refused"))
    sync = with_index(pipeline, **{"on_prime" if where == "prime" else "before": refuse})
    assert sync.run(ADA).verdict in {"postponed", "damaged"}


# ---- refusals and the model


def test_a_memory_that_two_generations_refuse_is_charged_once(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P5: one failed attempt is one, whatever the number of targets."""
    memory_id = MemoryId(remember(db, "ada"))
    pipeline.registry.register(ADA)
    lease = pipeline.outbox.acquire_lease(ADA)
    assert lease is not None
    claim = pipeline.outbox.claim(lease)
    refused = [Failure(memory_id, "refused by live"), Failure(memory_id, "refused by building")]
    pipeline.outbox.ack(lease, claim, landed={}, failures=refused, missed=[], recheck=[])
    assert db.execute("SELECT attempts FROM memory_pipeline.failure").fetchall() == [(1,)]
