"""Enqueue memories again from Postgres: safe at any time, since a batch reads the current row.

A page is one short transaction that only appends, so no writer and no worker waits for it. Memory
is bounded by a page of ids inside Postgres.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime

from memory_pipeline.domain.outcomes import Replayed
from memory_pipeline.domain.types import MemoryId, TenantId
from memory_pipeline.postgres.database import Database, queries

PAGE = 5000


class PostgresReplay:
    """Replays memories."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def run(
        self,
        *,
        tenant: TenantId | None = None,
        since: datetime | None = None,
        ids: Sequence[MemoryId] | None = None,
        page: int = PAGE,
    ) -> Iterator[Replayed]:
        """Enqueue the memories that match every given argument, a page at a time.

        Args:
            tenant: whose memories; None: all tenants'.
            since: only memories created or updated since then.
            ids: only these. With a tenant they are enqueued whether they exist or not, so that a
                document whose memory is gone is deleted.
            page: how many in one transaction.

        Yields:
            The result of each page. A memory with an unclaimed recheck is not enqueued twice.

        """
        if tenant is not None and ids is not None and since is None:
            yield from self._keys(tenant, ids, page)
            return
        after: MemoryId | None = None
        while True:
            with self._database.transaction() as connection:
                queries().as_utc(connection)
                row = queries().replay_page(
                    connection,
                    tenant=tenant,
                    since=since,
                    ids=None if ids is None else list(ids),
                    after=after,
                    limit=page,
                )
            if row.matched:
                yield Replayed(row.matched, row.enqueued)
                after = MemoryId(row.through)
            if row.matched < page:
                return

    def _keys(self, tenant: TenantId, ids: Sequence[MemoryId], page: int) -> Iterator[Replayed]:
        ordered = sorted(set(ids))
        for at in range(0, len(ordered), page):
            part = ordered[at : at + page]
            with self._database.transaction() as connection:
                enqueued = queries().replay_keys(connection, tenant=tenant, ids=part)
            yield Replayed(len(part), int(enqueued))
