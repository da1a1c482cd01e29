"""Words of the tests of sync: doubles, what a tenant holds, what waits."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import numpy as np
import psycopg

from memory_pipeline.chroma.index import ChromaIndex
from memory_pipeline.content.document import compose
from memory_pipeline.domain.changes import Claim
from memory_pipeline.domain.outcomes import Failure, Outcome
from memory_pipeline.domain.types import (
    Document,
    Generation,
    MemoryId,
    ProvenanceUpdate,
    RebuildId,
    TenantId,
    Vector,
)
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.errors import (
    Poison,
)
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.ports import Embedder, Lease, RenewLease
from memory_pipeline.postgres.outbox import PostgresOutbox
from memory_pipeline.sync.tenant import Sync

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
