"""What has to be true after each step, read from Postgres and Chroma and from nothing else."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

import psycopg

from memory_pipeline.chroma.client import ChromaClient
from memory_pipeline.content.document import Recipe, compose
from memory_pipeline.domain.types import Generation, Memory, MemoryId, TenantId, memory_id_of
from memory_pipeline.errors import Corrupt
from memory_pipeline.pipeline import Pipeline
from memory_pipeline_tests.stateful.faults import SECONDS

# What a document says: its text and its content hash.
Said = tuple[str, str]


class Violation(AssertionError):
    """A promise is broken."""


@dataclass(frozen=True, slots=True)
class Pointers:
    """Which generations a tenant has, and how far the one that is built was filled."""

    live: UUID | None
    state: str | None
    building: UUID | None
    through: int | None


@dataclass(frozen=True, slots=True)
class Truth:
    """What Postgres says: memories by tenant, pointers, and why a document may differ."""

    memories: Mapping[str, Mapping[int, Said]]
    tenants: Mapping[str, Pointers]
    charged: frozenset[int]
    # By tenant; None stands for all of its memories.
    pending: Mapping[str, frozenset[int | None]]
    # The same without what the flip to the building generation acks.
    pending_beside: Mapping[str, frozenset[int | None]]
    buried: Mapping[str, frozenset[int]]
    truncated: bool

    def excused(self, tenant: str) -> frozenset[int | None]:
        """Tell whose documents may differ: those that something is on its way for."""
        return self.pending.get(tenant, frozenset()) | self.buried.get(tenant, frozenset())


@lru_cache(maxsize=4096)
def _said(project_id: str | None, raw: str, created_at: datetime, recipe: Recipe) -> Said:
    whose = TenantId("whoever")
    memory = Memory(
        MemoryId(1), whose, whose, project_id, raw, None, created_at, created_at, version="1"
    )
    return raw, compose(memory, recipe).content_hash


MEMORIES = "SELECT id, user_id, project_id, raw_data::text, created_at FROM memory_logs"
TENANTS = """
SELECT t.tenant, t.live, g.state, t.building,
       (SELECT r.through FROM memory_pipeline.rebuild r WHERE r.generation = t.building
        ORDER BY r.started_at DESC NULLS LAST LIMIT 1)
FROM memory_pipeline.tenant t LEFT JOIN memory_pipeline.generation g ON g.id = t.live
"""
CHANGES = """
SELECT c.tenant, c.memory_id, c.covered_by IS NOT DISTINCT FROM t.building
                              AND c.covered_by IS NOT NULL AND c.claim_token IS NULL
FROM memory_pipeline.change c LEFT JOIN memory_pipeline.tenant t ON t.tenant = c.tenant
"""
FAILURES = "SELECT tenant, memory_id, buried_at IS NOT NULL FROM memory_pipeline.failure"
TRUNCATED = "SELECT EXISTS (SELECT FROM memory_pipeline.truncation)"


def read_truth(db: psycopg.Connection, recipe: Recipe) -> Truth:
    """Read what Postgres says now, in one round trip."""
    with db.pipeline():
        rows, pointers, changes, failures, truncated = [
            db.execute(sql) for sql in (MEMORIES, TENANTS, CHANGES, FAILURES, TRUNCATED)
        ]
    memories: dict[str, dict[int, Said]] = {}
    for id_, tenant, project, raw, created_at in rows:
        memories.setdefault(tenant, {})[id_] = _said(project, raw, created_at, recipe)
    waiting, failed = changes.fetchall(), failures.fetchall()
    return Truth(
        memories,
        {tenant: Pointers(*rest) for tenant, *rest in pointers},
        frozenset(i for _, i, _ in failed),
        _grouped((t, i) for t, i, _ in waiting),
        _grouped((t, i) for t, i, covered in waiting if not covered),
        _grouped((t, i) for t, i, buried in failed if buried),
        truncated.fetchall() == [(True,)],
    )


def _grouped(rows: Iterable[Any]) -> Mapping[str, frozenset[Any]]:
    found: dict[str, set[Any]] = {}
    for tenant, id_ in rows:
        found.setdefault(tenant, set()).add(id_)
    return {tenant: frozenset(ids) for tenant, ids in found.items()}


@dataclass
class Collections:
    """What the collections say; one that nobody wrote since is not read again."""

    pipeline: Pipeline
    written: set[UUID] = field(default_factory=set)
    # Those that the test itself has deleted.
    destroyed: set[UUID] = field(default_factory=set)
    _read: dict[UUID, dict[int, Said]] = field(default_factory=dict)

    @property
    def server(self) -> ChromaClient:
        """Return the one server that there is, as it was found last."""
        return self.pipeline.servers.client(self.pipeline.servers.usable()[0])

    def said(self, generation: UUID) -> dict[int, Said] | None:
        """Return what a collection says of each memory; None where the test has deleted it."""
        if generation not in self._read or generation in self.written:
            self.written.discard(generation)
            found = self._said(generation)
            if found is None:
                return None
            self._read[generation] = found
        return self._read[generation]

    def forget(self) -> None:
        """Read everything again."""
        self._read.clear()

    def _said(self, generation: UUID) -> dict[int, Said] | None:
        if generation in self.destroyed:
            return None
        found = self.raw(generation)
        names = [memory_id_of(name) for name in found["ids"]]
        return {
            int(id_): (text, str(metadata["hash"]))
            for id_, text, metadata in zip(
                names, found["documents"], found["metadatas"], strict=True
            )
            if id_ is not None
        }

    def raw(self, generation: UUID) -> Any:
        """Return all that a collection holds, as Chroma answers."""
        row = self.generation(generation)
        with self.pipeline.servers.client(row.server).collection(row, SECONDS) as collection:
            return collection.get(include=["documents", "metadatas"])

    def generation(self, id_: UUID) -> Generation:
        """Return a generation as the registry has it."""
        with self.pipeline.database.transaction() as connection:
            from memory_pipeline.postgres.registry import read_generation

            return read_generation(connection, id_)

    def names(self) -> set[str]:
        """Return the names of all collections of the server, the marker apart."""
        with self.server.call(SECONDS) as api:
            return {c.name for c in api.list_collections() if c.name.startswith("memories-")}

    def destroy(self, generation: UUID) -> None:
        """Delete a collection behind everybody's back."""
        row = self.generation(generation)
        self.pipeline.index.drop(row, seconds=SECONDS)
        self.destroyed.add(generation)
        self._read.pop(generation, None)

    def clear(self) -> None:
        """Delete all collections."""
        self.pipeline.index.servers()
        for name in self.names():
            with self.server.call(SECONDS) as api:
                api.delete_collection(name)
        self._read.clear()
        self.destroyed.clear()
        self.written.clear()


