"""Rebuilds that were cut off, against the real Postgres and Chroma: they go on where they were."""

from collections.abc import Sequence
from dataclasses import replace

import psycopg
import pytest

from memory_pipeline.chroma.index import ChromaIndex
from memory_pipeline.domain.outcomes import Rebuilt
from memory_pipeline.domain.types import (
    Checkpoint,
    Document,
    Generation,
    MemoryId,
)
from memory_pipeline.errors import (
    ChromaUnavailable,
)
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.ports import RenewLease
from memory_pipeline.postgres.rebuilds import PostgresRebuilds
from memory_pipeline_tests.doubles import Killed
from memory_pipeline_tests.integration.rebuild.words import (
    CHUNK,
    FIRST,
    SECOND,
    after_chunks,
    assert_true,
    in_sync,
    kill,
    let_ownership_end,
    one_tenant,
    rebuilt,
)
from memory_pipeline_tests.words import ADA, drained_well, live, remember


@pytest.mark.parametrize("chunks", [1, 2, 3])
def test_a_rebuild_that_was_killed_goes_on_where_it_was(
    pipeline: Pipeline, db: psycopg.Connection, chunks: int
) -> None:
    """P7: at most the chunk that was under way is written twice; the generation is the same."""
    ids = in_sync(pipeline, db, memories=4 * CHUNK)
    with pytest.raises(Killed):
        one_tenant(pipeline).run(FIRST, ADA, progress=after_chunks(chunks, kill))
    building = pipeline.registry.building(ADA)
    assert building is not None
    let_ownership_end(db)
    outcome = rebuilt(pipeline)
    assert outcome.verdict == "done"
    assert outcome.written <= len(ids) - chunks * CHUNK + CHUNK
    assert live(pipeline).id == building.id
    assert_true(pipeline)


