"""The rows of ``memory_logs``: read in binary by id, written as an application would write them."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import psycopg

from memory_pipeline.content.document import vector_hash
from memory_pipeline.domain.types import (
    Memory,
    MemoryId,
    Provenance,
    ProvenanceUpdate,
    TenantId,
    Vector,
)
from memory_pipeline.errors import InvalidMemory
from memory_pipeline.postgres.connection import AS_APPLICATION
from memory_pipeline.postgres.database import Database, queries
from memory_pipeline.postgres.outbox import record_provenance
from memory_pipeline.postgres.refusals import refusals
from memory_pipeline.settings import Settings

# Ids are cheap to hold and expensive to find: each page scans all rows of the tenant.
PAGE = 20_000
# Rows in one statement of an iteration over a tenant.
ROWS_AT_ONCE = 1000
# Stands for the hash of an unknown text: no text has it.
NO_TEXT = ""


class PostgresMemories:
    """Memories as the pipeline reads them, and their embedding backup."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings

    def read(
        self, ids: Sequence[MemoryId], *, vectors: bool = True
    ) -> tuple[dict[MemoryId, Memory], tuple[MemoryId, ...]]:
        """Return the rows that exist, and the ids left out because the batch is full."""
        with self._database.statement() as connection:
            rows = list(
                queries().read(
                    connection,
                    ids=list(ids),
                    byte_limit=self._settings.batch_bytes,
                    vectors=vectors,
                )
            )
        fit = {MemoryId(row.id): _memory(row) for row in rows if row.fits}
        return fit, tuple(MemoryId(row.id) for row in rows if not row.fits)

    def versions(self, ids: Sequence[MemoryId]) -> dict[MemoryId, tuple[TenantId | None, str]]:
        """Return the current tenant and version of each of these rows that exists."""
        with self._database.statement() as connection:
            rows = queries().versions(connection, ids=list(ids))
            return {MemoryId(row.id): (row.tenant, row.version) for row in rows}

    def ids(self, tenant: TenantId, *, after: MemoryId | None = None) -> Iterator[list[MemoryId]]:
        """Iterate over the ids of a tenant's memories, in order, a page at a time."""
        while True:
            with self._database.statement() as connection:
                rows = queries().ids_of_tenant(connection, tenant=tenant, after=after, limit=PAGE)
                page = [MemoryId(row.id) for row in rows]
            if page:
                yield page
            if len(page) < PAGE:
                return
            after = page[-1]

    def back_up(
        self, vectors: dict[MemoryId, tuple[Memory, Vector, Provenance]]
    ) -> frozenset[MemoryId]:
        """Store vectors where the row is still the version that was read; return the stored ones.

        With ``backup=off`` no vector is stored and every row counts as done; where the row keeps
        another vector, its provenance says that it is of another text.
        """
        if not vectors:
            return frozenset()
        if self._settings.backup == "off":
            if others := provenance_of_unknown_text(vectors):
                with self._database.statement() as connection:
                    record_provenance(connection, others)
            return frozenset(vectors)
        provenance = [p for _, _, p in vectors.values()]
        try:
            with self._database.statement() as connection:
                stored = queries().back_up(
                    connection,
                    ids=list(vectors),
                    versions=[memory.version for memory, _, _ in vectors.values()],
                    vectors=[vector for _, vector, _ in vectors.values()],
                    text_hashes=[p.text_hash for p in provenance],
                    models=[p.model for p in provenance],
                    vector_hashes=[p.vector_hash for p in provenance],
                )
                return frozenset(MemoryId(row.id) for row in stored)
        except psycopg.errors.LockNotAvailable:
            return frozenset()  # another worker holds their provenance: the changes stay pending

    def of_tenant(self, tenant: TenantId) -> Iterator[Memory]:
        """Iterate over a tenant's memories in id order, a page at a time, without their vectors."""
        for page in self.ids(tenant):
            for at in range(0, len(page), ROWS_AT_ONCE):
                yield from self.get(tenant, page[at : at + ROWS_AT_ONCE]).values()

    def count(self, tenant: TenantId) -> int:
        """Count a tenant's memories."""
        with self._database.statement() as connection:
            return int(queries().count_of_tenant(connection, tenant=tenant))

    def get(
        self, tenant: TenantId, ids: Sequence[MemoryId], *, vectors: bool = False
    ) -> dict[MemoryId, Memory]:
        """Return the memories that exist and belong to the tenant, however large."""
        found: dict[MemoryId, Memory] = {}
        left: Sequence[MemoryId] = ids
        while left:
            rows, left = self.read(left, vectors=vectors)
            found |= {i: memory for i, memory in rows.items() if memory.tenant == tenant}
        return found

    def sizes(self) -> dict[TenantId, int]:
        """Count the memories of every tenant that has any."""
        with self._database.statement() as connection:
            rows = queries().sizes(connection)
            return {TenantId(row.tenant): row.memories for row in rows}

    def insert(
        self, *, user_id: str, project_id: str | None, raw: str, created_at: datetime | None
    ) -> MemoryId:
        """Store a new memory; return its id. A time without a zone is UTC.

        Raises:
            InvalidMemory: Postgres refuses it.

        """
        with refusals(), self._database.statement(AS_APPLICATION) as connection:
            return MemoryId(
                queries().insert(
                    connection,
                    user_id=user_id,
                    project_id=project_id,
                    raw=raw,
                    created_at=None if created_at is None else _utc_text(created_at),
                )
            )

    def update(self, tenant: TenantId, memory_id: MemoryId, raw: str) -> bool:
        """Replace a memory's content; False where the tenant has no such memory."""
        with refusals(), self._database.statement(AS_APPLICATION) as connection:
            return bool(queries().update(connection, tenant=tenant, id=memory_id, raw=raw))

    def delete(self, tenant: TenantId, memory_id: MemoryId) -> bool:
        """Delete a memory; False where there is none. Raises InvalidMemory if Postgres refuses."""
        with refusals(), self._database.statement(AS_APPLICATION) as connection:
            return bool(queries().delete(connection, tenant=tenant, id=memory_id))


