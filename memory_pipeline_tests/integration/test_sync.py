"""The heart over a real Postgres and a real Chroma: what is written, charged, and waits."""

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import numpy as np
import psycopg
import pytest

from memory_pipeline.chroma.index import ChromaIndex
from memory_pipeline.content.document import compose
from memory_pipeline.domain.changes import Claim
from memory_pipeline.domain.outcomes import Failure, Outcome
from memory_pipeline.domain.types import (
    Document,
    Generation,
    Memory,
    MemoryId,
    ProvenanceUpdate,
    RebuildId,
    TenantId,
    Vector,
)
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.errors import (
    ChromaUnavailable,
    Corrupt,
    EmbedderUnavailable,
    Poison,
)
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.ports import Embedder, Lease, RenewLease
from memory_pipeline.postgres.outbox import PostgresOutbox
from memory_pipeline.postgres.registry import AUTOMATIC_REBUILDS_AN_HOUR
from memory_pipeline.settings import Settings
from memory_pipeline.sync.damage import FAILURES_BEFORE_PROBE, SILENT_FAILURES
from memory_pipeline.sync.tenant import Sync
from memory_pipeline_tests.builders import remember

ADA, BOB = TenantId("ada"), TenantId("bob")
SECONDS = 5.0
SAME_VECTOR = 1e-5


# ---- what is put in the place of a part


@dataclass
class CountingEmbedder:
    """The stand-in, which remembers what it was asked to embed."""

    model: str = HashingEmbedder.model
    texts: list[str] = field(default_factory=list)
    loaded: bool = True

    def load(self) -> None:
        """Be loaded."""
        self.loaded = True

    def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        """Embed and remember."""
        self.texts.extend(texts)
        return HashingEmbedder().embed(texts)


class RefusingEmbedder(CountingEmbedder):
    """Refuses every batch that has a text with this word in it."""

    word = "arsenic"

    def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        """Embed, or refuse all of it."""
        if any(self.word in text for text in texts):
            raise Poison("the model refuses a text")
        return super().embed(texts)


class BrokenEmbedder(CountingEmbedder):
    """Refuses everything."""

    def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        """Refuse."""
        del texts
        raise Poison("the model is broken")


def _nothing(*_: object) -> None:
    """Let it happen."""


@dataclass
class MeddledIndex:
    """The real index; what a test wants to happen comes before or after its writes."""

    inner: ChromaIndex
    before: Callable[[Generation, Collection[MemoryId]], None] = _nothing
    after: Callable[[Generation, Collection[MemoryId]], None] = _nothing
    on_control: Callable[[], None] = _nothing
    on_prime: Callable[[Generation], None] = _nothing
    on_hashes: Callable[[Generation], None] = _nothing
    hides: tuple[MemoryId, ...] = ()

    def check_identity(self, server: UUID) -> None:
        """Check a server's marker again."""
        self.inner.check_identity(server)

    def takes_writes(self, server: UUID) -> bool:
        """Ask a server for a write."""
        return self.inner.takes_writes(server)

    def choose_server(self) -> UUID:
        """Choose a server."""
        return self.inner.choose_server()

    def create(self, generation: Generation, *, memories: int, renew: RenewLease) -> Generation:
        """Create a collection."""
        return self.inner.create(generation, memories=memories, renew=renew)

    def prime(self, generation: Generation, *, renew: RenewLease) -> None:
        """Prime a collection."""
        self.on_prime(generation)
        self.inner.prime(generation, renew=renew)

    def write(
        self,
        generation: Generation,
        documents: Sequence[Document],
        deletes: Sequence[MemoryId],
        *,
        renew: RenewLease,
        fresh: bool = False,
    ) -> None:
        """Write, with what the test wants before and after; an empty write is left alone."""
        ids = [*(d.memory_id for d in documents), *deletes]
        if ids:
            self.before(generation, ids)
        self.inner.write(generation, documents, deletes, renew=renew, fresh=fresh)
        if ids:
            self.after(generation, ids)

    def control_write(self, generation: Generation, *, renew: RenewLease) -> None:
        """Send a control write."""
        self.on_control()
        self.inner.control_write(generation, renew=renew)

    def unreachable(self, generation: Generation, *, renew: RenewLease) -> list[MemoryId]:
        """Return what no query lists, and what the test says."""
        return [*self.inner.unreachable(generation, renew=renew), *self.hides]

    def hashes(self, generation: Generation, *, renew: RenewLease) -> dict[str, str]:
        """Return what the collection holds."""
        self.on_hashes(generation)
        return self.inner.hashes(generation, renew=renew)


class Killed(BaseException):
    """The process ends here: nothing catches this."""


@dataclass
class DyingOutbox:
    """The real outbox of a worker that dies before its first ack."""

    inner: PostgresOutbox

    def acquire_lease(self, tenant: TenantId) -> Lease | None:
        """Take the lease."""
        return self.inner.acquire_lease(tenant)

    def claim(self, lease: Lease) -> Claim:
        """Claim."""
        return self.inner.claim(lease)

    def ack(
        self,
        lease: Lease,
        claim: Claim,
        *,
        landed: dict[MemoryId, ProvenanceUpdate | None],
        failures: Sequence[Failure],
        missed: Sequence[MemoryId],
        recheck: Sequence[MemoryId],
    ) -> int:
        """Die, unless the claim was the reset of a new collection."""
        if landed:
            raise Killed
        return self.inner.ack(
            lease, claim, landed=landed, failures=failures, missed=missed, recheck=recheck
        )

    def newest_seq(self, tenant: TenantId) -> int:
        """Tell the newest change."""
        return self.inner.newest_seq(tenant)

    def has_due_changes(self, tenant: TenantId) -> bool:
        """Say whether something can be claimed."""
        return self.inner.has_due_changes(tenant)

    def enqueue(self, tenant: TenantId, memory_ids: Sequence[MemoryId]) -> None:
        """Have memories looked at again."""
        self.inner.enqueue(tenant, memory_ids)

    def unclaim(self, lease: Lease, claim: Claim) -> None:
        """Give changes back."""
        self.inner.unclaim(lease, claim)

    def release_lease(self, lease: Lease, *, error: str | None = None) -> None:
        """Give the lease back."""
        self.inner.release_lease(lease, error=error)


