"""The cost of one tenant's trouble for all others: their freshness with and without it, in turns.

In every block one tenant writes a batch of 250 memories every few seconds, next to the others'
traffic. Blocks differ in the trouble: none, one poison memory in a batch, all poison, or a
collection that is deleted without the pipeline. Chroma is behind a proxy that refuses requests with
a poison word; the observers connect to it directly.
"""

import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
from pgvector.psycopg import register_vector

from memory_pipeline.domain.types import Memory, TenantId
from memory_pipeline.local.postgres import start_postgres
from memory_pipeline.local.processes import wait_until
from memory_pipeline.settings import Settings
from memory_pipeline.testing.benchmarks.freshness import build_collections
from memory_pipeline.testing.benchmarks.rows import Load, new_memories
from memory_pipeline.testing.benchmarks.services import (
    fill_database,
    fresh_servers,
    settings_for,
    with_own_home,
)
from memory_pipeline.testing.benchmarks.traffic import Traffic, lag_figures
from memory_pipeline.testing.benchmarks.worker_process import insert_memory, running_worker
from memory_pipeline.testing.chroma_client import connect
from memory_pipeline.testing.machine import machine
from memory_pipeline.testing.proxy import Link, Proxy

MEMORIES_A_TENANT = 50
BATCH, BATCH_SECONDS = 250, 5.0
# The pipeline rebuilds a collection three times an hour at most; each block damages it once.
BLOCKS = 2
WARM_SECONDS = 5.0
# Five attempts of a whole batch with their pauses, or a rebuild.
SETTLED_SECONDS = 600.0
POISON = "hemlock"
TROUBLED = TenantId("troubled")

WAITS = "SELECT EXISTS (SELECT FROM memory_pipeline.change WHERE tenant = %s)"
MEMORIES = "SELECT count(*) FROM public.memory_logs WHERE user_id = %s"
DEAD = (
    "SELECT count(*), coalesce(max(attempts), 0) FROM memory_pipeline.failure"
    " WHERE tenant = %s AND buried_at IS NOT NULL"
)
LIVE = (
    "SELECT 'memories-' || g.id FROM memory_pipeline.tenant t"
    " JOIN memory_pipeline.generation g ON g.id = t.live WHERE t.tenant = %s"
)
REMOVE = "DELETE FROM public.memory_logs WHERE user_id = %s"


@dataclass(frozen=True, slots=True)
class Disturbance:
    """The trouble: poison memories in each batch, or a deleted collection."""

    poison: int = 0
    damage: bool = False


TROUBLES = {
    "calm": Disturbance(),
    "one_of_a_batch_is_poison": Disturbance(poison=1),
    "all_is_poison": Disturbance(poison=BATCH),
    "its_collection_is_deleted": Disturbance(damage=True),
}


def bench_neighbours(
    home: Path, *, rate: float, tenants: int, seconds: float, blocks: int = BLOCKS
) -> dict[str, object]:
    """Measure on services of its own below ``home``; the user's own services are not touched.

    ``seconds``: of each kind of trouble.

    Returns:
        For each trouble the others' lags, ``ratio_to_calm`` of their p99, and the end of the
        troubled tenant: its memories, documents and dead letters.

    Raises:
        RuntimeError: changes of the troubled tenant stay pending.

    """
    load = Load(MEMORIES_A_TENANT * tenants, tenants)
    settings = Settings.load(embedder="hashing", document="full")
    postgres = start_postgres(home / "postgres")
    lags: defaultdict[str, list[float]] = defaultdict(list)
    ends: dict[str, dict[str, int]] = {}
    try:
        fill_database(postgres, settings, load, "filled")
        url = postgres.url("filled")
        with fresh_servers(home, 1) as (chroma,), Proxy() as proxy:
            port = urlsplit(chroma).port or 0
            link = proxy.add(Link("chroma", port, http=True, refused=POISON.encode()))
            proxied = f"http://127.0.0.1:{link.port}"
            own = with_own_home(settings_for(settings, postgres, "filled", [proxied]), home)
            client = connect(chroma)
            traffic = Traffic(url, build_collections(own, client), load, rate, real=False)
            with running_worker(own, home / "live.log"):
                traffic.run(WARM_SECONDS, counts=False)
                for block in range(blocks):
                    names = list(TROUBLES)
                    for name in names if block % 2 else reversed(names):
                        troubled = Troubled(url, client, TROUBLES[name], load)
                        with troubled.running():
                            traffic.run(seconds / blocks)
                        lags[name] += chain(*traffic.taken().values())
                        if block == blocks - 1:
                            ends[name] = troubled.end()
                        troubled.remove()
    finally:
        postgres.remove()
    found = {name: lag_figures(lags[name]) for name in TROUBLES}
    calm = found["calm"]["p99_ms"]
    return {
        "rate": rate,
        "tenants": tenants,
        "seconds": seconds,
        "lost": traffic.lost,
        "ratio_to_calm": {n: round(f["p99_ms"] / calm, 2) for n, f in found.items() if n != "calm"},
        **found,
        # In the last block of each.
        "troubled": ends,
        "machine": machine(),
    }


