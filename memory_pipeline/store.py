"""The public interface for applications: write memories to Postgres, search them by meaning.

Writing never waits for the pipeline: a memory is stored as soon as Postgres has committed it,
whatever else is down. Every read and write names its tenant; a memory id alone gives no access.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar

from memory_pipeline.content.document import parse
from memory_pipeline.content.json_writer import exact_json
from memory_pipeline.domain.erasure import Erasure
from memory_pipeline.domain.types import BIGINT, Hit, MemoryId, TenantId
from memory_pipeline.errors import InvalidMemory
from memory_pipeline.local.discovery import discover
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.settings import Settings

Result = TypeVar("Result")


class MemoryStore:
    """Memories of tenants: remember, update, forget, get, search. Close it, or use it in a with.

    Thread-safe: share one store among all threads of a process. Do not share it with a forked
    process. It connects on first use, and reconnects after an outage.

    A memory is written with the values of its row, ``user_id`` and ``project_id``. Every other
    method takes the *tenant* that Postgres derives from them, by the setting ``TENANT_BY``: with
    ``user_id`` (the default) or ``project_id`` the tenant is that value; with ``both`` it is a JSON
    array as Postgres prints it, ``["ada", "home"]``. ``tenant`` returns it for any setting. Another
    spelling of it is understood where the column's type allows one: a uuid in capitals.

    Args:
        settings: of the installation; None: read from the environment. Addresses that they do not
            name are taken from the services that ``memory-pipeline up`` runs in their home.

    Raises:
        SettingsError: a setting in the environment is wrong.
        PostgresUnavailable: no address of Postgres is set, and none runs in the home.

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

    def tenant(self, user_id: str, project_id: str | None = None) -> str:
        """Return the tenant of a memory with these values, by the setting ``TENANT_BY``.

        It is what Postgres derives and prints, so the same one whichever spelling of a value is
        given: of a uuid in capitals, of a ``character(n)`` with its padding.

        Args:
            user_id: the memory's user_id.
            project_id: the memory's project_id; None: it has none.

        Raises:
            InvalidMemory: a value has a character that Postgres cannot store, or is none of its
                column's type; or tenants are identified by project_id and there is none: such a
                memory belongs to no tenant.
            PostgresUnavailable: Postgres is down.
            ContractError: this database is not migrated, or its role lacks a grant.

        """
        for text in (user_id, project_id or ""):
            _check_text(text)
        tenant = self._pipeline.tenants.of_values(user_id, project_id)
        if tenant is None:
            raise InvalidMemory(
                "a memory without project_id has no tenant with TENANT_BY=project_id"
            )
        return tenant

    def remember(
        self,
        user_id: str,
        raw_data: object,
        *,
        project_id: str | None = None,
        created_at: datetime | None = None,
    ) -> int:
        """Store a new memory; return its id.

        It is searchable once it is synced, usually within half a second while a worker runs.

        Args:
            user_id: the value of the column user_id.
            raw_data: the content, anything that ``json.dumps`` accepts, with integers of any length
                and ``decimal.Decimal``; every number is stored as it is. NaN and infinities are
                refused.
            project_id: the value of the column project_id.
            created_at: when the memory was made; None: now. A time without a zone is UTC.

        Raises:
            InvalidMemory: raw_data is not JSON, or Postgres refuses a value.
            PostgresUnavailable: Postgres is down; whether the memory was stored may be unknown.
            ContractError: this database is not migrated, or its role lacks a grant.

        """
        return self._pipeline.memories.insert(
            user_id=user_id, project_id=project_id, raw=exact_json(raw_data), created_at=created_at
        )

    def update(self, tenant: str, memory_id: int, raw_data: object) -> bool:
        """Replace a memory's content; return False where the tenant has no such memory.

        Args:
            tenant: the memory's tenant.
            memory_id: the memory's id.
            raw_data: the new content, as for ``remember``.

        Raises:
            InvalidMemory: raw_data is not JSON, or Postgres refuses a value.
            PostgresUnavailable: Postgres is down; whether the memory was changed may be unknown.
            ContractError: this database is not migrated, or its role lacks a grant.

        """
        return memory_id in BIGINT and self._as_spelt_or_printed(
            tenant,
            lambda t: self._pipeline.memories.update(t, MemoryId(memory_id), exact_json(raw_data)),
        )

    def forget(self, tenant: str, memory_id: int) -> bool:
        """Delete a memory; return False where the tenant has no such memory.

        From then on no search returns it, whether or not its document is deleted yet.

        Raises:
            InvalidMemory: the tenant has a character that Postgres cannot store, or Postgres
                refuses the delete: a foreign key, or a trigger of the application.
            PostgresUnavailable: Postgres is down; whether the memory was deleted may be unknown.
            ContractError: this database is not migrated, or its role lacks a grant.

        """
        return memory_id in BIGINT and self._as_spelt_or_printed(
            tenant, lambda t: self._pipeline.memories.delete(t, MemoryId(memory_id))
        )

    def forget_tenant(self, tenant: str, *, delete_memories: bool = False) -> Erasure:
        """Erase everything that the pipeline keeps of a tenant; return the proof.

        Deleted are its collections on every Chroma server, pending changes, dead letters, results
        and registration. Then every place is looked at once more. What cannot be reached now is
        erased by a worker later; call this again for its proof. A tenant that is written to later
        is a new one, with a new collection. Dagster is not asked: the command
        ``memory-pipeline forget-tenant`` does that.

        Args:
            tenant: the tenant to forget.
            delete_memories: delete its memories in Postgres first: those that exist now, and none
                that is written meanwhile.

        Returns:
            Every place that was looked at. ``proven`` says whether nothing is left.

        Raises:
            MemoriesRemain: the tenant has memories, and ``delete_memories`` is not set.
            InvalidMemory: the tenant has a character that Postgres cannot store.
            PostgresUnavailable: Postgres is down; what was begun is continued by a worker.
            Transient: a worker holds the tenant for too long; a worker continues.
            ContractError: this database is not migrated, its role lacks a grant, or the table does
                not let the memories go.

        """
        printed = self._pipeline.tenants.canonical(TenantId(tenant))
        return self._pipeline.forget().run(printed, delete_memories=delete_memories)

    def get(self, tenant: str, memory_id: int) -> object | None:
        """Return a memory's current content, parsed; None where the tenant has no such memory.

        Also None where the content is the JSON ``null``.

        Raises:
            PostgresUnavailable: Postgres is down.
            ContractError: this database is not migrated, or its role lacks a grant.

        """
        if memory_id not in BIGINT:
            return None
        found = self._as_spelt_or_printed(
            tenant, lambda t: self._pipeline.memories.get(t, [MemoryId(memory_id)])
        )
        return parse(found[MemoryId(memory_id)].raw) if found else None

    def search(
        self, tenant: str, text: str, *, k: int = 5, where: Mapping[str, Any] | None = None
    ) -> list[Hit]:
        """Return the tenant's memories that are nearest in meaning, nearest first.

        Chroma proposes, Postgres decides: a result exists, is this tenant's, passes the filter and
        has its current content. A memory that is not synced yet may be absent. An unknown tenant
        has no results. The first search of a store loads the embedding model, which takes
        seconds.

        Args:
            tenant: the tenant to search; memories of another are never returned.
            text: the words to search for.
            k: the most results, 1 to 1000.
            where: a filter on metadata: ``{"component": "auth", "ts": {"$gte": 1700000000}}``. Keys
                are the metadata fields, ``project_id`` and ``ts``; operators are $eq, $ne, $gt,
                $gte, $lt, $lte, $in, $nin, of lists $contains and $not_contains, and $and, $or
                around whole filters.

        Returns:
            At most k results; fewer where the tenant has no more that pass the filter.

        Raises:
            InvalidFilter: the filter is outside the grammar.
            ValueError: k is out of range.
            InvalidMemory: the tenant has a character that Postgres cannot store.
            PostgresUnavailable: Postgres is down.
            ContractError: this database is not migrated, or its role lacks a grant.
            ChromaUnavailable: Chroma is down, slow or not set up.
            ServerLost: a ChromaUnavailable: the tenant's server has lost its data.
            Corrupt: the tenant's collection is damaged; the next sync rebuilds it.
            ConfigurationChanged: the collection was built with another model; rebuild the tenant.
            ModelMissing: the model is not on this machine: run ``memory-pipeline model pull``.
            EmbedderUnavailable: the model cannot be loaded, or is out of memory.
            SettingsError: torch cannot use the setting ``DEVICE`` on this machine.
            Poison: the model refuses the text, or Chroma the query.

        """
        return self._as_spelt_or_printed(
            tenant, lambda t: self._pipeline.search.search(t, text, k=k, where=where)
        )

    def _as_spelt_or_printed(self, tenant: str, call: Callable[[TenantId], Result]) -> Result:
        """Call with a tenant as it is spelt; where that finds nothing, as Postgres prints it.

        The spelling of Postgres, which ``tenant`` returns, costs nothing more.
        """
        found = call(TenantId(tenant))
        if found:
            return found
        printed = self._pipeline.tenants.canonical(TenantId(tenant))
        return found if printed == tenant else call(printed)

    def close(self) -> None:
        """Close every connection. The store cannot be used after that."""
        self._stack.close()


def _check_text(text: str) -> None:
    """Refuse a text that no column can hold. Raises InvalidMemory."""
    if "\0" in text:
        raise InvalidMemory("a text has a NUL character, which Postgres cannot hold")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidMemory("a text has a lone surrogate, which is no Unicode") from error
