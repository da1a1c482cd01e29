"""Dead letters in Postgres. None is deleted here: a memory indexed or deleted clears its own."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from memory_pipeline.domain.dead_letters import Cause, DeadLetter, DeadLetterFilter, DeadLetters
from memory_pipeline.domain.types import MemoryId, TenantId
from memory_pipeline.postgres.database import Database, queries

# Keys in one transaction: few enough that no batch waits long for a row of them.
KEYS_AT_ONCE = 1000

Keys = list[tuple[TenantId, MemoryId]]


class PostgresDeadLetters:
    """The dead letters of all tenants."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def newest(self, which: DeadLetterFilter, *, limit: int) -> DeadLetters:
        """Count the selected dead letters, and return the newest of them."""
        with self._database.transaction() as connection:
            rows = list(
                queries().newest_dead_letters(connection, limit=limit, **_parameters(which))
            )
        if not rows:
            return DeadLetters()
        return DeadLetters(rows[0][0], rows[0][1], tuple(_letter(row[2:]) for row in rows))

    def of_tenants(self) -> dict[TenantId, DeadLetters]:
        """Count the dead letters of each tenant that has any."""
        with self._database.transaction() as connection:
            rows = queries().dead_letters_of_tenants(connection)
            return {TenantId(row[0]): DeadLetters(row[1], row[2]) for row in rows}

    def buried(self, tenant: TenantId, memory_ids: Sequence[MemoryId]) -> frozenset[MemoryId]:
        """Return those of a tenant's memories that are dead letters, waived or not."""
        with self._database.transaction() as connection:
            rows = queries().buried_among(connection, tenant=tenant, memory_ids=list(memory_ids))
            return frozenset(MemoryId(row.memory_id) for row in rows)

    def replay(self, which: DeadLetterFilter) -> int:
        """Retry dead letters with all their attempts; return how many.

        Only keys are enqueued: the batch reads the row as it is then. A waiver stays valid if the
        same content is refused again.
        """
        return sum(self._act("replay_dead_letters", keys) for keys in self._pages(which))

    def replay_cured(self, cause: Cause, *, limit: int = KEYS_AT_ONCE) -> int:
        """Replay dead letters of another cause, once for each current one; return how many."""
        with self._database.transaction() as connection:
            return int(
                queries().replay_cured(
                    connection,
                    model=cause.model,
                    config_hash=cause.config_hash,
                    cause=cause.word,
                    limit=limit,
                )
            )

    def waive(self, which: DeadLetterFilter, *, by: str, because: str) -> int:
        """Waive dead letters; return how many were not waived before."""
        return sum(
            self._act("waive_dead_letters", keys, by=by, because=because)
            for keys in self._pages(which)
        )

    def unwaive(self, which: DeadLetterFilter) -> int:
        """Withdraw waivers; return how many."""
        return sum(self._act("unwaive_dead_letters", keys) for keys in self._pages(which))

    def unalerted(self, *, limit: int) -> list[DeadLetter]:
        """Return dead letters that no alert has named yet, oldest first."""
        with self._database.transaction() as connection:
            rows = queries().unalerted_dead_letters(connection, limit=limit)
            return [_letter(row) for row in rows]

    def alerted(self, letters: Collection[DeadLetter]) -> None:
        """Record that an alert has named these dead letters."""
        with self._database.transaction() as connection:
            queries().mark_alerted(
                connection,
                tenants=[letter.tenant for letter in letters],
                memory_ids=[letter.memory_id for letter in letters],
                buried_at=[letter.buried_at for letter in letters],
            )

    def _pages(self, which: DeadLetterFilter) -> Iterator[Keys]:
        """Iterate over the keys of dead letters, in order, a page at a time."""
        tenant: TenantId | None = None
        memory_id: MemoryId | None = None
        while True:
            with self._database.transaction() as connection:
                rows = queries().dead_letter_keys(
                    connection,
                    after_tenant=tenant,
                    after_id=memory_id,
                    limit=KEYS_AT_ONCE,
                    **_parameters(which),
                )
                keys = [(TenantId(row.tenant), MemoryId(row.memory_id)) for row in rows]
            if keys:
                yield keys
                tenant, memory_id = keys[-1]
            if len(keys) < KEYS_AT_ONCE:
                return

    def _act(self, query: str, keys: Keys, **more: str) -> int:
        with self._database.transaction() as connection:
            done = getattr(queries(), query)(
                connection,
                tenants=[tenant for tenant, _ in keys],
                memory_ids=[memory_id for _, memory_id in keys],
                **more,
            )
        return int(done)


def _parameters(which: DeadLetterFilter) -> dict[str, Any]:
    def listed(chosen: Collection[Any] | None) -> list[Any] | None:
        return None if chosen is None else list(chosen)

    return {
        "tenants": listed(which.tenants),
        "kinds": listed(which.kinds),
        "memory_ids": listed(which.memory_ids),
        "older_than_seconds": which.older_than_seconds,
        "waived": which.waived,
    }


def _letter(row: Sequence[Any]) -> DeadLetter:
    return DeadLetter(*row)
