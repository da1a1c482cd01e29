"""The heart over a real Postgres and a real Chroma, while a rebuild fills a generation."""

from collections.abc import Callable, Collection

import psycopg
import pytest

from memory_pipeline.domain.types import (
    Generation,
    MemoryId,
)
from memory_pipeline.errors import (
    ChromaUnavailable,
    Corrupt,
    Poison,
)
from memory_pipeline.pipeline import Pipeline
from memory_pipeline_tests.integration.sync.words import (
    assert_mirrored,
    begin_building,
    damage,
    settled,
    with_index,
)
from memory_pipeline_tests.words import (
    ADA,
    SECONDS,
    count_of,
    drained,
    drained_due,
    held,
    held_in,
    live,
    one,
    remember,
)


def test_every_batch_writes_the_building_generation_too(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """What changes while a collection is built anew stands in both."""
    old = remember(db, summary="before")
    drained_due(pipeline)
    building = begin_building(pipeline)
    new = remember(db, summary="meanwhile")
    [outcome] = drained_due(pipeline)
    assert (outcome.verdict, outcome.written) == ("done", 1)
    assert held(pipeline) == {old, new}
    assert held_in(pipeline, building) == {new}
    db.execute("DELETE FROM memory_logs")
    drained_due(pipeline)
    assert held(pipeline) == held_in(pipeline, building) == set()


@pytest.mark.parametrize("where", ["on_prime", "before", "on_hashes"])
@pytest.mark.parametrize("trouble", ["damaged", "no answer", "not reached"])
def test_a_building_generation_that_fails_is_given_up_alone(
    pipeline: Pipeline, db: psycopg.Connection, where: str, trouble: str
) -> None:
    """The live one is written and acked all the same, and nobody is charged or waits."""
    old = remember(db, summary="before")
    drained_due(pipeline)
    building = begin_building(pipeline)
    new = remember(db, summary="meanwhile")

    def fail(generation: Generation, *_: object) -> None:
        if generation.id == building.id:
            raise {
                "damaged": Corrupt("damaged", generation=building.id),
                "no answer": ChromaUnavailable("no answer in time"),
                "not reached": ChromaUnavailable("connection refused", sent=False),
            }[trouble]

    # A reset, which looks at all of it.
    db.execute("INSERT INTO memory_pipeline.change (tenant, memory_id) VALUES ('ada', NULL)")
    sync = with_index(pipeline, **{where: fail})
    [outcome] = drained_due(pipeline, sync)
    assert (outcome.verdict, outcome.written, outcome.failed) == ("done", 1, 0)
    assert live(pipeline).state == "live"
    assert held(pipeline) == {old, new}
    assert_mirrored(pipeline)
    assert pipeline.registry.building(ADA) is None
    states = "SELECT state FROM memory_pipeline.generation WHERE id = %s"
    assert one(db, states, building.id) == "abandoned"
    assert (count_of(db, "change"), count_of(db, "failure")) == (0, 0)
    assert pipeline.registry.damaged() == {}


def test_a_memory_that_the_building_generation_alone_refuses_is_charged(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: Callable[..., None]
) -> None:
    """P5: it is tried so often in both and becomes a dead letter; the building one is kept."""
    drained_due(pipeline)
    remember(db, summary="before")
    drained_due(pipeline)
    building = begin_building(pipeline)
    bad, good = remember(db, summary="bad"), remember(db, summary="good")

    def refuse(generation: Generation, ids: Collection[MemoryId]) -> None:
        if generation.id == building.id and bad in ids:
            raise Poison("this document is refused")

    sync = with_index(pipeline, before=refuse)
    wait_until(lambda: settled(pipeline, sync))
    assert one(db, "SELECT memory_id FROM memory_pipeline.failure") == bad
    assert count_of(db, "failure WHERE buried_at IS NOT NULL") == 1
    assert pipeline.registry.building(ADA) == building
    assert held_in(pipeline, building) == {good}


def test_a_reset_compares_the_live_generation_alone(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """What a rebuild fills is not filled by the batches of a reset; it is compared at the end."""
    memories = {remember(db, summary=f"memory {n}") for n in range(3)}
    drained_due(pipeline)
    building = begin_building(pipeline)
    lost = min(memories)
    pipeline.index.write(live(pipeline), (), [MemoryId(lost)], renew=lambda: SECONDS)
    db.execute("INSERT INTO memory_pipeline.change (tenant, memory_id) VALUES ('ada', NULL)")
    drained_due(pipeline)
    assert held(pipeline) == memories
    assert held_in(pipeline, building) == {lost}
    assert count_of(db, "change") == 0


def test_beside_a_damaged_collection_the_one_that_is_built_is_kept_fresh(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """A damaged collection is written no more, and a rebuild under way gets what changes."""
    old = remember(db, summary="before")
    drained_due(pipeline)
    building = begin_building(pipeline)
    damaged = damage(pipeline)
    new = remember(db, summary="meanwhile")
    outcome = pipeline.sync().run(ADA)
    assert (outcome.verdict, outcome.written) == ("done", 1)
    assert held_in(pipeline, damaged) == {old}
    assert held_in(pipeline, building) == {new}
    assert count_of(db, "change") == 0


def test_what_a_rebuild_covers_waits_for_it(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """Where searches ask a damaged collection, writing its changes twice helps nobody."""
    remember(db, summary="before")
    drained_due(pipeline)
    damage(pipeline)
    remember(db, summary="covered")
    building = begin_building(pipeline)
    outcome = pipeline.sync().run(ADA)
    assert (outcome.verdict, outcome.written) == ("done", 0)
    later = remember(db, summary="later")
    outcome = pipeline.sync().run(ADA)
    assert (outcome.verdict, outcome.written) == ("done", 1)
    assert held_in(pipeline, building) == {later}
    assert count_of(db, "change WHERE covered_by IS NOT NULL AND claim_token IS NULL") == 1
    assert count_of(db, "change") == 1


@pytest.mark.parametrize("where", ["prime", "write"])
@pytest.mark.parametrize("beside", ["nothing", "a damaged one"])
def test_nothing_is_acked_where_nothing_could_be_written(
    pipeline: Pipeline, db: psycopg.Connection, where: str, beside: str
) -> None:
    """P1: a tenant whose only usable collection failed while it was built is not forgotten.

    There is no live collection to fall back on: what was claimed has to wait for the next one.
    """
    if beside == "a damaged one":
        remember(db, summary="before")
        drained_due(pipeline)
        damage(pipeline)
    remember(db, summary="covered")
    building = begin_building(pipeline)
    remember(db, summary="later")

    def fail(generation: Generation, *_: object) -> None:
        if generation.id == building.id:
            raise Corrupt("damaged", generation=building.id)

    sync = with_index(pipeline, **{"on_prime" if where == "prime" else "before": fail})
    outcome = sync.run(ADA)
    assert pipeline.registry.building(ADA) is None
    # Where nothing is live, a reset waits as well: what was acked before stood in this one alone.
    waiting = 2 if beside == "a damaged one" else 3
    assert (outcome.written, pipeline.outbox.pending(ADA)) == (0, waiting)
    assert count_of(db, "failure") == 0
    db.execute("UPDATE memory_pipeline.rebuild SET state = 'failed'")  # its process ended
    drained(pipeline)
    assert_mirrored(pipeline)


def test_a_rebuild_with_other_settings_that_was_left_does_not_stop_the_live_one(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """Setting them back is enough, as the refusal says, though half a collection was left."""
    remember(db, summary="before")
    drained_due(pipeline)
    begin_building(pipeline, model="another")
    db.execute("UPDATE memory_pipeline.rebuild SET owned_until = clock_timestamp()")
    new = remember(db, summary="meanwhile")
    outcome = pipeline.sync().run(ADA)
    assert outcome.verdict == "done"
    assert new in held(pipeline)
