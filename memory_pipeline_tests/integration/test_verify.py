"""Verify tells the truth: each planted difference is found, and writes under way are none."""

import threading
from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import psycopg
import pytest
from chromadb.api.models.Collection import Collection as ChromaCollection

from memory_pipeline.domain.outcomes import Finding, Verified
from memory_pipeline.domain.types import MemoryId, TenantId, document_id
from memory_pipeline.errors import ChromaUnavailable
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.postgres.memories import PostgresMemories
from memory_pipeline.verify.tenant import Verify
from memory_pipeline_tests.words import ADA, BOB, drained, live, remember

CHANGE_SECONDS = 0.03


@pytest.fixture
def ids(pipeline: Pipeline, db: psycopg.Connection) -> list[MemoryId]:
    """Give ada twenty memories and bob two, in sync; return ada's ids."""
    for n in range(2):
        remember(db, "bob", f"bob's number {n}")
    mine = [MemoryId(remember(db, "ada", f"memory number {n}")) for n in range(20)]
    drained(pipeline)
    return mine


def behind_our_back(
    pipeline: Pipeline, act: Callable[[ChromaCollection], object], tenant: TenantId = ADA
) -> None:
    """Do something to the live collection that the pipeline knows nothing of."""
    generation = live(pipeline, tenant)
    with pipeline.servers.client(generation.server).collection(generation, 5.0) as collection:
        act(collection)


def found(pipeline: Pipeline, tenant: TenantId = ADA, *, sample: int | None = None) -> set[object]:
    """Verify; return kind and memory of each finding."""
    findings = pipeline.verify().run(tenant, sample=sample).findings
    return {(f.kind, f.memory_id) for f in findings}


def assert_repaired(pipeline: Pipeline, tenant: TenantId = ADA) -> None:
    """Repair, and say that the repair's own verify and another one find nothing."""
    repaired = pipeline.repair().run(tenant, sample=None)
    assert repaired.before.findings
    assert repaired.after.findings == ()
    assert found(pipeline, tenant) == set()


def test_a_healthy_collection_has_no_findings(pipeline: Pipeline, ids: list[MemoryId]) -> None:
    """And the verify says how much it has looked at."""
    verified = pipeline.verify().run(ADA, sample=None)
    assert verified.findings == ()
    assert (verified.documents, verified.memories, verified.sampled) == (20, 20, 20)
    assert verified.generation == live(pipeline).id


def test_missing_documents_are_found_and_repaired(pipeline: Pipeline, ids: list[MemoryId]) -> None:
    """A memory without a document."""
    behind_our_back(pipeline, lambda c: c.delete(ids=[document_id(i) for i in ids[:3]]))
    assert found(pipeline, sample=0) == {("missing", i) for i in ids[:3]}
    assert_repaired(pipeline)


def test_extra_documents_are_found_and_repaired(pipeline: Pipeline, ids: list[MemoryId]) -> None:
    """A document without a memory."""
    vector = np.ones((1, 768), dtype=np.float32)
    behind_our_back(
        pipeline,
        lambda c: c.add(ids=["memory_log_4711"], embeddings=vector, metadatas=[{"hash": "x"}]),
    )
    assert found(pipeline, sample=0) == {("extra", 4711)}
    assert_repaired(pipeline)


@pytest.mark.parametrize(
    "change", [{"hash": "another"}, {"component": "another"}, {"not_ours": 1}], ids=str
)
def test_altered_metadata_is_found_and_repaired(
    pipeline: Pipeline, ids: list[MemoryId], change: dict[str, str | int]
) -> None:
    """Also where the hash was left as it was, and where a key was added."""
    behind_our_back(pipeline, lambda c: c.update(ids=[document_id(ids[4])], metadatas=[change]))
    assert found(pipeline, sample=0) == {("stale", ids[4])}
    assert_repaired(pipeline)


def test_an_altered_text_is_found_by_a_close_look(pipeline: Pipeline, ids: list[MemoryId]) -> None:
    """The metadata says the right thing, the document another."""
    stored = pipeline.index.fetch(live(pipeline), [ids[4]], seconds=5, whole=True)[ids[4]].vector
    assert stored is not None
    behind_our_back(
        pipeline,
        lambda c: c.update(
            ids=[document_id(ids[4])], documents=["forged"], embeddings=np.stack([stored])
        ),
    )
    assert found(pipeline) == {("stale", ids[4])}
    assert_repaired(pipeline)


def test_an_altered_vector_is_found_by_a_close_look(
    pipeline: Pipeline, ids: list[MemoryId]
) -> None:
    """What is beside 1e-5 of the vector in Postgres is another vector."""
    forged = np.ones((1, 768), dtype=np.float32)
    behind_our_back(pipeline, lambda c: c.update(ids=[document_id(ids[4])], embeddings=forged))
    assert found(pipeline) == {("vector", ids[4])}
    assert_repaired(pipeline)


