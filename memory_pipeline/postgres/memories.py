"""The rows of ``memory_logs``: read in binary by id, written as an application would write them."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from memory_pipeline.domain.types import (
    BackedUpVector,
    Memory,
    MemoryId,
    Provenance,
    TenantId,
    Vector,
)
from memory_pipeline.errors import InvalidMemory
from memory_pipeline.postgres.backup import PostgresBackup
from memory_pipeline.postgres.connection import AS_APPLICATION
from memory_pipeline.postgres.database import Database, queries
from memory_pipeline.postgres.refusals import refusals
from memory_pipeline.settings import Settings

# Ids are cheap to hold and expensive to find: each page scans all rows of the tenant.
PAGE = 20_000
# Rows in one statement of an iteration over a tenant.
ROWS_AT_ONCE = 1000


class PostgresMemories:
    """Memories as the pipeline reads them, and their embedding backup."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._backup = PostgresBackup(database, settings)

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
        """Store vectors as ``PostgresBackup`` does; return the memories that were not missed."""
        return self._backup.back_up(vectors)

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

    def forget_gone(self, *, limit: int = ROWS_AT_ONCE) -> int:
        """Delete the vectors and the provenance of up to so many memories that no longer exist."""
        with self._database.statement() as connection:
            return int(queries().forget_gone(connection, limit=limit))

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


def _memory(row: Any) -> Memory:
    vector, kept = _vector(row.embedding), _vector(row.backed_up)
    known = row.text_hash is not None
    return Memory(
        id=MemoryId(row.id),
        tenant=TenantId(row.tenant),
        user_id=row.user_id,
        project_id=row.project_id,
        raw=row.raw,
        embedding=vector,
        created_at=_zoned(row.created_at),
        updated_at=_zoned(row.updated_at),
        version=row.version,
        provenance=Provenance(row.text_hash, row.model, row.vector_hash) if known else None,
        backed_up=None
        if kept is None
        else BackedUpVector(kept, row.backed_up_text_hash, row.backed_up_model),
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


def _vector(value: Any) -> Vector | None:
    if value is None:
        return None
    floats = value.to_numpy() if hasattr(value, "to_numpy") else value
    return np.asarray(floats, dtype=np.float32)
