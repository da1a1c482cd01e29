"""What an application calls: write memories to Postgres, search them by meaning.

Writing never waits for the pipeline: a memory is stored when Postgres has committed it, whatever
else is down. Everything is by tenant; a memory id alone opens nothing.
"""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from memory_pipeline.content.document import parse
from memory_pipeline.domain.types import BIGINT, Hit, MemoryId, TenantId
from memory_pipeline.errors import InvalidMemory
from memory_pipeline.local.discovery import discover
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.settings import Settings


class MemoryStore:
    """Memories of tenants: remember, update, forget, get, search. Close it, or use it in a with.

    Every method raises PostgresUnavailable when Postgres is down; ``search`` alone needs Chroma
    and raises ChromaUnavailable when that is down.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._stack = ExitStack()
        self._pipeline: Pipeline = self._stack.enter_context(
            opened(discover(settings or Settings.load()))
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def remember(
        self,
        user_id: str,
        raw_data: object,
        *,
        project_id: str | None = None,
        created_at: datetime | None = None,
    ) -> int:
        """Store a new memory; return its id. Raises InvalidMemory for what is no JSON."""
        return self._pipeline.memories.insert(
            user_id=user_id, project_id=project_id, raw=_as_json(raw_data), created_at=created_at
        )

    def update(self, tenant: str, memory_id: int, raw_data: object) -> bool:
        """Replace a memory's content; False where the tenant has no such memory."""
        return memory_id in BIGINT and self._pipeline.memories.update(
            TenantId(tenant), MemoryId(memory_id), _as_json(raw_data)
        )

    def forget(self, tenant: str, memory_id: int) -> bool:
        """Delete a memory; False where the tenant has no such memory."""
        return memory_id in BIGINT and self._pipeline.memories.delete(
            TenantId(tenant), MemoryId(memory_id)
        )

    def get(self, tenant: str, memory_id: int) -> object | None:
        """Return a memory's content as it stands; None where the tenant has no such memory."""
        if memory_id not in BIGINT:
            return None
        found = self._pipeline.memories.get(TenantId(tenant), [MemoryId(memory_id)])
        return parse(found[MemoryId(memory_id)].raw) if found else None

    def search(
        self, tenant: str, text: str, *, k: int = 5, where: Mapping[str, Any] | None = None
    ) -> list[Hit]:
        """Return the tenant's memories nearest in meaning; see ``Search.search``."""
        return self._pipeline.search.search(TenantId(tenant), text, k=k, where=where)

    def close(self) -> None:
        """Close every connection."""
        self._stack.close()


def _as_json(raw_data: object) -> str:
    try:
        return json.dumps(raw_data, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidMemory(f"raw_data is no JSON: {error}") from error