def test_a_document_of_another_tenant_is_foreign(
    pipeline: Pipeline, db: psycopg.Connection, ids: list[MemoryId]
) -> None:
    """P3: whoever put it there, it is named, and goes; the other tenant keeps its own."""
    row = db.execute("SELECT min(id) FROM memory_logs WHERE user_id = 'bob'").fetchone()
    assert row is not None
    vector = np.ones((1, 768), dtype=np.float32)
    behind_our_back(
        pipeline,
        lambda c: c.add(ids=[document_id(row[0])], embeddings=vector, metadatas=[{"hash": "x"}]),
    )
    assert found(pipeline, sample=0) == {("foreign", row[0])}
    assert_repaired(pipeline)
    assert found(pipeline, BOB) == set()


def test_a_document_whose_name_is_not_ours_is_foreign(
    pipeline: Pipeline, ids: list[MemoryId]
) -> None:
    """It belongs to no memory at all, and a rebuild is rid of it."""
    vector = np.ones((1, 768), dtype=np.float32)
    behind_our_back(pipeline, lambda c: c.add(ids=["stranger"], embeddings=vector))
    assert found(pipeline, sample=0) == {("foreign", None)}
    assert_repaired(pipeline)


def test_a_document_that_no_search_finds_is_unreachable(
    pipeline: Pipeline, ids: list[MemoryId], monkeypatch: pytest.MonkeyPatch
) -> None:
    """P8: stored, and not found by its own vector. No count would ever tell."""
    query = ChromaCollection.query
    lost = document_id(ids[7])

    def without(self: ChromaCollection, **asked: object) -> object:
        answer = query(self, **asked)  # type: ignore[arg-type]  # as it came
        for names, distances in zip(
            answer["ids"], answer["distances"] or [[]] * len(answer["ids"]), strict=True
        ):
            if lost in names:
                at = names.index(lost)
                del names[at]
                if distances:
                    del distances[at]
        return answer

    monkeypatch.setattr(ChromaCollection, "query", without)
    assert found(pipeline, sample=1) == {("unreachable", ids[7])}
    monkeypatch.undo()
    assert found(pipeline) == set()


