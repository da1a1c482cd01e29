"""Races on the whole way from the application to a search, with the real Chroma."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event
from typing import Any

import numpy as np
import psycopg
import pytest

from memory_pipeline.content.document import vector_hash
from memory_pipeline.domain.types import (
    MemoryId,
    TenantId,
    document_id,
)
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.postgres.migrate import migrate
from memory_pipeline_tests.integration.races.words import expire, stored_vector, vector_of, waiting
from memory_pipeline_tests.words import ADA, BOB, drained_well, held, live, one, remember


def test_a_slow_transaction_with_a_lower_number_still_arrives(
    pipeline: Pipeline, db: psycopg.Connection, database_url: str
) -> None:
    """T1, P1: commit order is not id order, and no cursor passes over it."""
    with psycopg.connect(database_url) as slow:
        early = remember(slow, summary="the slow one")
        late = remember(db, summary="the fast one")
        drained_well(pipeline)
        assert held(pipeline) == {late}
        slow.commit()

    drained_well(pipeline)

    assert held(pipeline) == {early, late}


def test_a_memory_that_the_application_holds_stays_pending_and_arrives_as_it_was_committed(
    pipeline: Pipeline,
    db: psycopg.Connection,
    database_url: str,
    wait_until: Callable[..., None],
) -> None:
    """A missed backup leaves the change pending, and the next read is the truth."""
    memory_id = remember(db, summary="before")
    with psycopg.connect(database_url) as application:
        application.execute('UPDATE memory_logs SET raw_data = \'{"summary": "after"}\'')
        outcome = pipeline.sync().run(ADA)
        assert (outcome.verdict, outcome.written) == ("done", 0)
        assert waiting(db) == [memory_id]
        application.commit()

    def done() -> bool:
        drained_well(pipeline)
        return pipeline.outbox.pending(ADA) == 0

    wait_until(done)
    hits = pipeline.search.search(ADA, "after")
    assert [(h.memory_id, h.memory) for h in hits] == [(memory_id, {"summary": "after"})]
    assert vector_hash(vector_of(pipeline, memory_id)) == vector_hash(
        pipeline.embedder.embed(["after"])[0]
    )


@pytest.mark.parametrize(
    "write",
    [
        pytest.param("UPDATE memory_logs SET embedding = NULL", id="nulled"),
        pytest.param(
            "UPDATE memory_logs SET embedding = array_fill(0.25, ARRAY[768])::vector",
            id="replaced",
        ),
    ],
)
def test_a_vector_that_the_application_touched_is_never_taken_for_ours(
    pipeline: Pipeline, db: psycopg.Connection, write: str
) -> None:
    """The text is the same and the provenance is there, but it is not that vector's."""
    memory_id = remember(db, summary="the same text")
    drained_well(pipeline)
    ours = stored_vector(db, memory_id)
    db.execute(write)

    drained_well(pipeline)

    assert np.array_equal(stored_vector(db, memory_id), ours)
    assert np.allclose(vector_of(pipeline, memory_id), ours, atol=1e-6)
    assert waiting(db) == []


