"""The rows of memory_logs, in memory."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from memory_pipeline.domain.types import (
    BackedUpVector,
    Memory,
    MemoryId,
    Provenance,
    TenantId,
    Vector,
)
from memory_pipeline.postgres import memories as postgres_memories
from memory_pipeline.postgres.backup import provenance_of_unknown_text
from memory_pipeline_tests.fakes.world import FakeWorld


class FakeMemories:
    """The rows, read by id, and their embedding backup."""

    def __init__(self, world: FakeWorld) -> None:
        self.world = world

    def read(
        self, ids: Sequence[MemoryId], *, vectors: bool = True
    ) -> tuple[dict[MemoryId, Memory], tuple[MemoryId, ...]]:
        """Return the rows that exist, and the ids left out because the batch is full."""
        with self.world.step("memories.read"):
            fit: dict[MemoryId, Memory] = {}
            left_out: list[MemoryId] = []
            size = 0
            for memory_id in sorted(set(ids) & set(self.world.rows)):
                size += len(self.world.rows[memory_id].raw)
                if fit and size > self.world.settings.batch_bytes:
                    left_out.append(memory_id)
                else:
                    fit[memory_id] = self._row(memory_id, vectors=vectors)
            return fit, tuple(left_out)

    def versions(self, ids: Sequence[MemoryId]) -> dict[MemoryId, tuple[TenantId | None, str]]:
        """Return tenant and version of each of these rows that exists."""
        with self.world.step("memories.versions"):
            rows = self.world.rows
            return {i: (rows[i].tenant, rows[i].version) for i in ids if i in rows}

    def ids(self, tenant: TenantId, *, after: MemoryId | None = None) -> Iterator[list[MemoryId]]:
        """Walk through the ids of a tenant's memories, in order, a page at a time."""
        most = postgres_memories.PAGE
        while True:
            with self.world.step("memories.ids"):
                mine = sorted(i for i, row in self.world.rows.items() if row.tenant == tenant)
                page = [i for i in mine if after is None or i > after][:most]
            if page:
                yield page
            if len(page) < most:
                return
            after = page[-1]

    def get(
        self, tenant: TenantId, ids: Sequence[MemoryId], *, vectors: bool = False
    ) -> dict[MemoryId, Memory]:
        """Return those of these memories that exist and are the tenant's, however large."""
        with self.world.step("memories.get"):
            rows = self.world.rows
            mine = sorted(i for i in set(ids) & set(rows) if rows[i].tenant == tenant)
            return {i: self._row(i, vectors=vectors) for i in mine}

    def of_tenant(self, tenant: TenantId) -> Iterator[Memory]:
        """Walk through a tenant's memories in id order, without their vectors."""
        for page in self.ids(tenant):
            yield from self.get(tenant, page).values()

    def count(self, tenant: TenantId) -> int:
        """Count a tenant's memories."""
        with self.world.step("memories.count"):
            return sum(row.tenant == tenant for row in self.world.rows.values())

    def back_up(
        self, vectors: dict[MemoryId, tuple[Memory, Vector, Provenance]]
    ) -> frozenset[MemoryId]:
        """Store vectors of rows whose version is the one that was read; return whom it missed not.

        Whom Postgres refuses a backup counts as done, whatever has become of the row.
        """
        world = self.world
        backup = world.settings.backup
        with world.step("memories.back_up"):
            refused = {i for i in vectors if backup == "on" and world.refuses_backup(i)}
            unkept = refused if backup == "on" else vectors
            world.note_provenance(
                provenance_of_unknown_text({i: v for i, v in vectors.items() if i in unkept})
            )
            if backup == "off":
                return frozenset(vectors)
            done = set(refused)
            for memory_id, (read, vector, provenance) in vectors.items():
                row = world.rows.get(memory_id)
                if memory_id in refused or row is None or row.version != read.version:
                    continue
                done.add(memory_id)
                if backup == "table":
                    world.vectors[memory_id] = BackedUpVector(
                        vector, provenance.text_hash, provenance.model
                    )
                    continue
                version = str(world.number())
                world.rows[memory_id] = replace(row, embedding=vector, version=version)
                world.provenance[memory_id] = provenance
                world.vectors.pop(memory_id, None)
            return frozenset(done)

    def _row(self, memory_id: MemoryId, *, vectors: bool) -> Memory:
        row = replace(
            self.world.rows[memory_id],
            provenance=self.world.provenance.get(memory_id),
            backed_up=self.world.vectors.get(memory_id),
        )
        return row if vectors else replace(row, embedding=None, backed_up=None)