class Troubled:
    """One tenant that writes a batch every few seconds, with its trouble."""

    def __init__(self, url: str, client: Any, trouble: Disturbance, load: Load) -> None:
        self._url = url
        self._client = client
        self._trouble = trouble
        self._fresh = new_memories(replace(load, seed=1))
        self._over = threading.Event()
        self._undamaged = True
        self._failed: list[BaseException] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Write batches during the block. Raises the error that ended the writing."""
        thread = threading.Thread(target=self._run, name="troubled")
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()
        if self._failed:
            raise self._failed[0]

    def end(self) -> dict[str, int]:
        """Wait until none of its changes is pending; return counts of its end."""
        with psycopg.connect(self._url, autocommit=True) as connection:
            self._wait_until_settled(connection)
            (written,) = self._one(connection, MEMORIES)
            buried, attempts = self._one(connection, DEAD)
            documents = self._client.get_collection(self._live(connection)).count()
        return {
            "written": written,
            "documents": documents,
            "dead_letters": buried,
            "most_attempts": attempts,
        }

    def remove(self) -> None:
        """Delete all of its memories, and wait until the deletes are synced."""
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(REMOVE, (TROUBLED,))
            self._wait_until_settled(connection)

    def _run(self) -> None:
        try:
            with psycopg.connect(self._url, autocommit=True) as connection:
                register_vector(connection)
                while True:
                    self._write_batch(connection)
                    if self._over.wait(BATCH_SECONDS):
                        return
        except Exception as error:  # noqa: BLE001 - raised again in the thread that measures
            self._failed.append(error)

    def _write_batch(self, connection: psycopg.Connection) -> None:
        if self._trouble.damage and self._undamaged and (live := self._live(connection)):
            self._client.delete_collection(live)
            self._undamaged = False
        with connection.transaction():
            for number in range(BATCH):
                insert_memory(connection, self._memory(poison=number < self._trouble.poison))

    def _memory(self, *, poison: bool) -> Memory:
        memory = replace(next(self._fresh), tenant=TROUBLED, user_id=TROUBLED)
        if not poison:
            return memory
        return replace(memory, raw=json.dumps(json.loads(memory.raw) | {"served": POISON}))

    def _wait_until_settled(self, connection: psycopg.Connection) -> None:
        if not wait_until(lambda: not self._one(connection, WAITS)[0], within=SETTLED_SECONDS):
            raise RuntimeError(
                f"changes of {TROUBLED} are still pending after {SETTLED_SECONDS:.0f} s"
            )

    def _live(self, connection: psycopg.Connection) -> str:
        row = connection.execute(LIVE, (TROUBLED,)).fetchone()
        return str(row[0]) if row else ""

    def _one(self, connection: psycopg.Connection, query: str) -> tuple[Any, ...]:
        row = connection.execute(query.encode(), (TROUBLED,)).fetchone()
        if row is None:
            raise RuntimeError("a count returned no row")
        return row