def provenance_of_unknown_text(
    vectors: Mapping[MemoryId, tuple[Memory, Vector, Provenance]],
) -> dict[MemoryId, ProvenanceUpdate]:
    """Return provenance that says that the vectors these rows keep are of an unknown text.

    Without it the next batch would take such a vector for one that the application has just set.
    """
    return {
        i: ProvenanceUpdate(
            Provenance(NO_TEXT, provenance.model, vector_hash(memory.embedding)), memory.provenance
        )
        for i, (memory, _, provenance) in vectors.items()
        if memory.embedding is not None
    }


def _memory(row: Any) -> Memory:
    vector = row.embedding
    known = row.text_hash is not None
    return Memory(
        id=MemoryId(row.id),
        tenant=TenantId(row.tenant),
        user_id=row.user_id,
        project_id=row.project_id,
        raw=row.raw,
        embedding=None if vector is None else np.asarray(_floats(vector), dtype=np.float32),
        created_at=_zoned(row.created_at),
        updated_at=_zoned(row.updated_at),
        version=row.version,
        provenance=Provenance(row.text_hash, row.model, row.vector_hash) if known else None,
    )


def _zoned(when: datetime | None) -> datetime | None:
    """Return a time with a zone: a column without one is UTC."""
    return when.replace(tzinfo=UTC) if when and not when.tzinfo else when


def _utc_text(when: datetime) -> str:
    """Return a time in UTC and with its zone, which a column without one ignores.

    Raises InvalidMemory where UTC has another year than the years 1 to 9999.
    """
    try:
        utc = when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)
    except OverflowError as error:
        raise InvalidMemory("created_at is outside of the years 1 to 9999 in UTC") from error
    return utc.isoformat(sep=" ")


def _floats(vector: Any) -> Any:
    return vector.to_numpy() if hasattr(vector, "to_numpy") else vector
