"""Both sides, read without the pipeline: Postgres directly, Chroma by its own client.

Nothing here uses the pipeline's code for reading, composing or comparing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from memory_pipeline.domain.types import MemoryId, TenantId, document_id, memory_id_of
from memory_pipeline.testing.chroma_client import connect

PAGE = 1_000

ROWS = """
SELECT id, memory_pipeline.tenant_of(user_id, project_id), xmin::text, raw_data::text
FROM public.memory_logs WHERE id = ANY(%s)
"""
ALL_ROWS = """
SELECT id, memory_pipeline.tenant_of(user_id, project_id), xmin::text, raw_data::text
FROM public.memory_logs ORDER BY id
"""
SOME_IDS = "SELECT id FROM public.memory_logs WHERE user_id = %s ORDER BY random() LIMIT %s"
# Memories with a pending change (claimed ones and confirms included) or a dead letter; NULL is
# every memory of the tenant, while it is reset or its collection is marked for a rebuild.
EXCUSED = """
SELECT c.memory_id FROM memory_pipeline.change c
WHERE c.tenant = %(tenant)s AND (c.memory_id IS NULL OR c.memory_id = ANY(%(ids)s))
UNION SELECT f.memory_id FROM memory_pipeline.failure f
WHERE f.tenant = %(tenant)s AND f.memory_id = ANY(%(ids)s) AND f.buried_at IS NOT NULL
UNION SELECT NULL FROM memory_pipeline.truncation
UNION SELECT NULL FROM memory_pipeline.tenant t
JOIN memory_pipeline.generation g ON g.id = t.live
WHERE t.tenant = %(tenant)s AND g.state <> 'live'
"""
LIVE = "SELECT live::text FROM memory_pipeline.tenant WHERE tenant = %s"
ALL_LIVE = "SELECT tenant, live::text FROM memory_pipeline.tenant WHERE live IS NOT NULL"
BURIED = "SELECT tenant, memory_id FROM memory_pipeline.failure WHERE buried_at IS NOT NULL"


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A memory in Postgres; ``version`` changes with each write of the row."""

    tenant: TenantId
    version: str
    raw: str


@dataclass(frozen=True, slots=True)
class Excused:
    """The memories that may differ now; ``everything``: all of the tenant's."""

    ids: frozenset[MemoryId]
    everything: bool


class GroundTruth:
    """Reads both sides. Not thread-safe."""

    def __init__(self, connection: psycopg.Connection, chroma_url: str) -> None:
        self.connection = connection
        self._url = chroma_url
        self._client: Any = None

    def rows(self, ids: Sequence[MemoryId]) -> dict[MemoryId, SourceRow]:
        """Return the memories that exist, by id."""
        return self._sources(ROWS, [list(ids)])

    def all_rows(self) -> dict[MemoryId, SourceRow]:
        """Return every memory."""
        return self._sources(ALL_ROWS, [])

    def _sources(self, query: str, values: Sequence[object]) -> dict[MemoryId, SourceRow]:
        rows = self.connection.execute(query.encode(), values)
        return {
            MemoryId(row[0]): SourceRow(TenantId(row[1]), row[2], row[3]) for row in rows.fetchall()
        }

    def some_ids(self, tenant: TenantId, count: int) -> list[MemoryId]:
        """Return the ids of some of a tenant's memories, chosen at random."""
        rows = self.connection.execute(SOME_IDS, (tenant, count)).fetchall()
        return [MemoryId(row[0]) for row in rows]

    def excused(self, tenant: TenantId, ids: Sequence[MemoryId]) -> Excused:
        """Return which of these memories may differ now."""
        rows = self.connection.execute(EXCUSED, {"tenant": tenant, "ids": list(ids)}).fetchall()
        found = {row[0] for row in rows}
        return Excused(frozenset(MemoryId(i) for i in found if i is not None), None in found)

    def live(self, tenant: TenantId) -> str | None:
        """Return a tenant's live generation."""
        row = self.connection.execute(LIVE, (tenant,)).fetchone()
        return None if row is None else row[0]

    def all_live(self) -> dict[TenantId, str]:
        """Return every tenant's live generation."""
        rows = self.connection.execute(ALL_LIVE).fetchall()
        return {TenantId(row[0]): row[1] for row in rows}

    def buried(self) -> set[tuple[TenantId, MemoryId]]:
        """Return the dead letters."""
        rows = self.connection.execute(BURIED).fetchall()
        return {(TenantId(row[0]), MemoryId(row[1])) for row in rows}

    def collection(self, generation: str) -> Any:
        """Return a generation's collection."""
        if self._client is None:
            self._client = connect(self._url)
        return self._client.get_collection(f"memories-{generation}", embedding_function=None)

    def documents(self, generation: str) -> Iterator[tuple[str, str | None]]:
        """Yield name and text of every document of a generation; nothing may write meanwhile."""
        collection, offset = self.collection(generation), 0
        while True:
            page = collection.get(limit=PAGE, offset=offset, include=["documents"])
            yield from zip(page["ids"], page["documents"], strict=True)
            if len(page["ids"]) < PAGE:
                return
            offset += PAGE

    def texts(self, generation: str, ids: Sequence[MemoryId]) -> dict[MemoryId, str | None]:
        """Return the texts of the documents that exist, by id."""
        got = self.collection(generation).get(
            ids=[document_id(i) for i in ids], include=["documents"]
        )
        return {
            i: text
            for name, text in zip(got["ids"], got["documents"], strict=True)
            if (i := memory_id_of(name)) is not None
        }

    def some_documents(self, generation: str, count: int, *, offset: int) -> list[MemoryId]:
        """Return the ids of some documents."""
        got = self.collection(generation).get(limit=count, offset=offset, include=[])
        return [i for name in got["ids"] if (i := memory_id_of(name)) is not None]
