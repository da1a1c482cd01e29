"""The heart over a real Postgres and a real Chroma: what is written, and in which batches."""

from collections.abc import Callable, Collection

import numpy as np
import psycopg
import pytest

from memory_pipeline.domain.outcomes import Outcome
from memory_pipeline.domain.types import (
    Generation,
    MemoryId,
)
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.pipeline import Pipeline
from memory_pipeline_tests.embedders import CountingEmbedder
from memory_pipeline_tests.integration.sync.words import (
    SAME_VECTOR,
    assert_mirrored,
    settled,
    with_embedder,
    with_index,
)
from memory_pipeline_tests.words import (
    ADA,
    BOB,
    SECONDS,
    change,
    count_of,
    drained_due,
    held,
    live,
    one,
    remember,
)

# ---- what is written


def test_after_a_sync_the_collection_equals_the_table(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P2: ids, text as Postgres prints it, metadata and vectors are the same on both sides."""
    for n in range(30):
        remember(db, "ada", f"memory number {n}", task="walk", date="2026-03-04", n=n / 3)
        remember(db, "bob", f"Bob's number {n}", nested={"b": 1, "a": [1.10, None, "Zoë"]})
    outcomes = drained_due(pipeline)
    assert {(o.tenant, o.verdict) for o in outcomes} == {(ADA, "done"), (BOB, "done")}
    assert_mirrored(pipeline, ADA)
    assert_mirrored(pipeline, BOB)
    assert pipeline.status.totals().pending_changes == 0


def test_updates_deletes_and_moves_follow(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """P2: whatever an application does to a memory, both tenants' collections end up right."""
    kept, changed, deleted, moved = (remember(db, "ada", f"memory {n}") for n in range(4))
    drained_due(pipeline)
    change(db, changed, "something else entirely")
    db.execute("DELETE FROM memory_logs WHERE id = %s", (deleted,))
    db.execute("UPDATE memory_logs SET user_id = 'bob' WHERE id = %s", (moved,))
    drained_due(pipeline)
    assert held(pipeline, ADA) == {kept, changed}
    assert held(pipeline, BOB) == {moved}
    assert_mirrored(pipeline, ADA)
    assert_mirrored(pipeline, BOB)


def test_a_truncate_empties_every_collection(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """P4: TRUNCATE names no row, and still nothing of it stays searchable."""
    for n in range(5):
        remember(db, "ada", f"memory {n}")
        remember(db, "bob", f"memory {n}")
    drained_due(pipeline)
    db.execute("TRUNCATE memory_logs")
    drained_due(pipeline)
    assert held(pipeline, ADA) == set()
    assert held(pipeline, BOB) == set()
    assert pipeline.status.totals().pending_changes == 0
    assert count_of(db, "provenance") == 0


def test_ids_that_are_used_again_stand_for_the_new_memories(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P4: TRUNCATE … RESTART IDENTITY gives old ids to other tenants' memories."""
    old = [remember(db, "ada", f"old {n}") for n in range(6)]
    drained_due(pipeline)
    with db.transaction():
        db.execute("TRUNCATE memory_logs RESTART IDENTITY")
        new = [remember(db, "bob" if n % 2 else "ada", f"new {n}") for n in range(4)]
    assert set(new) <= set(old)
    drained_due(pipeline)
    assert_mirrored(pipeline, ADA)
    assert_mirrored(pipeline, BOB)
    assert held(pipeline, ADA) | held(pipeline, BOB) == set(new)


def test_a_second_sync_has_nothing_to_do(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """The pipeline's own writes to the table are no changes."""
    remember(db)
    drained_due(pipeline)
    assert drained_due(pipeline) == []
    outcome = pipeline.sync().run(ADA)
    assert (outcome.verdict, outcome.written, outcome.deleted) == ("done", 0, 0)


@pytest.mark.parametrize(
    "raw",
    [
        "null",
        "true",
        "17",
        "-0.0",
        "1e400",
        "123456789012345678901234567890.12345678901234567890",
        '"a text"',
        '""',
        "[]",
        "{}",
        '[1, "two", [3, {"four": null}]]',
        '{"": "no name", "summary": {"summary": ["nested"]}}',
        '{"summary": "Zoë 東京 \\ud83d\\ude00 \\u0001 \\"quoted\\" \\\\ back"}',
        '{"task": 9223372036854775808, "date": "not a date", "component": [1]}',
        '{"task": true, "date": 20260101, "component": 1.5}',
        '{"task": -9223372036854775808, "component": 0.1}',
        pytest.param("[" * 2000 + "]" * 2000, id="deep"),
        pytest.param('{"summary": "' + "long words " * 100_000 + '"}', id="a megabyte"),
        pytest.param('{"' + "k" * 100_000 + '": "a long key"}', id="a long key"),
    ],
)
def test_every_json_lands(pipeline: Pipeline, db: psycopg.Connection, raw: str) -> None:
    """Whatever Postgres takes for jsonb becomes a document, to the letter."""
    db.execute("INSERT INTO memory_logs (user_id, raw_data) VALUES ('ada', %s::jsonb)", (raw,))
    [outcome] = drained_due(pipeline)
    assert (outcome.verdict, outcome.written, outcome.failed) == ("done", 1, 0)
    assert_mirrored(pipeline)


def test_zero_and_negative_ids_land_and_go(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """Every bigint is an id."""
    ids = {1 - 2**63, -1, 0, 2**63 - 1}
    for n in ids:
        db.execute(
            "INSERT INTO memory_logs (id, user_id, raw_data) VALUES (%s, 'ada', '{\"a\": \"b\"}')",
            (n,),
        )
    drained_due(pipeline)
    assert held(pipeline) == ids
    assert_mirrored(pipeline)
    db.execute("DELETE FROM memory_logs")
    drained_due(pipeline)
    assert held(pipeline) == set()


def test_the_smallest_id_survives_a_reset(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """A row that is there is reconciled, whatever its id."""
    smallest = -(2**63)
    db.execute(
        "INSERT INTO memory_logs (id, user_id, raw_data) VALUES (%s, 'ada', '{}')", (smallest,)
    )
    drained_due(pipeline)
    assert held(pipeline) == {smallest}
    pipeline.index.write(live(pipeline), (), [MemoryId(smallest)], renew=lambda: SECONDS)
    db.execute("INSERT INTO memory_pipeline.change (tenant, memory_id) VALUES ('ada', NULL)")
    drained_due(pipeline)
    assert held(pipeline) == {smallest}


def test_without_documents_only_vectors_and_metadata_are_stored(
    reopened: Callable[..., Pipeline], db: psycopg.Connection
) -> None:
    """document=none is a setting, and everything else stays the same."""
    pipeline = reopened(document="none")
    memory = remember(db, task="walk")
    drained_due(pipeline)
    generation = live(pipeline)
    with pipeline.servers.client(generation.server).collection(generation, SECONDS) as collection:
        stored = collection.get(include=["documents", "metadatas"])
    [text] = stored["documents"] or []
    assert text is None
    assert held(pipeline) == {memory}


# ---- vectors


def test_vectors_are_backed_up_and_reused(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """What only changes metadata is not embedded again; what changes the text is."""
    embedder = CountingEmbedder()
    sync = with_embedder(pipeline, embedder)
    memory = remember(db, summary="a walk in the park")
    drained_due(pipeline, sync)
    assert one(db, "SELECT embedding IS NOT NULL FROM memory_logs") is True
    embedder.texts.clear()
    db.execute("UPDATE memory_logs SET project_id = 'gemini'")
    drained_due(pipeline, sync)
    assert embedder.texts == []
    assert_mirrored(pipeline)
    change(db, memory, "a swim in the sea")
    drained_due(pipeline, sync)
    assert embedder.texts == ["a swim in the sea"]
    assert_mirrored(pipeline)


@pytest.mark.parametrize("replacement", ["NULL", "array_fill(0.5, ARRAY[768])::vector"])
def test_a_vector_that_the_application_replaced_is_not_taken_for_ours(
    pipeline: Pipeline, db: psycopg.Connection, replacement: str
) -> None:
    """The text's hash still matches, and the vector is not the one that we stored."""
    remember(db, summary="a walk in the park")
    drained_due(pipeline)
    embedder = CountingEmbedder()
    db.execute(f"UPDATE memory_logs SET embedding = {replacement}".encode())
    drained_due(pipeline, with_embedder(pipeline, embedder))
    assert embedder.texts == ["a walk in the park"]
    assert_mirrored(pipeline)
    [expected] = HashingEmbedder().embed(["a walk in the park"])
    [found] = [m.embedding for m in pipeline.memories.read([MemoryId(1)])[0].values()]
    assert found is not None
    assert np.abs(found - expected).max() < SAME_VECTOR


def test_trusted_vectors_are_not_computed_again(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """--vectors trust: what was stored before the pipeline came is the current model's."""
    db.execute("UPDATE memory_pipeline.installation SET vectors = 'trust'")
    for n in range(3):
        remember(db, summary=f"memory {n}")
    vectors = HashingEmbedder().embed([f"memory {n}" for n in range(3)])
    with pipeline.database.transaction() as connection:
        for n, vector in enumerate(vectors, start=1):
            connection.execute("UPDATE memory_logs SET embedding = %s WHERE id = %s", (vector, n))
    embedder = CountingEmbedder()
    drained_due(pipeline, with_embedder(pipeline, embedder))
    assert embedder.texts == []
    assert_mirrored(pipeline)


def test_a_row_that_moved_while_it_was_embedded_is_looked_at_again(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: Callable[..., None]
) -> None:
    """P1: the backup misses, so the change stays, and the newest content lands."""
    memory = remember(db, summary="before")
    drained_due(pipeline)
    change(db, memory, "first")

    seconds = iter(["second"])

    def meanwhile(_: object) -> None:
        for summary in seconds:
            change(db, memory, summary)

    sync = with_embedder(pipeline, CountingEmbedder(before=meanwhile))
    wait_until(lambda: settled(pipeline, sync))
    assert_mirrored(pipeline)
    assert one(db, "SELECT raw_data ->> 'summary' FROM memory_logs") == "second"


def test_a_row_that_an_application_holds_lands_when_it_is_let_go(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: Callable[..., None]
) -> None:
    """P6: the backup skips a locked row and waits for nobody; the change stays until it can."""
    memory = remember(db)
    with (
        psycopg.connect(str(pipeline.database.url)) as application,
        application.transaction(),
    ):
        application.execute("SELECT FROM memory_logs WHERE id = %s FOR UPDATE", (memory,))
        drained_due(pipeline)
        assert held(pipeline) == set()
        assert pipeline.outbox.pending(ADA) == 1
    wait_until(lambda: settled(pipeline))
    assert_mirrored(pipeline)


def test_without_a_backup_the_table_is_not_touched(
    reopened: Callable[..., Pipeline], db: psycopg.Connection
) -> None:
    """backup=off writes nothing to memory_logs, and everything is searchable all the same."""
    pipeline = reopened(backup="off")
    memory = remember(db)
    version = one(db, "SELECT xmin::text FROM memory_logs")
    drained_due(pipeline)
    assert one(db, "SELECT xmin::text FROM memory_logs") == version
    assert held(pipeline) == {memory}


def test_an_empty_text_is_searchable_too(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """A memory that says nothing has a document, and later gets words."""
    db.execute("INSERT INTO memory_logs (user_id, raw_data) VALUES ('ada', '{}'), ('ada', '\"\"')")
    [outcome] = drained_due(pipeline)
    assert (outcome.written, outcome.failed) == (2, 0)
    assert_mirrored(pipeline)
    change(db, 1, "words")
    drained_due(pipeline)
    assert_mirrored(pipeline)


# ---- the size of a batch


def test_batches_that_are_bounded_by_bytes_lose_nothing(
    reopened: Callable[..., Pipeline], db: psycopg.Connection, wait_until: Callable[..., None]
) -> None:
    """What does not fit in a batch lands in a later one."""
    pipeline = reopened(batch_bytes=1)
    memories = {remember(db, summary=f"memory {n}") for n in range(6)}
    wait_until(lambda: settled(pipeline), within=20)
    assert held(pipeline) == memories
    assert_mirrored(reopened())


def test_one_drain_gets_through_batches_that_are_bounded_by_bytes(
    reopened: Callable[..., Pipeline], db: psycopg.Connection
) -> None:
    """What was left out for its size waits for nothing: there is no reason for a pause."""
    pipeline = reopened(batch_bytes=1)
    memories = {remember(db, summary=f"memory {n}") for n in range(6)}
    drained_due(pipeline)
    assert held(pipeline) == memories


def test_more_changes_than_a_batch_are_drained_in_one_sync(
    reopened: Callable[..., Pipeline], db: psycopg.Connection
) -> None:
    """A sync claims again until nothing is left; progress is told after each batch."""
    pipeline = reopened(batch_size=4)
    memories = {remember(db, summary=f"memory {n}") for n in range(10)}
    told: list[Outcome] = []
    [outcome] = pipeline.drain().run(progress=told.append)
    assert outcome.written == len(memories)
    assert len(told) > 2
    assert held(pipeline) == memories


def test_a_sync_ends_however_fast_an_application_writes(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P5: what comes while a tenant is synced waits for its next turn; others have theirs."""
    remember(db)
    written: list[int] = []

    def write_another(_: Generation, ids: Collection[MemoryId]) -> None:
        written.extend(ids)
        assert len(written) < 20
        remember(db, summary=f"memory {len(written)}")

    outcome = with_index(pipeline, after=write_another).run(ADA)
    assert outcome.verdict == "done"
    assert pipeline.outbox.pending(ADA) == 1
    drained_due(pipeline)
    assert_mirrored(pipeline)


# ---- refusals and the model


def test_memories_without_a_tenant_are_left_alone(
    reopened: Callable[..., Pipeline], db: psycopg.Connection
) -> None:
    """A row that belongs to nobody is no change of anybody."""
    db.execute("ALTER TABLE memory_logs ALTER user_id DROP NOT NULL")
    db.execute("INSERT INTO memory_logs (user_id, raw_data) VALUES (NULL, '{}')")
    assert drained_due(reopened()) == []


def test_a_time_that_python_cannot_hold_stops_nobody(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P5: infinity is a time in Postgres; its memory lands and its neighbours do."""
    remember(db, "ada")
    db.execute("UPDATE memory_logs SET created_at = 'infinity', updated_at = '-infinity'")
    remember(db, "bob")
    drained_due(pipeline)
    assert len(held(pipeline, ADA)) == len(held(pipeline, BOB)) == 1