def test_twins_are_no_finding(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """A memory that only equal ones keep out of an answer can be found as well as they can."""
    for _ in range(60):
        remember(db, "ada", "the very same words")
    drained(pipeline)
    assert found(pipeline) == set()


def test_a_collection_of_another_model_is_one_finding(
    pipeline: Pipeline, db: psycopg.Connection, ids: list[MemoryId]
) -> None:
    """Not one a document: all of it has to be built again."""
    db.execute("UPDATE memory_pipeline.generation SET model = 'another' WHERE tenant = 'ada'")
    assert found(pipeline) == {("wrong model", None)}
    assert_repaired(pipeline)


def test_a_collection_that_is_gone_is_damaged(pipeline: Pipeline, ids: list[MemoryId]) -> None:
    """Deleted behind our back; a repair builds another."""
    pipeline.index.drop(live(pipeline), seconds=5)
    assert found(pipeline) == {("damaged", None)}
    assert_repaired(pipeline)


def test_memories_that_no_trigger_saw_are_found_and_repaired(
    pipeline: Pipeline, db: psycopg.Connection, ids: list[MemoryId]
) -> None:
    """Capture was off for a while; the differences it left are findings."""
    db.execute("ALTER TABLE memory_logs DISABLE TRIGGER USER")
    slipped_by = MemoryId(remember(db, "ada", "nobody saw it"))
    db.execute("DELETE FROM memory_logs WHERE id = %s", (ids[0],))
    remember(db, "nobody", "a tenant that nobody knows")
    for trigger in ("capture", "truncate"):
        db.execute(f"ALTER TABLE memory_logs ENABLE ALWAYS TRIGGER memory_pipeline_{trigger}")
    assert found(pipeline) == {("missing", slipped_by), ("extra", ids[0])}
    assert found(pipeline, TenantId("nobody")) == {("no collection", None)}
    assert_repaired(pipeline)


def test_what_waits_is_no_finding(
    pipeline: Pipeline, db: psycopg.Connection, ids: list[MemoryId]
) -> None:
    """P8: a change that is on its way is counted, and not invented as a difference."""
    db.execute("UPDATE memory_logs SET raw_data = '{\"a\": 1}' WHERE id = %s", (ids[0],))
    db.execute("DELETE FROM memory_logs WHERE id = %s", (ids[1],))
    remember(db, "ada", "new")
    verified = pipeline.verify().run(ADA, sample=None)
    assert verified.findings == ()
    assert verified.pending == 3


def test_a_buried_memory_is_counted_apart(
    pipeline: Pipeline, db: psycopg.Connection, ids: list[MemoryId]
) -> None:
    """A dead letter is known already: it is neither hidden nor a finding."""
    behind_our_back(pipeline, lambda c: c.delete(ids=[document_id(ids[0])]))
    db.execute(
        "INSERT INTO memory_pipeline.failure (tenant, memory_id, attempts, first_error,"
        " last_error, buried_at) VALUES ('ada', %s, 5, 'x', 'x', now())",
        (ids[0],),
    )
    verified = pipeline.verify().run(ADA, sample=None)
    assert (verified.findings, verified.buried) == ((), 1)


def test_a_row_that_changes_between_two_looks_is_no_finding(
    pipeline: Pipeline,
    db: psycopg.Connection,
    ids: list[MemoryId],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It went from A to B and back to A; the version tells, and the hash would not."""
    behind_our_back(
        pipeline, lambda c: c.update(ids=[document_id(ids[0])], metadatas=[{"hash": "B"}])
    )
    versions = PostgresMemories.versions

    def moved(self: PostgresMemories, asked: list[MemoryId]) -> object:
        db.execute("UPDATE memory_logs SET updated_at = now() WHERE id = %s", (ids[0],))
        return versions(self, asked)

    monkeypatch.setattr(PostgresMemories, "versions", moved)
    assert found(pipeline, sample=0) == set()
    monkeypatch.undo()
    assert found(pipeline, sample=0) == {("stale", ids[0])}


def test_a_row_that_is_touched_hides_nothing(
    pipeline: Pipeline,
    db: psycopg.Connection,
    ids: list[MemoryId],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What broke: a statement that changes nothing moved the row amid a look, and it was let pass.

    A rebuild flipped to such a document. Nothing waits for a row that was only touched.
    """
    behind_our_back(
        pipeline, lambda c: c.update(ids=[document_id(ids[0])], metadatas=[{"hash": "B"}])
    )
    versions, times = PostgresMemories.versions, count(1)

    def moved(self: PostgresMemories, asked: list[MemoryId]) -> object:
        if next(times) % 2:
            db.execute("UPDATE memory_logs SET updated_at = now() WHERE id = %s", (ids[0],))
        return versions(self, asked)

    monkeypatch.setattr(PostgresMemories, "versions", moved)
    assert found(pipeline, sample=0) == {("stale", ids[0])}


def test_a_collection_that_is_replaced_amid_every_look_is_not_judged(
    pipeline: Pipeline, ids: list[MemoryId], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What broke: nobody writes the old one any more, and what it lacks was called a finding."""
    looks = Verify._verify_once

    def replaced(self: Verify, *what: Any) -> Verified:
        looked = looks(self, *what)
        if what[1] == pipeline.registry.live(ADA):  # not the look of the rebuild itself
            assert pipeline.rebuild_alone(ADA).verdict == "done"
        return looked

    monkeypatch.setattr(Verify, "_verify_once", replaced)
    with pytest.raises(ChromaUnavailable, match="replaced 3 times"):
        pipeline.verify().run(ADA)
    monkeypatch.undo()
    assert found(pipeline) == set()


def is_unreachable_now(pipeline: Pipeline, finding: Finding) -> bool:
    """Whether Chroma does lose the document: it does so while others beside it are rewritten."""
    live = pipeline.registry.live(ADA)
    if finding.kind != "unreachable" or finding.memory_id is None or live is None:
        return False
    stored = pipeline.index.fetch(live, [finding.memory_id], seconds=5.0, whole=True)
    vectors = {i: s.vector for i, s in stored.items() if s.vector is not None}
    return bool(pipeline.index.unreachable_by_vector(live, vectors, seconds=5.0))


def test_no_false_alarm_while_others_write_and_sync(
    pipeline: Pipeline, database_url: str, ids: list[MemoryId]
) -> None:
    """P8: verify after verify under a steady stream of all kinds of change, and never a finding."""
    stop = threading.Event()
    synced: list[int] = []

    def write() -> None:
        with psycopg.connect(database_url, autocommit=True) as mine:
            number = 0
            while not stop.wait(CHANGE_SECONDS):
                number += 1
                memory = remember(mine, "ada", f"short-lived {number}")
                mine.execute(
                    "UPDATE memory_logs SET raw_data = jsonb_build_object('summary', %s::text)"
                    " WHERE id = %s",
                    (f"changed {number}", ids[number % len(ids)]),
                )
                if number % 2:
                    mine.execute("DELETE FROM memory_logs WHERE id = %s", (memory,))

    def sync() -> None:
        while not stop.is_set():
            synced.extend(o.written for o in pipeline.drain().run(paused=True))

    threads = [threading.Thread(target=work) for work in (write, sync)]
    for thread in threads:
        thread.start()
    verifier = pipeline.verify()
    false: list[Finding] = []
    for _ in range(15):
        findings = verifier.run(ADA, sample=None).findings
        false.extend(f for f in findings if not is_unreachable_now(pipeline, f))
    stop.set()
    for thread in threads:
        thread.join()
    assert false == []
    assert sum(synced) > 0