def check_nothing_is_lost(truth: Truth, collections: Collections) -> None:
    """P1: whatever differs from its live document has something on its way."""
    if truth.truncated:  # a reset of everybody is pending
        return
    for tenant in {*truth.memories, *truth.tenants}:
        pointers = truth.tenants.get(tenant, Pointers(None, None, None, None))
        if pointers.state not in {None, "live"}:  # marked for its rebuild
            continue
        if pointers.live is None and pointers.building is not None:
            # Its very first rebuild was cut off: batches write what that will let searches go to,
            # which is judged below.
            continue
        rows = truth.memories.get(tenant, {})
        held: dict[int, Said] | None = {}
        if pointers.live is not None:
            held = collections.said(pointers.live)
        excused = truth.excused(tenant)
        if held is None or None in excused:
            continue
        lost = {i for i in {*rows, *held} if rows.get(i) != held.get(i)} - excused
        if lost:
            raise Violation(
                f"P1: {_told(lost, rows, held)} of {tenant} and nothing is pending for it"
            )


def check_what_is_built(truth: Truth, collections: Collections) -> None:
    """P7: what was filled of a building generation is kept fresh, and none of it is forgotten.

    Documents of memories that went are left to the verify before the flip: a chunk that lands late
    brings them back.
    """
    if truth.truncated:
        return
    for tenant, pointers in truth.tenants.items():
        if pointers.building is None or pointers.through is None:
            continue
        try:
            held = collections.said(pointers.building)
        except Corrupt:
            held = None
        beside = truth.pending_beside.get(tenant, frozenset())
        if held is None or None in beside:
            continue
        rows = {i: r for i, r in truth.memories.get(tenant, {}).items() if i <= pointers.through}
        lost = {i for i in rows if rows[i] != held.get(i)}
        lost -= beside | truth.buried.get(tenant, frozenset())
        if lost:
            raise Violation(f"P7: {_told(lost, rows, held)} of {tenant} in what is being built")


def check_poison(truth: Truth, poisoned: set[int]) -> None:
    """P5: nothing is charged with an attempt but what was poison."""
    if innocent := truth.charged - poisoned:
        raise Violation(f"P5: {sorted(innocent)} were never poison, and are charged")


def check_own_vectors(db: psycopg.Connection) -> None:
    """A vector of the application's own stays, where such vectors are trusted."""
    replaced = db.execute(
        "SELECT o.id FROM own_vector o JOIN memory_logs m ON m.id = o.id"
        " WHERE m.embedding IS DISTINCT FROM o.vector"
    ).fetchall()
    if replaced:
        raise Violation(f"the application's vectors of {[i for (i,) in replaced]} were replaced")


def _told(
    lost: Iterable[int], rows: Mapping[int, Said], held: Mapping[int, Said]
) -> Mapping[int, str]:
    def kind(i: int) -> str:
        return "missing" if i not in held else "extra" if i not in rows else "stale"

    return {i: kind(i) for i in sorted(lost)}