def test_a_vector_of_the_application_is_used_where_it_is_trusted(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """With vectors=trust what the application stores is the model's, before and after."""
    migrate(pipeline.settings, vectors="trust")
    memory_id = remember(db, summary="the same text")
    drained_well(pipeline)
    db.execute("UPDATE memory_logs SET embedding = array_fill(0.25, ARRAY[768])::vector")

    drained_well(pipeline)

    theirs = np.full(768, 0.25, dtype=np.float32)
    assert np.array_equal(stored_vector(db, memory_id), theirs)
    assert np.allclose(vector_of(pipeline, memory_id), theirs, atol=1e-6)


def test_a_vector_nulled_under_trust_is_computed(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """Trust covers what is there, not what is missing."""
    migrate(pipeline.settings, vectors="trust")
    memory_id = remember(db, summary="the same text")
    drained_well(pipeline)
    ours = stored_vector(db, memory_id)
    db.execute("UPDATE memory_logs SET embedding = NULL")

    drained_well(pipeline)

    assert np.array_equal(stored_vector(db, memory_id), ours)


def test_two_workers_of_one_tenant_never_write_at_once(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """One writer a tenant: the second says busy, and nothing is written twice or lost."""
    ids = {remember(db, summary=f"memory {n}") for n in range(30)}
    sync = pipeline.sync()
    together = Barrier(3)

    def run(_: int) -> str:
        together.wait()
        return sync.run(ADA).verdict

    with ThreadPoolExecutor(3) as threads:
        verdicts = list(threads.map(run, range(3)))
    drained_well(pipeline)

    assert set(verdicts) <= {"done", "busy"}
    assert held(pipeline) == ids
    assert one(db, "SELECT count(*) FROM memory_pipeline.generation") == 1
    assert waiting(db) == []


def test_search_shows_nothing_that_was_deleted_or_moved_while_chroma_still_has_it(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P3, P4: existence and tenant are read from Postgres on each search."""
    gone, moved, kept = (remember(db, summary=f"tea number {n}") for n in range(3))
    drained_well(pipeline)
    db.execute("DELETE FROM memory_logs WHERE id = %s", (gone,))
    db.execute("UPDATE memory_logs SET user_id = 'bob' WHERE id = %s", (moved,))
    assert len(held(pipeline)) == 3

    assert [h.memory_id for h in pipeline.search.search(ADA, "tea")] == [kept]
    assert pipeline.search.search(TenantId("bob"), "tea") == []

    drained_well(pipeline)
    assert held(pipeline) == {kept}
    assert held(pipeline, BOB) == {moved}


def test_an_id_that_a_truncate_gave_to_another_tenant_is_not_shown_to_the_old_one(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P3: not even before the reset, which then empties the old one."""
    first = remember(db, "ada", "a secret of ada")
    drained_well(pipeline)
    db.execute("TRUNCATE memory_logs RESTART IDENTITY")
    assert remember(db, "bob", "a secret of bob") == first
    assert held(pipeline) == {first}

    assert pipeline.search.search(ADA, "secret") == []

    drained_well(pipeline)
    assert held(pipeline) == set()
    assert [h.memory for h in pipeline.search.search(TenantId("bob"), "secret")] == [
        {"summary": "a secret of bob"}
    ]


def test_a_search_follows_the_pointer_at_once(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """No search goes to a generation that was replaced; until then, every one does."""
    memory_id = remember(db, summary="tea")
    drained_well(pipeline)
    old = live(pipeline)
    assert [h.memory_id for h in pipeline.search.search(ADA, "tea")] == [memory_id]
    lease = pipeline.outbox.acquire_lease(ADA)
    assert lease is not None
    pipeline.registry.abandon(lease, old.id)
    pipeline.outbox.release_lease(lease)
    assert live(pipeline).id == old.id
    assert [h.memory_id for h in pipeline.search.search(ADA, "tea")] == [memory_id]

    drained_well(pipeline)
    pipeline.index.drop(old, seconds=5.0)

    assert live(pipeline).id != old.id
    assert [h.memory_id for h in pipeline.search.search(ADA, "tea")] == [memory_id]


def test_a_memory_that_is_rewritten_is_there_at_every_moment(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """No delete before the upsert, so no reader ever misses a memory that exists."""
    ids = [remember(db, summary=f"version 0 of {n}") for n in range(20)]
    drained_well(pipeline)
    generation, updated = live(pipeline), Event()
    names = [document_id(MemoryId(i)) for i in ids]

    def read() -> list[int]:
        counts: list[int] = []
        while not updated.is_set():
            with pipeline.servers.client(generation.server).collection(generation, 5.0) as c:
                counts.append(len(c.get(ids=names, include=[])["ids"]))
        return counts

    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(read)
        try:
            for version in range(1, 11):
                db.execute(
                    "UPDATE memory_logs SET raw_data ="
                    " jsonb_build_object('summary', 'version ' || %s || ' of ' || id)",
                    (str(version),),
                )
                drained_well(pipeline)
        finally:
            updated.set()

    assert set(reading.result()) == {20}


def test_a_memory_that_is_rewritten_is_found_by_its_new_vector(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """After many changes of vectors each memory is still found by what it says now."""
    ids = [remember(db, summary=f"apple {n}") for n in range(60)]
    drained_well(pipeline)
    for word in ("pear", "plum", "fig"):
        db.execute(
            "UPDATE memory_logs SET raw_data = jsonb_build_object('summary', %s || ' ' || id)",
            (word,),
        )
        drained_well(pipeline)

    unfound = [
        i for i in ids if i not in {h.memory_id for h in pipeline.search.search(ADA, f"fig {i}")}
    ]
    assert unfound == []


def test_a_late_write_of_a_dead_worker_is_mended_by_the_confirm(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: Callable[..., None]
) -> None:
    """P1, P2: what landed after the takeover's write is overwritten once the confirm is due."""
    memory_id = remember(db, summary="old text")
    drained_well(pipeline)
    generation = live(pipeline)
    with pipeline.servers.client(generation.server).collection(generation, 5.0) as collection:
        late: Any = collection.get(
            ids=[document_id(MemoryId(memory_id))], include=["embeddings", "metadatas"]
        )
    db.execute('UPDATE memory_logs SET raw_data = \'{"summary": "new text"}\'')
    dying = pipeline.outbox.acquire_lease(ADA)
    assert dying is not None
    pipeline.outbox.claim(dying)
    expire(db)
    drained_well(pipeline)
    right = pipeline.index.hashes(generation, renew=lambda: 5.0)
    assert len(waiting(db)) == 1

    with pipeline.servers.client(generation.server).collection(generation, 5.0) as collection:
        collection.upsert(
            ids=late["ids"], embeddings=late["embeddings"], metadatas=late["metadatas"]
        )
    assert pipeline.index.hashes(generation, renew=lambda: 5.0) != right

    def confirmed() -> bool:
        drained_well(pipeline)
        return pipeline.outbox.pending(ADA) == 0

    wait_until(confirmed, within=10)
    assert pipeline.index.hashes(generation, renew=lambda: 5.0) == right


@pytest.mark.parametrize("column", ["raw_data", "created_at", "updated_at"])
def test_a_memory_with_a_null_delays_no_other(
    pipeline: Pipeline, db: psycopg.Connection, column: str
) -> None:
    """P5: an attached table may lack NOT NULL; such a row harms itself alone."""
    db.execute(f"ALTER TABLE memory_logs ALTER COLUMN {column} DROP NOT NULL")
    odd = remember(db, summary="odd")
    db.execute(f"UPDATE memory_logs SET {column} = NULL WHERE id = %s", (odd,))
    good = remember(db, summary="good")

    drained_well(pipeline)

    assert good in held(pipeline)
