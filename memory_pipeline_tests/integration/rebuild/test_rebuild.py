"""Rebuilds against the real Postgres and Chroma: nothing lost, nothing half, whatever happens."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import numpy as np
import psycopg
import pytest
from pgvector.psycopg import register_vector

from memory_pipeline.chroma.transport import Transport
from memory_pipeline.content.document import vector_hash
from memory_pipeline.domain.types import (
    DIMENSION,
    Generation,
    RebuildId,
    RebuildPart,
    document_id,
)
from memory_pipeline.errors import (
    ConfigurationChanged,
    Corrupt,
    PostgresUnavailable,
)
from memory_pipeline.maintenance.cleanup import drop_retired
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.ports import Lease
from memory_pipeline.postgres.rebuilds import PostgresRebuilds
from memory_pipeline.rebuild.chunks import Chunk, WrittenChunk
from memory_pipeline.verify.written_rows import WrittenRows
from memory_pipeline_tests.embedders import CountingEmbedder
from memory_pipeline_tests.integration.rebuild.words import (
    CHUNK,
    FIRST,
    SECOND,
    after_chunks,
    assert_true,
    in_sync,
    one_tenant,
    rebuilt,
)
from memory_pipeline_tests.words import ADA, BOB, drained_well, live, remember

# ---- the new generation


def test_a_rebuild_replaces_the_collection_by_an_equal_one(
    pipeline: Pipeline, db: psycopg.Connection, embedder: CountingEmbedder
) -> None:
    """P7: searches go to a new collection, equal to Postgres; no vector was computed for it."""
    ids = in_sync(pipeline, db)
    old, embedded = live(pipeline), len(embedder.texts)
    outcome = rebuilt(pipeline)
    assert (outcome.verdict, outcome.written, outcome.reused) == ("done", len(ids), len(ids))
    assert live(pipeline).id != old.id
    assert len(embedder.texts) == embedded
    assert_true(pipeline)


def test_the_old_collection_is_dropped_when_its_grace_is_over(
    pipeline: Pipeline, db: psycopg.Connection, reopened: Callable[..., Pipeline]
) -> None:
    """A search under way may still use it for that long; then nothing is left behind."""
    in_sync(pipeline, db)
    old = live(pipeline)
    patient = reopened(retire_seconds=1000.0)
    rebuilt(patient)
    assert patient.index.count(old, seconds=5) == 12
    rebuilt(pipeline, SECOND)
    with pytest.raises(Corrupt):
        pipeline.index.count(old, seconds=5)


def test_what_cannot_be_dropped_now_holds_up_nothing_else(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """What broke: three collections of a server that was away stopped the dropping for ever."""
    in_sync(pipeline, db)
    away = uuid4()
    pipeline.registry.register_server(away, "http://127.0.0.1:1")
    for _ in range(3):
        pipeline.registry.begin_generation(ADA, away, model="m", config_hash="c", memories=0)
    db.execute(
        "UPDATE memory_pipeline.generation SET state = 'retired', ended_at = to_timestamp(0)"
        " WHERE server = %s",
        (away,),
    )
    assert one_tenant(pipeline).run(FIRST, ADA).verdict == "done"
    assert drop_retired(pipeline.registry, pipeline.index, grace_seconds=0, limit=1) == 1
    left = pipeline.registry.droppable(grace_seconds=0, limit=9)
    assert [g.server for g in left] == [away] * 3


def test_a_flip_whose_answer_was_lost_is_done(
    pipeline: Pipeline, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What broke: it was called another rebuild's."""
    in_sync(pipeline, db)
    before, flip = live(pipeline), PostgresRebuilds.flip

    def unanswered(self: PostgresRebuilds, *given: Any, **more: Any) -> None:
        flip(self, *given, **more)
        raise PostgresUnavailable("the connection broke")

    monkeypatch.setattr(PostgresRebuilds, "flip", unanswered)
    assert rebuilt(pipeline).verdict == "done"
    assert live(pipeline).id != before.id
    assert_true(pipeline)