def raises(error: Exception, *, times: int = 10**9) -> Callable[..., None]:
    """Make something that raises so often."""
    left = [times]

    def fail(*_: object) -> None:
        if left[0] > 0:
            left[0] -= 1
            raise error

    return fail


# ---- words of the tests


@pytest.fixture
def reopened(settings: Settings, unmarked_chroma: None) -> Iterator[Callable[..., Pipeline]]:
    """Return a function that opens another pipeline on the same database with other settings."""
    with ExitStack() as stack:

        def reopen(**changes: object) -> Pipeline:
            changed = settings.model_copy(update=changes)
            return stack.enter_context(opened(changed, embedder=HashingEmbedder()))

        yield reopen


def drained(pipeline: Pipeline, sync: Sync | None = None, *, paused: bool = False) -> list[Outcome]:
    """Drain everything that is due; return the outcomes."""
    drain = pipeline.drain() if sync is None else replace(pipeline.drain(), sync=sync)
    return list(drain.run(paused=paused))


def settled(pipeline: Pipeline, sync: Sync | None = None) -> bool:
    """Drain, pauses or not, and say whether nothing at all is pending."""
    drained(pipeline, sync, paused=True)
    return pipeline.status.totals().pending_changes == 0


def with_embedder(pipeline: Pipeline, embedder: Embedder) -> Sync:
    """Return the heart with another embedder."""
    return replace(pipeline.sync(), embedder=embedder)


def with_index(pipeline: Pipeline, **meddling: Any) -> Sync:
    """Return the heart with an index that a test meddles with."""
    return replace(pipeline.sync(), index=MeddledIndex(pipeline.index, **meddling))


def live(pipeline: Pipeline, tenant: TenantId = ADA) -> Generation:
    """Return the tenant's live generation."""
    generation = pipeline.registry.live(tenant)
    assert generation is not None
    return generation


def begin_building(pipeline: Pipeline, *, model: str = HashingEmbedder.model) -> Generation:
    """Let a rebuild of ada get as far as an empty generation that every batch writes, too."""
    rebuild = RebuildId("the rebuild")
    pipeline.registry.register(ADA)
    pipeline.rebuilds.request(rebuild, [ADA], re_embed=False)
    build = pipeline.rebuilds.acquire_part(rebuild, ADA)
    assert build is not None
    begun = pipeline.registry.begin_generation(
        ADA,
        pipeline.index.choose_server(),
        model=model,
        config_hash=pipeline.recipe.config_hash,
        memories=0,
    )
    generation = pipeline.index.create(begun, memories=0, renew=lambda: SECONDS)
    lease = pipeline.outbox.acquire_lease(ADA)
    assert lease is not None
    pipeline.rebuilds.register_building(build, lease, generation)
    pipeline.rebuilds.return_lease(lease)
    return replace(generation, state="building")


def damage(pipeline: Pipeline) -> Generation:
    """Find ada's live generation damaged; return it."""
    damaged = live(pipeline)
    lease = pipeline.outbox.acquire_lease(ADA)
    assert lease is not None
    pipeline.registry.abandon(lease, damaged.id)
    pipeline.outbox.release_lease(lease)
    return damaged


def held_in(pipeline: Pipeline, generation: Generation) -> set[int]:
    """Return the memories whose documents a generation holds."""
    held = pipeline.index.hashes(generation, renew=lambda: SECONDS)
    return {int(name.removeprefix("memory_log_")) for name in held}


def held_ids(pipeline: Pipeline, tenant: TenantId = ADA) -> set[int]:
    """Return the memories whose documents the tenant's collection holds."""
    return held_in(pipeline, live(pipeline, tenant))


def assert_mirrored(pipeline: Pipeline, tenant: TenantId = ADA) -> None:
    """Compare the tenant's collection with Postgres: ids, texts, metadata, vectors."""
    generation = live(pipeline, tenant)
    with pipeline.servers.client(generation.server).collection(generation, SECONDS) as collection:
        held = collection.get(include=["documents", "metadatas", "embeddings"])
    walked = [m.id for m in pipeline.memories.of_tenant(tenant)]
    rows, left_out = pipeline.memories.read(walked)
    assert not left_out
    names = {f"memory_log_{i}": row for i, row in rows.items()}
    assert set(held["ids"]) == set(names)
    documents, metadatas, embeddings = held["documents"], held["metadatas"], held["embeddings"]
    assert documents is not None
    assert metadatas is not None
    assert embeddings is not None
    for name, text, metadata, vector in zip(
        held["ids"], documents, metadatas, embeddings, strict=True
    ):
        row = names[name]
        assert text == row.raw
        assert metadata == compose(row, pipeline.recipe).metadata
        assert row.embedding is not None
        assert np.abs(np.asarray(vector) - row.embedding).max() < SAME_VECTOR


def one(db: psycopg.Connection, statement: str, **values: object) -> object:
    """Return the one value that a statement tells."""
    row = db.execute(statement.encode(), values).fetchone()
    assert row is not None
    return row[0]