def test_a_long_chunk_that_lands_late_is_done_again_by_short_ones(
    pipeline: Pipeline, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has written is written over, all of it: nothing older stays for verify to find."""
    ids = in_sync(pipeline, db, memories=5 * CHUNK)
    with pytest.raises(Killed):
        one_tenant(pipeline).run(FIRST, ADA, progress=after_chunks(1, kill))
    let_ownership_end(db)
    late: list[Document] = []

    def leave(_: object, generation: Generation, documents: Sequence[Document], *a: object) -> None:
        del generation, a
        late.extend(documents)
        if documents:
            raise Killed

    long = replace(one_tenant(pipeline), chunk_documents=3 * CHUNK, chunk_documents_idle=3 * CHUNK)
    with monkeypatch.context() as patch:
        patch.setattr(type(pipeline.index), "write", lambda *a, **_: leave(*a))
        with pytest.raises(Killed):
            long.run(FIRST, ADA)
    assert len(late) == 3 * CHUNK
    let_ownership_end(db)
    db.execute(
        """UPDATE memory_logs SET raw_data = '{"summary": "newer"}' WHERE id = %s""",
        (ids[3 * CHUNK],),
    )
    drained_well(pipeline)
    building = pipeline.registry.building(ADA)
    assert building is not None
    pipeline.index.write(building, late, [], renew=lambda: 5.0)
    outcome = rebuilt(pipeline)
    assert (outcome.verdict, outcome.repaired) == ("done", 0)
    assert live(pipeline).id == building.id
    assert_true(pipeline)


def test_another_rebuild_takes_over_what_a_dead_one_has_left(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """Whoever comes, what is done is not done again, and the dead one's part is closed."""
    in_sync(pipeline, db, memories=4 * CHUNK)
    with pytest.raises(Killed):
        one_tenant(pipeline).run(FIRST, ADA, progress=after_chunks(2, kill))
    let_ownership_end(db)
    assert rebuilt(pipeline, SECOND).written == 2 * CHUNK
    states = db.execute("SELECT id, state FROM memory_pipeline.rebuild ORDER BY id").fetchall()
    assert states == [("first", "failed"), ("second", "done")]
    assert_true(pipeline)


def test_one_that_was_frozen_gives_up_nothing_that_another_has_let_live(
    pipeline: Pipeline, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left half-built is given up by its owner alone, and only while it is building.

    What broke: a rebuild looked at what was left, and was frozen; another one went on with it and
    let it live; the first woke, found that it did not fit, and called what searches go to damaged.
    """
    in_sync(pipeline, db)
    with pytest.raises(Killed):
        one_tenant(pipeline).run(FIRST, ADA, progress=after_chunks(1, kill))
    let_ownership_end(db)
    reading = PostgresRebuilds.checkpoint
    frozen: list[Rebuilt] = []

    def frozen_meanwhile(self: PostgresRebuilds, building: Generation) -> Checkpoint:
        if not frozen:
            let_ownership_end(db)
            frozen.append(Rebuilt(ADA))  # once: what goes on reads as well
            frozen[0] = one_tenant(pipeline).run(FIRST, ADA)
        return reading(self, building)

    monkeypatch.setattr(PostgresRebuilds, "checkpoint", frozen_meanwhile)
    woken = rebuilt(pipeline, SECOND, re_embed=True)

    assert (frozen[0].verdict, woken.verdict) == ("done", "busy")
    assert live(pipeline).state == "live"
    assert_true(pipeline)


def test_a_second_rebuild_of_a_tenant_is_told_so(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """Two never fill one generation: the second hears that the first is under way."""
    in_sync(pipeline, db, memories=2 * CHUNK)
    second: list[Rebuilt] = []
    one_tenant(pipeline).run(
        FIRST, ADA, progress=after_chunks(1, lambda: second.append(rebuilt(pipeline, SECOND)))
    )
    assert [s.verdict for s in second] == ["busy"]
    assert_true(pipeline)


def test_what_a_rebuild_has_done_it_does_not_do_again(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """A retry of the whole costs a finished tenant nothing."""
    in_sync(pipeline, db)
    rebuilt(pipeline)
    generation = live(pipeline)
    assert rebuilt(pipeline).verdict == "skipped"
    assert live(pipeline).id == generation.id


def test_a_chunk_with_an_unknown_outcome_is_done_again(
    pipeline: Pipeline, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A timeout after sending is neither success nor failure: once it must have landed, again."""
    in_sync(pipeline, db, memories=3 * CHUNK)
    one = one_tenant(pipeline)
    write, failed = type(pipeline.index).write, [False]

    def lose_reply(
        self: object,
        generation: Generation,
        documents: Sequence[Document],
        deletes: Sequence[MemoryId],
        *,
        renew: RenewLease,
        add_only: bool = False,
    ) -> None:
        write(pipeline.index, generation, documents, deletes, renew=renew, add_only=add_only)
        if documents and not failed[0]:
            failed[0] = True
            raise ChromaUnavailable("did not answer in time")

    monkeypatch.setattr(type(pipeline.index), "write", lose_reply)
    outcome = one.run(FIRST, ADA)
    assert failed[0]
    assert outcome.verdict == "done"
    assert_true(pipeline)


def test_a_building_generation_that_vanished_is_begun_anew(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P7: damage to what is being built costs the rebuild another start, and live nothing."""
    in_sync(pipeline, db, memories=4 * CHUNK)
    old = live(pipeline)

    def damage() -> None:
        building = pipeline.registry.building(ADA)
        assert building is not None
        pipeline.index.drop(building, seconds=5)
        assert pipeline.index.count(old, seconds=5) == 4 * CHUNK

    assert one_tenant(pipeline).run(FIRST, ADA, progress=after_chunks(2, damage)).verdict == "done"
    assert live(pipeline).id != old.id
    assert_true(pipeline)


def test_a_building_generation_that_never_answers_is_begun_anew(
    pipeline: Pipeline, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What broke: where no batch came to give it up, each rebuild went on with it, for ever."""
    in_sync(pipeline, db, memories=2 * CHUNK)
    with pytest.raises(Killed):
        one_tenant(pipeline).run(FIRST, ADA, progress=after_chunks(1, kill))
    let_ownership_end(db)
    wedged = pipeline.registry.building(ADA)
    assert wedged is not None
    prime = type(pipeline.index).prime

    def hang(self: ChromaIndex, generation: Generation, *, renew: RenewLease) -> None:
        if generation.id == wedged.id:
            raise ChromaUnavailable("did not answer in time")
        prime(self, generation, renew=renew)

    monkeypatch.setattr(type(pipeline.index), "prime", hang)
    assert rebuilt(pipeline).verdict == "done"
    assert live(pipeline).id != wedged.id
    assert_true(pipeline)


def test_a_failing_building_generation_never_delays_live(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """A batch gives up a building generation that fails, and brings its changes to live."""
    in_sync(pipeline, db, memories=2 * CHUNK)
    with pytest.raises(Killed):
        one_tenant(pipeline).run(FIRST, ADA, progress=after_chunks(1, kill))
    let_ownership_end(db)
    building = pipeline.registry.building(ADA)
    assert building is not None
    pipeline.index.drop(building, seconds=5)
    remember(db, "ada", "cannot wait")
    drained_well(pipeline)
    assert pipeline.registry.building(ADA) is None
    assert pipeline.outbox.pending(ADA) == 0
    assert_true(pipeline)