def test_a_tenant_without_a_collection_gets_one(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """What was never synced needs no sync first, and what waited for it waits no longer."""
    for n in range(7):
        remember(db, "ada", f"memory {n}")
    pipeline.registry.register(ADA)
    assert rebuilt(pipeline).embedded == 7
    assert pipeline.outbox.pending(ADA) == 0
    assert_true(pipeline)


def test_a_tenant_without_memories_is_rebuilt_too(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """An empty collection that cannot be read any more is replaced like any other."""
    ids = in_sync(pipeline, db, memories=2)
    db.execute("DELETE FROM memory_logs WHERE id = ANY(%s)", (list(ids),))
    drained_well(pipeline)
    assert rebuilt(pipeline).verdict == "done"
    assert_true(pipeline)


def test_re_embed_computes_every_vector_anew(
    pipeline: Pipeline, db: psycopg.Connection, embedder: CountingEmbedder
) -> None:
    """Whatever the stored vectors are said to be."""
    in_sync(pipeline, db)
    embedded = len(embedder.texts)
    outcome = rebuilt(pipeline, re_embed=True)
    assert outcome.embedded == 12
    assert len(embedder.texts) == embedded + 12
    assert_true(pipeline)


def test_what_a_batch_wrote_meanwhile_is_computed_anew_too(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """What broke: a chunk passed over what stood there, with its old vector."""
    *_, last = in_sync(pipeline, db, memories=6 * CHUNK)
    old = np.full(DIMENSION, 0.1, dtype=np.float32)
    register_vector(db)
    db.execute("UPDATE memory_logs SET embedding = %s WHERE id = %s", (old, last))
    db.execute("DELETE FROM memory_pipeline.change")
    db.execute(
        "UPDATE memory_pipeline.provenance SET vector_hash = %s WHERE memory_id = %s",
        (vector_hash(old), last),
    )

    def change() -> None:
        db.execute("UPDATE memory_logs SET project_id = 'another' WHERE id = %s", (last,))

    pipeline.rebuilds.request(FIRST, [ADA], re_embed=True)
    outcome = pipeline.rebuild().rebuild.run(FIRST, ADA, progress=after_chunks(1, change))
    assert outcome.verdict == "done"
    assert_true(pipeline)


def test_a_vector_that_was_lost_is_computed_and_kept_for_the_next_time(
    pipeline: Pipeline, db: psycopg.Connection, embedder: CountingEmbedder
) -> None:
    """A missing or outdated vector is embedded, backed up, and reused by the next rebuild."""
    ids = in_sync(pipeline, db)
    db.execute("UPDATE memory_logs SET embedding = NULL WHERE id = ANY(%s)", (list(ids[:4]),))
    db.execute("DELETE FROM memory_pipeline.change")
    assert rebuilt(pipeline).embedded == 4
    before = len(embedder.texts)
    assert rebuilt(pipeline, SECOND).embedded == 0
    assert len(embedder.texts) == before
    assert_true(pipeline)


def test_changed_settings_are_refused_by_sync_and_cured_by_a_rebuild(
    pipeline: Pipeline, db: psycopg.Connection, reopened: Callable[..., Pipeline]
) -> None:
    """One collection never mixes settings; the refusal says to rebuild, and that helps."""
    in_sync(pipeline, db)
    changed = reopened(metadata_fields=("date", "summary"))
    remember(db, "ada", "one more")
    refused = changed.sync().run(ADA)
    assert refused.verdict == "refused"
    assert "rebuild" in refused.reason
    assert rebuilt(changed).verdict == "done"
    drained_well(changed)
    assert_true(changed)


def test_a_search_refuses_a_collection_of_another_model(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """Vectors of two models mean nothing to each other; an answer would only look like one."""
    in_sync(pipeline, db)
    db.execute("UPDATE memory_pipeline.generation SET model = 'another'")
    with pytest.raises(ConfigurationChanged, match="rebuild"):
        pipeline.search.search(ADA, "memory")
    assert rebuilt(pipeline).verdict == "done"
    assert pipeline.search.search(ADA, "memory number 3", k=1)


# ---- beside writes


def test_what_changes_while_it_is_built_stands_in_it(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P7: inserts, updates, deletes and moves during a rebuild reach old and new collection."""
    ids = in_sync(pipeline, db, memories=4 * CHUNK)

    def change() -> None:
        db.execute(
            'UPDATE memory_logs SET raw_data = \'{"summary": "new"}\' WHERE id = %s', (ids[1],)
        )
        db.execute(
            'UPDATE memory_logs SET raw_data = \'{"summary": "new"}\' WHERE id = %s', (ids[-1],)
        )
        db.execute("DELETE FROM memory_logs WHERE id = ANY(%s)", ([ids[0], ids[-2]],))
        db.execute(
            "UPDATE memory_logs SET user_id = 'bob' WHERE id = ANY(%s)", ([ids[2], ids[-3]],)
        )
        remember(db, "ada", "brand new")

    one = one_tenant(pipeline).run(FIRST, ADA, progress=after_chunks(2, change))
    assert one.verdict == "done"
    assert pipeline.outbox.pending(ADA) == 0  # the rebuild itself has kept the tenant fresh
    assert_true(pipeline)
    drained_well(pipeline)
    assert_true(pipeline, BOB)


def test_a_row_that_changes_between_read_and_write_is_read_again(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """Each row's version is looked at under the lease; what was read before is worth nothing."""
    ids = in_sync(pipeline, db, memories=CHUNK)
    one = one_tenant(pipeline)

    class Late(type(one.chunk_writer)):  # type: ignore[misc]  # the writer, with an application beside it
        def write(
            self,
            part: RebuildPart,
            lease: Lease,
            generation: Generation,
            chunk: Chunk,
            *,
            add_only: bool,
            written_rows: WrittenRows,
        ) -> WrittenChunk:
            db.execute(
                'UPDATE memory_logs SET raw_data = \'{"summary": "moved on"}\' WHERE id = %s',
                (ids[2],),
            )
            db.execute("DELETE FROM memory_logs WHERE id = %s", (ids[3],))
            written: WrittenChunk = super().write(
                part, lease, generation, chunk, add_only=add_only, written_rows=written_rows
            )
            held = pipeline.index.hashes(generation, renew=lambda: 5.0)
            assert document_id(ids[3]) not in held
            assert (
                document_id(ids[2]) not in held
            )  # its new text has no vector yet: a batch brings it
            return written

    fields = {
        name: getattr(one.chunk_writer, name) for name in one.chunk_writer.__dataclass_fields__
    }
    assert replace(one, chunk_writer=Late(**fields)).run(FIRST, ADA).verdict == "done"
    assert_true(pipeline)


def test_searches_never_see_a_partial_collection(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P7: a memory that was found before is found at every moment of a rebuild."""
    in_sync(pipeline, db, memories=6 * CHUNK)
    missed: list[int] = []
    stop = threading.Event()

    def search() -> None:
        while not stop.is_set():
            for n in (0, 17, 29):
                hits = pipeline.search.search(ADA, f"memory number {n}", k=1)
                if not hits or hits[0].memory != {"summary": f"memory number {n}"}:
                    missed.append(n)

    searching = threading.Thread(target=search)
    searching.start()
    for rebuild in ("one", "two", "three"):
        assert rebuilt(pipeline, RebuildId(rebuild)).verdict == "done"
    stop.set()
    searching.join()
    assert missed == []


# ---- proof before the flip


def test_what_was_lost_from_a_building_generation_is_mended_before_it_goes_live(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P8: a rebuild is not believed: it is verified, and mended where it differs."""
    ids = in_sync(pipeline, db, memories=3 * CHUNK)

    def meddle() -> None:
        building = pipeline.registry.building(ADA)
        assert building is not None
        client = pipeline.servers.client(building.server)
        with client.collection(building, 5.0) as collection:
            collection.delete(ids=[document_id(ids[0])])
            collection.update(ids=[document_id(ids[1])], metadatas=[{"hash": "wrong"}])
            collection.add(
                ids=["memory_log_999999"],
                embeddings=np.ones((1, 768), dtype=np.float32),
                metadatas=[{"hash": "x"}],
            )

    outcome = one_tenant(pipeline).run(FIRST, ADA, progress=after_chunks(3, meddle))
    assert (outcome.verdict, outcome.repaired) == ("done", 3)
    assert_true(pipeline)


def test_a_memory_that_cannot_be_indexed_holds_up_no_rebuild(
    pipeline: Pipeline, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P5: it is charged by a batch as ever; all the others go live."""
    ids = in_sync(pipeline, db, memories=2 * CHUNK)
    add = Transport._add

    def refuse(self: Transport, ids: list[str], **rest: object) -> bool:
        if document_id(bad) in ids:
            raise ValueError("refused")
        return add(self, ids=ids, **rest)  # type: ignore[arg-type]  # as it came

    bad = ids[3]
    monkeypatch.setattr(Transport, "_add", refuse)
    outcome = rebuilt(pipeline)
    assert outcome.verdict == "done"
    assert outcome.written == len(ids) - 1
    monkeypatch.undo()
    drained_well(pipeline)
    assert_true(pipeline)


# ---- damage


def test_a_damaged_collection_is_rebuilt_alone_and_by_itself(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """One tenant's damage is that tenant's: no other collection is touched."""
    in_sync(pipeline, db)
    remember(db, "bob", "bob's")
    drained_well(pipeline)
    ada, bob = live(pipeline), live(pipeline, BOB)
    pipeline.index.drop(ada, seconds=5)
    remember(db, "ada", "the drop is noticed by this one")
    drained_well(pipeline)
    assert live(pipeline).id != ada.id
    assert live(pipeline, BOB).id == bob.id
    assert_true(pipeline)
    assert_true(pipeline, BOB)


def test_automatic_rebuilds_are_capped(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """What damages every collection is not cured by building more of them."""
    in_sync(pipeline, db, memories=2)
    verdicts = []
    for _ in range(5):
        pipeline.index.drop(live(pipeline), seconds=5)
        remember(db, "ada", "notices")
        verdicts.append([o.verdict for o in pipeline.drain().run(paused=True)][-1])
    assert verdicts == ["done", "done", "done", "damaged", "damaged"]
    assert pipeline.status.totals().damaged_tenants == 1
    assert rebuilt(pipeline).verdict == "done"  # a person may always
    assert_true(pipeline)


def test_a_damaged_collection_stays_the_one_that_searches_ask_until_the_flip(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """An answer that is half of one would look like the whole: an error is honest."""
    in_sync(pipeline, db)
    damaged = live(pipeline)
    pipeline.index.drop(damaged, seconds=5)
    remember(db, "ada", "notices")
    assert pipeline.sync().run(ADA).verdict == "damaged"
    assert live(pipeline).id == damaged.id
    with pytest.raises(Corrupt):
        pipeline.search.search(ADA, "memory")
    assert pipeline.sync().run(ADA).verdict == "damaged"
    assert pipeline.outbox.pending(ADA) > 0