def count_of(db: psycopg.Connection, what: str) -> int:
    """Count rows of a table of the pipeline, or those under a condition."""
    found = one(db, f"SELECT count(*) FROM memory_pipeline.{what}")
    assert isinstance(found, int)
    return found


def pass_time(db: psycopg.Connection, seconds: float) -> None:
    """Move every deadline of the pipeline nearer."""
    db.execute(
        "UPDATE memory_pipeline.change SET not_before = not_before - make_interval(secs => %s)",
        (seconds,),
    )
    db.execute(
        "UPDATE memory_pipeline.tenant SET"
        " lease_until = lease_until - make_interval(secs => %(s)s),"
        " retry_at = retry_at - make_interval(secs => %(s)s)",
        {"s": seconds},
    )


def change(db: psycopg.Connection, memory_id: int, raw: str) -> None:
    """Change a memory as an application would."""
    db.execute(
        "UPDATE memory_logs SET raw_data = %s::jsonb, updated_at = now() WHERE id = %s",
        (raw, memory_id),
    )


# ---- what is written


def test_after_a_sync_the_collection_equals_the_table(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P2: ids, text as Postgres prints it, metadata and vectors are the same on both sides."""
    for n in range(30):
        remember(db, "ada", f"memory number {n}", task="walk", date="2026-03-04", n=n / 3)
        remember(db, "bob", f"Bob's number {n}", nested={"b": 1, "a": [1.10, None, "Zoë"]})
    outcomes = drained(pipeline)
    assert {(o.tenant, o.verdict) for o in outcomes} == {(ADA, "done"), (BOB, "done")}
    assert_mirrored(pipeline, ADA)
    assert_mirrored(pipeline, BOB)
    assert pipeline.status.totals().pending_changes == 0


def test_updates_deletes_and_moves_follow(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """P2: whatever an application does to a memory, both tenants' collections end up right."""
    kept, changed, deleted, moved = (remember(db, "ada", f"memory {n}") for n in range(4))
    drained(pipeline)
    change(db, changed, '{"summary": "something else entirely"}')
    db.execute("DELETE FROM memory_logs WHERE id = %s", (deleted,))
    db.execute("UPDATE memory_logs SET user_id = 'bob' WHERE id = %s", (moved,))
    drained(pipeline)
    assert held_ids(pipeline, ADA) == {kept, changed}
    assert held_ids(pipeline, BOB) == {moved}
    assert_mirrored(pipeline, ADA)
    assert_mirrored(pipeline, BOB)


def test_a_truncate_empties_every_collection(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """P4: TRUNCATE names no row, and still nothing of it stays searchable."""
    for n in range(5):
        remember(db, "ada", f"memory {n}")
        remember(db, "bob", f"memory {n}")
    drained(pipeline)
    db.execute("TRUNCATE memory_logs")
    drained(pipeline)
    assert held_ids(pipeline, ADA) == set()
    assert held_ids(pipeline, BOB) == set()
    assert pipeline.status.totals().pending_changes == 0
    assert count_of(db, "provenance") == 0


def test_ids_that_are_used_again_stand_for_the_new_memories(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P4: TRUNCATE … RESTART IDENTITY gives old ids to other tenants' memories."""
    old = [remember(db, "ada", f"old {n}") for n in range(6)]
    drained(pipeline)
    with db.transaction():
        db.execute("TRUNCATE memory_logs RESTART IDENTITY")
        new = [remember(db, "bob" if n % 2 else "ada", f"new {n}") for n in range(4)]
    assert set(new) <= set(old)
    drained(pipeline)
    assert_mirrored(pipeline, ADA)
    assert_mirrored(pipeline, BOB)
    assert held_ids(pipeline, ADA) | held_ids(pipeline, BOB) == set(new)


def test_a_second_sync_has_nothing_to_do(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """The pipeline's own writes to the table are no changes."""
    remember(db)
    drained(pipeline)
    assert drained(pipeline) == []
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
    [outcome] = drained(pipeline)
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
    drained(pipeline)
    assert held_ids(pipeline) == ids
    assert_mirrored(pipeline)
    db.execute("DELETE FROM memory_logs")
    drained(pipeline)
    assert held_ids(pipeline) == set()


def test_the_smallest_id_survives_a_reset(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """A row that is there is reconciled, whatever its id."""
    smallest = -(2**63)
    db.execute(
        "INSERT INTO memory_logs (id, user_id, raw_data) VALUES (%s, 'ada', '{}')", (smallest,)
    )
    drained(pipeline)
    assert held_ids(pipeline) == {smallest}
    pipeline.index.write(live(pipeline), (), [MemoryId(smallest)], renew=lambda: SECONDS)
    db.execute("INSERT INTO memory_pipeline.change (tenant, memory_id) VALUES ('ada', NULL)")
    drained(pipeline)
    assert held_ids(pipeline) == {smallest}


def test_without_documents_only_vectors_and_metadata_are_stored(
    reopened: Callable[..., Pipeline], db: psycopg.Connection
) -> None:
    """document=none is a setting, and everything else stays the same."""
    pipeline = reopened(document="none")
    memory = remember(db, task="walk")
    drained(pipeline)
    generation = live(pipeline)
    with pipeline.servers.client(generation.server).collection(generation, SECONDS) as collection:
        held = collection.get(include=["documents", "metadatas"])
    [text] = held["documents"] or []
    assert text is None
    assert held_ids(pipeline) == {memory}


# ---- vectors


def test_vectors_are_backed_up_and_reused(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """What only changes metadata is not embedded again; what changes the text is."""
    embedder = CountingEmbedder()
    sync = with_embedder(pipeline, embedder)
    memory = remember(db, summary="a walk in the park")
    drained(pipeline, sync)
    assert one(db, "SELECT embedding IS NOT NULL FROM memory_logs") is True
    embedder.texts.clear()
    db.execute("UPDATE memory_logs SET project_id = 'gemini'")
    drained(pipeline, sync)
    assert embedder.texts == []
    assert_mirrored(pipeline)
    change(db, memory, '{"summary": "a swim in the sea"}')
    drained(pipeline, sync)
    assert embedder.texts == ["a swim in the sea"]
    assert_mirrored(pipeline)


@pytest.mark.parametrize("replacement", ["NULL", "array_fill(0.5, ARRAY[768])::vector"])
def test_a_vector_that_the_application_replaced_is_not_taken_for_ours(
    pipeline: Pipeline, db: psycopg.Connection, replacement: str
) -> None:
    """The text's hash still matches, and the vector is not the one that we stored."""
    remember(db, summary="a walk in the park")
    drained(pipeline)
    embedder = CountingEmbedder()
    db.execute(f"UPDATE memory_logs SET embedding = {replacement}".encode())
    drained(pipeline, with_embedder(pipeline, embedder))
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
    drained(pipeline, with_embedder(pipeline, embedder))
    assert embedder.texts == []
    assert_mirrored(pipeline)


def test_a_row_that_moved_while_it_was_embedded_is_looked_at_again(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: Callable[..., None]
) -> None:
    """P1: the backup misses, so the change stays, and the newest content lands."""
    memory = remember(db, summary="before")
    drained(pipeline)
    change(db, memory, '{"summary": "first"}')

    class Slow(CountingEmbedder):
        def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
            if not self.texts:
                change(db, memory, '{"summary": "second"}')
            return super().embed(texts)

    sync = with_embedder(pipeline, Slow())
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
        drained(pipeline)
        assert held_ids(pipeline) == set()
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
    drained(pipeline)
    assert one(db, "SELECT xmin::text FROM memory_logs") == version
    assert held_ids(pipeline) == {memory}


def test_an_empty_text_is_searchable_too(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """A memory that says nothing has a document, and later gets words."""
    db.execute("INSERT INTO memory_logs (user_id, raw_data) VALUES ('ada', '{}'), ('ada', '\"\"')")
    [outcome] = drained(pipeline)
    assert (outcome.written, outcome.failed) == (2, 0)
    assert_mirrored(pipeline)
    change(db, 1, '{"summary": "words"}')
    drained(pipeline)
    assert_mirrored(pipeline)


# ---- the size of a batch


def test_batches_that_are_bounded_by_bytes_lose_nothing(
    reopened: Callable[..., Pipeline], db: psycopg.Connection, wait_until: Callable[..., None]
) -> None:
    """What does not fit in a batch lands in a later one."""
    pipeline = reopened(batch_bytes=1)
    memories = {remember(db, summary=f"memory {n}") for n in range(6)}
    wait_until(lambda: settled(pipeline), within=20)
    assert held_ids(pipeline) == memories
    assert_mirrored(reopened())


def test_one_drain_gets_through_batches_that_are_bounded_by_bytes(
    reopened: Callable[..., Pipeline], db: psycopg.Connection
) -> None:
    """What was left out for its size waits for nothing: there is no reason for a pause."""
    pipeline = reopened(batch_bytes=1)
    memories = {remember(db, summary=f"memory {n}") for n in range(6)}
    drained(pipeline)
    assert held_ids(pipeline) == memories


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
    assert held_ids(pipeline) == memories


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
    drained(pipeline)
    assert_mirrored(pipeline)


# ---- poison


def test_a_memory_that_the_model_refuses_is_buried_alone(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: Callable[..., None]
) -> None:
    """P5: forty-nine land at once; the fiftieth is tried so often and becomes a dead letter."""
    good = {remember(db, summary=f"memory {n}") for n in range(49)}
    bad = remember(db, summary="a cup of arsenic")
    sync = with_embedder(pipeline, RefusingEmbedder())
    drained(pipeline, sync)
    assert held_ids(pipeline) == good
    wait_until(lambda: settled(pipeline, sync))
    row = db.execute(
        "SELECT memory_id, attempts, buried_at IS NOT NULL, last_error FROM memory_pipeline.failure"
    ).fetchall()
    assert [r[:3] for r in row] == [(bad, pipeline.settings.max_attempts, True)]
    assert "arsenic" not in row[0][3]
    assert held_ids(pipeline) == good


def test_a_dead_letter_is_cleared_when_the_memory_lands(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: Callable[..., None]
) -> None:
    """P5: what the application mended is searchable, and no longer a failure."""
    bad = remember(db, summary="a cup of arsenic")
    sync = with_embedder(pipeline, RefusingEmbedder())
    wait_until(lambda: settled(pipeline, sync))
    assert count_of(db, "failure WHERE buried_at IS NOT NULL") == 1
    change(db, bad, '{"summary": "a cup of tea"}')
    drained(pipeline, sync)
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
        change(db, bad, f'{{"summary": "arsenic number {n}"}}')
        neighbours.add(remember(db, summary=f"neighbour {n}"))
        sync.run(ADA)
        assert held_ids(pipeline) == neighbours
    assert count_of(db, "failure WHERE buried_at IS NOT NULL") == 1


def test_a_model_that_refuses_everything_charges_nobody(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P5: a broken model is an outage; nothing was sent, so nothing stays claimed."""
    for n in range(3):
        remember(db, summary=f"memory {n}")
    [outcome] = drained(pipeline, with_embedder(pipeline, BrokenEmbedder()))
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
    drained(pipeline, sync)
    assert held_ids(pipeline) == set(memories) - {bad}
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
    drained(pipeline)
    db.execute("DELETE FROM memory_logs WHERE id = %s", (gone,))
    refuse = raises(Poison("refused"))
    sync = with_index(pipeline, **{"on_prime" if where == "prime" else "before": refuse})
    assert sync.run(ADA).verdict in {"postponed", "damaged"}


# ---- documents that no search finds


def test_what_no_search_lists_any_more_is_written_again(
    pipeline: Pipeline, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P4: Chroma loses some beside others that are rewritten; each so many changes it is looked."""
    hidden = MemoryId(remember(db, summary="hidden"))
    drained(pipeline)
    written: list[MemoryId] = []
    sync = with_index(pipeline, after=lambda _, ids: written.extend(ids), hides=(hidden,))
    monkeypatch.setattr("memory_pipeline.sync.tenant.CHANGES_PER_REACHABILITY_CHECK", 10**9)
    new = remember(db, summary="rewritten")
    drained(pipeline, sync)
    assert written == [new]
    monkeypatch.setattr("memory_pipeline.sync.tenant.CHANGES_PER_REACHABILITY_CHECK", 1)
    newer = remember(db, summary="rewritten again")
    drained(pipeline, sync)
    assert written == [new, newer, hidden]
    assert count_of(db, "change") == 0
    assert_mirrored(pipeline)


# ---- damaged collections


def test_a_collection_that_refuses_a_control_write_is_replaced(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: Callable[..., None]
) -> None:
    """P5: what takes nothing at all is damaged: nobody is charged, all lands in a new one."""
    memories = {remember(db, summary=f"memory {n}") for n in range(5)}
    drained(pipeline)
    damaged = live(pipeline)
    memories.add(remember(db, summary="the last straw"))

    def refuse(generation: Generation, _: Collection[MemoryId]) -> None:
        if generation.id == damaged.id:
            raise Poison("refused")

    sync = with_index(pipeline, before=refuse, on_control=raises(Poison("refused"), times=1))
    outcome, rebuilt, *_ = drained(pipeline, sync, paused=True)
    assert (outcome.verdict, rebuilt.verdict) == ("damaged", "done")
    pass_time(db, 100)
    wait_until(lambda: settled(pipeline, sync))
    assert live(pipeline).id != damaged.id
    assert held_ids(pipeline) == memories
    assert_mirrored(pipeline)
    assert count_of(db, "failure") == 0
    assert one(db, "SELECT state FROM memory_pipeline.generation ORDER BY created_at") == "corrupt"


def test_a_collection_that_is_found_damaged_goes_on_being_searched(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P4: an answer that is late is better than none: the pointer waits for what is better."""
    remember(db)
    drained(pipeline)
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
    drained(pipeline)
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
    drained(pipeline)
    gone = live(pipeline)
    pipeline.index.drop(gone, seconds=SECONDS)
    remember(db, summary="one more")
    drained(pipeline, paused=True)
    drained(pipeline, paused=True)
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
        assert [o.verdict for o in drained(pipeline, sync)] == ["damaged", "done"]
        assert held_ids(pipeline) == memories
    remember(db, summary="one too many")
    for _ in range(3):
        assert [o.verdict for o in drained(pipeline, sync, paused=True)] == ["damaged"]
    assert count_of(db, "generation") == AUTOMATIC_REBUILDS_AN_HOUR + 1
    assert count_of(db, "generation WHERE state <> 'corrupt'") == 0
    assert count_of(db, "failure") == 0
    assert held_ids(pipeline) == memories


def test_a_lease_that_is_lost_while_damage_is_found_is_fenced(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """Whoever has the tenant now decides about its collection; the loser's sync just ends."""
    remember(db)
    drained(pipeline)
    remember(db, summary="another")

    def lose(generation: Generation, _: Collection[MemoryId]) -> None:
        pass_time(db, 100)
        assert pipeline.outbox.acquire_lease(ADA) is not None
        raise Corrupt("damaged", generation=generation.id)

    before = live(pipeline)
    outcome = with_index(pipeline, before=lose).run(ADA)
    assert outcome.verdict == "fenced"
    assert live(pipeline).id == before.id


# ---- beside a rebuild


def test_every_batch_writes_the_building_generation_too(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """What changes while a collection is built anew stands in both."""
    old = remember(db, summary="before")
    drained(pipeline)
    building = begin_building(pipeline)
    new = remember(db, summary="meanwhile")
    [outcome] = drained(pipeline)
    assert (outcome.verdict, outcome.written) == ("done", 1)
    assert held_ids(pipeline) == {old, new}
    assert held_in(pipeline, building) == {new}
    db.execute("DELETE FROM memory_logs")
    drained(pipeline)
    assert held_ids(pipeline) == held_in(pipeline, building) == set()


@pytest.mark.parametrize("where", ["on_prime", "before", "on_hashes"])
@pytest.mark.parametrize("trouble", ["damaged", "no answer", "not reached"])
def test_a_building_generation_that_fails_is_given_up_alone(
    pipeline: Pipeline, db: psycopg.Connection, where: str, trouble: str
) -> None:
    """The live one is written and acked all the same, and nobody is charged or waits."""
    old = remember(db, summary="before")
    drained(pipeline)
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
    [outcome] = drained(pipeline, sync)
    assert (outcome.verdict, outcome.written, outcome.failed) == ("done", 1, 0)
    assert live(pipeline).state == "live"
    assert held_ids(pipeline) == {old, new}
    assert_mirrored(pipeline)
    assert pipeline.registry.building(ADA) is None
    states = "SELECT state FROM memory_pipeline.generation WHERE id = %(id)s"
    assert one(db, states, id=building.id) == "abandoned"
    assert (count_of(db, "change"), count_of(db, "failure")) == (0, 0)
    assert pipeline.registry.damaged() == {}


def test_a_memory_that_the_building_generation_alone_refuses_is_charged(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: Callable[..., None]
) -> None:
    """P5: it is tried so often in both and becomes a dead letter; the building one is kept."""
    drained(pipeline)
    remember(db, summary="before")
    drained(pipeline)
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
    drained(pipeline)
    building = begin_building(pipeline)
    lost = min(memories)
    pipeline.index.write(live(pipeline), (), [MemoryId(lost)], renew=lambda: SECONDS)
    db.execute("INSERT INTO memory_pipeline.change (tenant, memory_id) VALUES ('ada', NULL)")
    drained(pipeline)
    assert held_ids(pipeline) == memories
    assert held_in(pipeline, building) == {lost}
    assert count_of(db, "change") == 0


def test_beside_a_damaged_collection_the_one_that_is_built_is_kept_fresh(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """A damaged collection is written no more, and a rebuild under way gets what changes."""
    old = remember(db, summary="before")
    drained(pipeline)
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
    drained(pipeline)
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
        drained(pipeline)
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
    drained(pipeline, paused=True)
    assert_mirrored(pipeline)


def test_a_rebuild_with_other_settings_that_was_left_does_not_stop_the_live_one(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """Setting them back is enough, as the refusal says, though half a collection was left."""
    remember(db, summary="before")
    drained(pipeline)
    begin_building(pipeline, model="another")
    db.execute("UPDATE memory_pipeline.rebuild SET owned_until = clock_timestamp()")
    new = remember(db, summary="meanwhile")
    outcome = pipeline.sync().run(ADA)
    assert outcome.verdict == "done"
    assert new in held_ids(pipeline)


# ---- outages and unknown outcomes


def test_while_chroma_is_down_everything_waits(
    reopened: Callable[..., Pipeline], pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P1, P5: nothing was sent, so nothing is claimed, charged or confirmed; it lands later."""
    remember(db, summary="before")
    drained(pipeline)
    remember(db, summary="meanwhile")
    down = reopened(chroma_url="http://127.0.0.1:1")
    [outcome] = drained(down)
    assert outcome.verdict == "postponed"
    assert "127.0.0.1:1" in outcome.reason
    assert one(db, "SELECT retry_at > clock_timestamp() FROM memory_pipeline.tenant") is True
    assert count_of(db, "failure") == 0
    assert count_of(db, "change") == 1
    assert count_of(db, "change WHERE claim_token IS NOT NULL OR confirm") == 0
    pass_time(db, 100)
    drained(pipeline)
    assert_mirrored(pipeline)


def test_a_damaged_collection_waits_while_chroma_is_down(
    reopened: Callable[..., Pipeline], pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P1, P5: an outage postpones a rebuild as it postpones a sync; one drain tells all of them."""
    remember(db, "ada")
    remember(db, "bob")
    drained(pipeline)
    damage(pipeline)
    remember(db, "bob", "meanwhile")
    outcomes = drained(reopened(chroma_url="http://127.0.0.1:1"))
    assert {(o.tenant, o.verdict) for o in outcomes} == {(ADA, "postponed"), (BOB, "postponed")}
    drained(pipeline, paused=True)
    assert_mirrored(pipeline, ADA)
    assert_mirrored(pipeline, BOB)


def test_a_tenant_that_is_new_while_chroma_is_down_lands_later(
    reopened: Callable[..., Pipeline], pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P1: the first collection is begun when there is a server to hold it."""
    remember(db)
    [outcome] = drained(reopened(chroma_url="http://127.0.0.1:1"))
    assert outcome.verdict == "postponed"
    assert count_of(db, "generation") == 0
    drained(pipeline, paused=True)
    assert_mirrored(pipeline)


def test_a_server_that_takes_no_writes_is_tried_by_one_tenant(
    reopened: Callable[..., Pipeline], pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """A hundred tenants of a server that hangs do not cost a hundred timeouts; all of them wait."""
    users = [f"user-{n}" for n in range(4)]
    for user in users:
        remember(db, user)
    drained(pipeline)
    for user in users:
        remember(db, user, "meanwhile")
    tried: list[TenantId] = []

    class Counted(Sync):
        def run(self, tenant: TenantId, **more: Any) -> Outcome:
            tried.append(tenant)
            return super().run(tenant, **more)

    down = reopened(chroma_url="http://127.0.0.1:1")
    counted = Counted(**{f: getattr(down.sync(), f) for f in Sync.__dataclass_fields__})
    outcomes = drained(down, counted)
    assert {(o.tenant, o.verdict) for o in outcomes} == {(u, "postponed") for u in users}
    assert len(tried) == 1
    assert count_of(db, "tenant WHERE retry_at > clock_timestamp()") == len(users)
    drained(pipeline, paused=True)
    for user in users:
        assert_mirrored(pipeline, TenantId(user))


def test_a_collection_that_takes_no_write_is_rebuilt_and_not_tried_for_ever(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """Its server takes those of others: after some tries it is damaged, whatever it answers."""
    remember(db, "ada")
    remember(db, "bob")
    drained(pipeline)
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
    drained(pipeline, paused=True)
    assert live(pipeline).id != wedged.id
    assert live(pipeline, BOB).id == sound.id
    assert count_of(db, "failure") == 0
    assert_mirrored(pipeline)


def test_a_collection_that_is_silent_may_be_busy(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """Who does not answer may be at a large write of before; it takes longer to be given up."""
    remember(db, "ada")
    drained(pipeline)
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
    drained(pipeline)
    before = live(pipeline)
    remember(db, "ada", "meanwhile")
    sync = with_index(pipeline, before=raises(ChromaUnavailable("answers 429: slow down"), times=9))
    assert {sync.run(ADA).verdict for _ in range(9)} == {"postponed"}
    assert sync.run(ADA).verdict == "done"
    assert live(pipeline).id == before.id
    assert_mirrored(pipeline)


def test_what_was_never_sent_is_given_back(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """A claim whose write never left is unclaimed, and needs no confirm."""
    remember(db)
    refused = ChromaUnavailable("connection refused", sent=False)
    sync = with_index(pipeline, before=raises(refused, times=1))
    [outcome] = drained(pipeline, sync)
    assert outcome.verdict == "postponed"
    assert count_of(db, "change WHERE claim_token IS NOT NULL") == 0
    drained(pipeline, sync, paused=True)
    assert count_of(db, "change") == 0
    assert_mirrored(pipeline)


def test_an_unknown_outcome_is_written_again_and_confirmed(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: Callable[..., None]
) -> None:
    """P1: what may still land late is looked at once more when it no longer can."""
    memory = remember(db)
    timeout = ChromaUnavailable("no answer in time")
    sync = with_index(pipeline, after=raises(timeout, times=1))
    [outcome] = drained(pipeline, sync)
    assert outcome.verdict == "postponed"
    assert count_of(db, "change WHERE claim_token IS NOT NULL") > 0
    drained(pipeline, sync, paused=True)
    assert one(db, "SELECT memory_id FROM memory_pipeline.change WHERE confirm") == memory
    assert pipeline.outbox.pending(ADA) == 1
    assert count_of(db, "failure") == 0
    wait_until(lambda: settled(pipeline, sync), within=15)
    assert_mirrored(pipeline)


def test_a_write_that_lands_after_the_takeover_is_mended_by_the_confirm(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """What broke: a timed-out request lands after a newer one and leaves a stale document behind.

    Nothing would be pending for it: the newer change was acked. The confirm reads the row again.
    """
    memory = remember(db, summary="old")
    late: list[tuple[Generation, Sequence[Document]]] = []

    class Late(MeddledIndex):
        def write(
            self,
            generation: Generation,
            documents: Sequence[Document],
            deletes: Sequence[MemoryId],
            *,
            renew: RenewLease,
            fresh: bool = False,
        ) -> None:
            if documents and not late:
                late.append((generation, documents))
                raise ChromaUnavailable("no answer in time")
            super().write(generation, documents, deletes, renew=renew, fresh=fresh)

    sync = replace(pipeline.sync(), index=Late(pipeline.index))
    drained(pipeline, sync)
    change(db, memory, '{"summary": "new"}')
    drained(pipeline, sync, paused=True)
    assert_mirrored(pipeline)
    [(generation, documents)] = late
    pipeline.index.write(generation, documents, (), renew=lambda: SECONDS)
    with pytest.raises(AssertionError):
        assert_mirrored(pipeline)
    assert pipeline.outbox.pending(ADA) > 0
    pass_time(db, 100)
    drained(pipeline, sync, paused=True)
    assert_mirrored(pipeline)
    assert pipeline.outbox.pending(ADA) == 0


def test_a_kill_between_write_and_ack_is_taken_over(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P1: the lease of the dead runs out, another worker does it again and confirms."""
    memories = {remember(db, summary=f"memory {n}") for n in range(3)}
    with pytest.raises(Killed):
        replace(pipeline.sync(), outbox=DyingOutbox(pipeline.outbox)).run(ADA)
    db.execute("DELETE FROM memory_logs WHERE id = %s", (gone := min(memories),))
    [outcome] = drained(pipeline)
    assert outcome.verdict == "busy"
    pass_time(db, pipeline.settings.lease_seconds + 1)
    drained(pipeline)
    assert held_ids(pipeline) == memories - {gone}
    assert count_of(db, "change WHERE confirm") == len(memories)
    pass_time(db, 100)
    drained(pipeline)
    assert count_of(db, "change") == 0
    assert_mirrored(pipeline)


def test_nothing_is_sent_once_the_lease_is_lost(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """P2: a worker that embedded for too long writes nothing, and the one that took over does."""
    remember(db, summary="before")
    drained(pipeline)
    before = held_ids(pipeline)
    late = remember(db, summary="late")
    thieves: list[Lease] = []

    class Slow(CountingEmbedder):
        def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
            pass_time(db, 100)
            thief = pipeline.outbox.acquire_lease(ADA)
            assert thief is not None
            thieves.append(thief)
            return super().embed(texts)

    [outcome] = drained(pipeline, with_embedder(pipeline, Slow()))
    assert outcome.verdict == "fenced"
    assert held_ids(pipeline) == before
    assert pipeline.outbox.pending(ADA) == 1
    pipeline.outbox.release_lease(thieves[0])
    drained(pipeline)
    assert held_ids(pipeline) == {*before, late}


def test_a_tenant_in_trouble_does_not_hold_up_the_others(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P5: one drain goes on with the next tenant."""
    remember(db, "ada")
    drained(pipeline)
    remember(db, "ada", "another")
    remember(db, "bob")
    troubled = live(pipeline, ADA).id

    def fail(generation: Generation, _: Collection[MemoryId]) -> None:
        if generation.id == troubled:
            raise ChromaUnavailable("no answer in time")

    outcomes = drained(pipeline, with_index(pipeline, before=fail))
    assert {(o.tenant, o.verdict) for o in outcomes} == {(ADA, "postponed"), (BOB, "done")}
    assert_mirrored(pipeline, BOB)


def test_two_workers_at_once_write_everything_once_and_right(
    pipeline: Pipeline, reopened: Callable[..., Pipeline], db: psycopg.Connection
) -> None:
    """P2: leases keep two drains apart, whoever is faster."""
    for n in range(40):
        remember(db, f"tenant {n % 4}", f"memory {n}")
    pipeline.servers.check_identity()
    other = reopened(batch_size=3)
    threads = [threading.Thread(target=drained, args=(p,)) for p in (pipeline, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    drained(pipeline, paused=True)
    for n in range(4):
        assert_mirrored(pipeline, TenantId(f"tenant {n}"))
    assert pipeline.status.totals().pending_changes == 0


# ---- refusals and the model


@pytest.mark.parametrize("changes", [{"text_limit": 10}, {"metadata_fields": ("task",)}])
def test_other_settings_are_refused_with_what_to_do(
    pipeline: Pipeline,
    reopened: Callable[..., Pipeline],
    db: psycopg.Connection,
    changes: dict[str, object],
) -> None:
    """Documents of two recipes are never mixed in one collection."""
    remember(db)
    drained(pipeline)
    remember(db, summary="another")
    other = reopened(**changes)
    [outcome] = drained(other)
    assert outcome.verdict == "refused"
    assert "set them back, or rebuild" in outcome.reason
    assert count_of(db, "change WHERE claim_token IS NOT NULL") == 0
    assert len(held_ids(pipeline)) == 1
    drained(pipeline, paused=True)
    assert_mirrored(pipeline)


def test_another_model_is_refused_with_what_to_do(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """Vectors of two models are never compared."""
    remember(db)
    drained(pipeline)
    remember(db, summary="another")
    [outcome] = drained(pipeline, with_embedder(pipeline, CountingEmbedder(model="another")))
    assert outcome.verdict == "refused"
    assert "another model" in outcome.reason
    assert len(held_ids(pipeline)) == 1


def test_a_cold_model_is_loaded_without_the_lease(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """Loading takes longer than a lease: meanwhile nobody is kept out and nothing is claimed."""
    remember(db)

    class Cold(CountingEmbedder):
        def load(self) -> None:
            lease = pipeline.outbox.acquire_lease(ADA)
            assert lease is not None
            pipeline.outbox.release_lease(lease)
            assert count_of(db, "change WHERE claim_token IS NOT NULL") == 0
            super().load()

    embedder = Cold(loaded=False)
    [outcome] = drained(pipeline, with_embedder(pipeline, embedder))
    assert (outcome.verdict, outcome.embedded) == ("done", 1)
    assert count_of(db, "change") == 0
    assert_mirrored(pipeline)


def test_a_model_that_cannot_be_loaded_postpones(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P5: a sync never raises for an outage of the model, and charges nobody."""
    remember(db)

    class Unloadable(CountingEmbedder):
        def load(self) -> None:
            raise EmbedderUnavailable("out of memory")

    [outcome] = drained(pipeline, with_embedder(pipeline, Unloadable(loaded=False)))
    assert outcome.verdict == "postponed"
    assert count_of(db, "failure") == 0


def test_memories_without_a_tenant_are_left_alone(
    reopened: Callable[..., Pipeline], db: psycopg.Connection
) -> None:
    """A row that belongs to nobody is no change of anybody."""
    db.execute("ALTER TABLE memory_logs ALTER user_id DROP NOT NULL")
    db.execute("INSERT INTO memory_logs (user_id, raw_data) VALUES (NULL, '{}')")
    assert drained(reopened()) == []


def test_a_reset_of_a_tenant_that_takes_longer_than_a_lease_is_not_fenced(
    pipeline: Pipeline, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reconciliation renews the lease on its way through a large tenant."""
    for number in range(3):
        remember(db, "ada", f"memory {number}")
    drained(pipeline)
    monkeypatch.setattr("memory_pipeline.sync.comparison.MEMORIES_A_RENEWAL", 1)
    db.execute("TRUNCATE memory_pipeline.change")
    db.execute("INSERT INTO memory_pipeline.change (tenant, memory_id) VALUES ('ada', NULL)")
    until = "SELECT lease_until FROM memory_pipeline.tenant WHERE tenant = 'ada'"
    seen: list[object] = []
    walk = pipeline.memories.of_tenant

    def watched(tenant: TenantId) -> Iterator[Memory]:
        for memory in walk(tenant):
            yield memory
            row = db.execute(until).fetchone()
            assert row is not None
            seen.append(row[0])

    monkeypatch.setattr(type(pipeline.memories), "of_tenant", lambda _, tenant: watched(tenant))
    drained(pipeline)
    assert len(set(seen)) == 3


def test_a_time_that_python_cannot_hold_stops_nobody(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P5: infinity is a time in Postgres; its memory lands and its neighbours do."""
    remember(db, "ada")
    db.execute("UPDATE memory_logs SET created_at = 'infinity', updated_at = '-infinity'")
    remember(db, "bob")
    drained(pipeline)
    assert len(held_ids(pipeline, ADA)) == len(held_ids(pipeline, BOB)) == 1


def test_a_generation_that_is_given_up_is_built_again_without_a_change(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P1: whoever drains comes to a damaged collection, though nothing of its tenant waits."""
    remember(db, "ada")
    drained(pipeline)
    damaged = damage(pipeline)
    assert count_of(db, "change") == 0
    [outcome] = drained(pipeline)
    assert outcome.verdict == "done"
    assert live(pipeline).id != damaged.id
    assert_mirrored(pipeline)


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
