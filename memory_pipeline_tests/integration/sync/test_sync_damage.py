"""The heart over a real Postgres and a real Chroma: collections that are damaged are replaced."""

from collections.abc import Callable, Collection
from dataclasses import replace

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
from memory_pipeline.postgres.registry import AUTOMATIC_REBUILDS_AN_HOUR
from memory_pipeline.sync.damage import FAILURES_BEFORE_PROBE, SILENT_FAILURES
from memory_pipeline_tests.doubles import raises
from memory_pipeline_tests.integration.sync.words import (
    assert_mirrored,
    damage,
    settled,
    with_index,
)
from memory_pipeline_tests.words import (
    ADA,
    BOB,
    SECONDS,
    count_of,
    drained,
    drained_due,
    held,
    live,
    one,
    pass_time,
    remember,
)

# ---- documents that no search finds


def test_what_no_search_lists_any_more_is_written_again(
    pipeline: Pipeline, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P4: Chroma loses some beside others that are rewritten; each so many changes it is looked."""
    hidden = MemoryId(remember(db, summary="hidden"))
    drained_due(pipeline)
    written: list[MemoryId] = []
    sync = with_index(pipeline, after=lambda _, ids: written.extend(ids), hides=(hidden,))
    monkeypatch.setattr("memory_pipeline.sync.tenant.CHANGES_PER_REACHABILITY_CHECK", 10**9)
    new = remember(db, summary="rewritten")
    drained_due(pipeline, sync)
    assert written == [new]
    monkeypatch.setattr("memory_pipeline.sync.tenant.CHANGES_PER_REACHABILITY_CHECK", 1)
    newer = remember(db, summary="rewritten again")
    drained_due(pipeline, sync)
    assert written == [new, newer, hidden]
    assert count_of(db, "change") == 0
    assert_mirrored(pipeline)


# ---- damaged collections


def test_a_collection_that_refuses_a_control_write_is_replaced(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: Callable[..., None]
) -> None:
    """P5: what takes nothing at all is damaged: nobody is charged, all lands in a new one."""
    memories = {remember(db, summary=f"memory {n}") for n in range(5)}
    drained_due(pipeline)
    damaged = live(pipeline)
    memories.add(remember(db, summary="the last straw"))

    def refuse(generation: Generation, _: Collection[MemoryId]) -> None:
        if generation.id == damaged.id:
            raise Poison("refused")

    sync = with_index(pipeline, before=refuse, on_control=raises(Poison("refused"), times=1))
    outcome, rebuilt, *_ = drained(pipeline, sync)
    assert (outcome.verdict, rebuilt.verdict) == ("damaged", "done")
    pass_time(db, 100)
    wait_until(lambda: settled(pipeline, sync))
    assert live(pipeline).id != damaged.id
    assert held(pipeline) == memories
    assert_mirrored(pipeline)
    assert count_of(db, "failure") == 0
    assert one(db, "SELECT state FROM memory_pipeline.generation ORDER BY created_at") == "corrupt"


def test_a_collection_that_is_found_damaged_goes_on_being_searched(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P4: an answer that is late is better than none: the pointer waits for what is better."""
    remember(db)
    drained_due(pipeline)
    before = live(pipeline)
    remember(db, summary="another")
    refuse = raises(Poison("refused"))
    outcome = with_index(pipeline, before=refuse, on_control=refuse).run(ADA)
    assert outcome.verdict == "damaged"
    assert live(pipeline) == replace(before, state="corrupt")
    assert len(pipeline.search.search(ADA, "a memory")) == 1


def test_damage_is_told_before_anything_is_claimed(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P1: where nothing can be written nothing is claimed, charged or acked; it all waits."""
    remember(db)
    drained_due(pipeline)
    damage(pipeline)
    remember(db, summary="another")
    for _ in range(2):
        outcome = pipeline.sync().run(ADA)
        assert outcome.verdict == "damaged"
        assert "corrupt" in outcome.reason
        assert count_of(db, "change") == 1
        assert count_of(db, "change WHERE claim_token IS NOT NULL OR confirm") == 0
    assert count_of(db, "failure") == 0


def test_a_collection_that_vanished_is_built_again(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P1: whatever happened to a collection, Postgres has everything to build another."""
    for n in range(5):
        remember(db, summary=f"memory {n}")
    drained_due(pipeline)
    gone = live(pipeline)
    pipeline.index.drop(gone, seconds=SECONDS)
    remember(db, summary="one more")
    drained(pipeline)
    drained(pipeline)
    assert live(pipeline).id != gone.id
    assert_mirrored(pipeline)


def test_automatic_rebuilds_are_capped(
    reopened: Callable[..., Pipeline], db: psycopg.Connection
) -> None:
    """P5: what damages every collection is not cured by building more of them."""
    pipeline = reopened(grace_seconds=1000.0)  # no confirm falls due in between
    refuse = raises(Poison("refused"))
    sync = with_index(pipeline, before=refuse, on_control=refuse)
    memories = set()
    for number in range(AUTOMATIC_REBUILDS_AN_HOUR):
        memories.add(remember(db, summary=f"memory {number}"))
        assert [o.verdict for o in drained_due(pipeline, sync)] == ["damaged", "done"]
        assert held(pipeline) == memories
    remember(db, summary="one too many")
    for _ in range(3):
        assert [o.verdict for o in drained(pipeline, sync)] == ["damaged"]
    assert count_of(db, "generation") == AUTOMATIC_REBUILDS_AN_HOUR + 1
    assert count_of(db, "generation WHERE state <> 'corrupt'") == 0
    assert count_of(db, "failure") == 0
    assert held(pipeline) == memories


def test_a_lease_that_is_lost_while_damage_is_found_is_fenced(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """Whoever has the tenant now decides about its collection; the loser's sync just ends."""
    remember(db)
    drained_due(pipeline)
    remember(db, summary="another")

    def lose(generation: Generation, _: Collection[MemoryId]) -> None:
        pass_time(db, 100)
        assert pipeline.outbox.acquire_lease(ADA) is not None
        raise Corrupt("damaged", generation=generation.id)

    before = live(pipeline)
    outcome = with_index(pipeline, before=lose).run(ADA)
    assert outcome.verdict == "fenced"
    assert live(pipeline).id == before.id


# ---- outages and unknown outcomes


def test_a_damaged_collection_waits_while_chroma_is_down(
    reopened: Callable[..., Pipeline], pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P1, P5: an outage postpones a rebuild as it postpones a sync; one drain tells all of them."""
    remember(db, "ada")
    remember(db, "bob")
    drained_due(pipeline)
    damage(pipeline)
    remember(db, "bob", "meanwhile")
    outcomes = drained_due(reopened(chroma_url="http://127.0.0.1:1"))
    assert {(o.tenant, o.verdict) for o in outcomes} == {(ADA, "postponed"), (BOB, "postponed")}
    drained(pipeline)
    assert_mirrored(pipeline, ADA)
    assert_mirrored(pipeline, BOB)


def test_a_collection_that_takes_no_write_is_rebuilt_and_not_tried_for_ever(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """Its server takes those of others: after some tries it is damaged, whatever it answers."""
    remember(db, "ada")
    remember(db, "bob")
    drained_due(pipeline)
    wedged, sound = live(pipeline), live(pipeline, BOB)
    remember(db, "ada", "meanwhile")
    refused = ChromaUnavailable("answers 500: nobody knows these words", answered=True)

    def fail(generation: Generation, _: Collection[MemoryId]) -> None:
        if generation.id == wedged.id:
            raise refused

    def no_control() -> None:
        raise refused

    sync = with_index(pipeline, before=fail, on_control=no_control)
    verdicts = [sync.run(ADA).verdict for _ in range(FAILURES_BEFORE_PROBE + 1)]
    assert verdicts == ["postponed"] * FAILURES_BEFORE_PROBE + ["damaged"]
    drained(pipeline)
    assert live(pipeline).id != wedged.id
    assert live(pipeline, BOB).id == sound.id
    assert count_of(db, "failure") == 0
    assert_mirrored(pipeline)


def test_a_collection_that_is_silent_may_be_busy(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """Who does not answer may be at a large write of before; it takes longer to be given up."""
    remember(db, "ada")
    drained_due(pipeline)
    remember(db, "ada", "meanwhile")
    silent = ChromaUnavailable("did not answer in time")

    def no_control() -> None:
        raise silent

    sync = with_index(pipeline, before=raises(silent, times=99), on_control=no_control)
    verdicts = [sync.run(ADA).verdict for _ in range(SILENT_FAILURES + 1)]
    assert verdicts == ["postponed"] * SILENT_FAILURES + ["damaged"]


def test_a_collection_that_takes_other_writes_is_not_called_damaged(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """An outage of something else, however long, costs no collection."""
    remember(db, "ada")
    drained_due(pipeline)
    before = live(pipeline)
    remember(db, "ada", "meanwhile")
    sync = with_index(pipeline, before=raises(ChromaUnavailable("answers 429: slow down"), times=9))
    assert {sync.run(ADA).verdict for _ in range(9)} == {"postponed"}
    assert sync.run(ADA).verdict == "done"
    assert live(pipeline).id == before.id
    assert_mirrored(pipeline)


# ---- refusals and the model


def test_a_generation_that_is_given_up_is_built_again_without_a_change(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P1: whoever drains comes to a damaged collection, though nothing of its tenant waits."""
    remember(db, "ada")
    drained_due(pipeline)
    damaged = damage(pipeline)
    assert count_of(db, "change") == 0
    [outcome] = drained_due(pipeline)
    assert outcome.verdict == "done"
    assert live(pipeline).id != damaged.id
    assert_mirrored(pipeline)
