"""The duration of a backlog, compared with the limit, and of a pass over few changes.

The backlog exists before ``memory-pipeline live`` starts, as after an outage. The time is from the
worker's registration in Postgres, when it is ready, until Postgres holds no change: leases, claims,
reads, acks and checks for unreachable documents are all included. The limit: upserts of the
same documents from memory by Chroma's own client, in batches of the same size. The two take turns.
"""

import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psycopg

from memory_pipeline.content.document import recipe_from
from memory_pipeline.domain.types import MemoryId, document_id
from memory_pipeline.local.postgres import EmbeddedPostgres, start_postgres
from memory_pipeline.pipeline import opened
from memory_pipeline.settings import Settings
from memory_pipeline.testing.benchmarks.bulk_load import (
    LoadMethod,
    LoadRate,
    collection_name,
    load_documents,
)
from memory_pipeline.testing.benchmarks.limit import THREADS, TRIAL_DOCUMENTS, TRIAL_ROUNDS
from memory_pipeline.testing.benchmarks.passes import time_passes
from memory_pipeline.testing.benchmarks.rebuild import SECONDS_A_RUN
from memory_pipeline.testing.benchmarks.rows import Documents, Load, documents, fill
from memory_pipeline.testing.benchmarks.services import (
    copy_database,
    fill_database,
    fresh_servers,
    settings_for,
    with_own_home,
)
from memory_pipeline.testing.benchmarks.worker_process import running_worker
from memory_pipeline.testing.chroma_client import connect
from memory_pipeline.testing.machine import machine

TURNS = 3
BEGUN_A_TENANT = 5
POLL_SECONDS = 0.02
DRAINED = (
    "SELECT extract(epoch FROM clock_timestamp() - max(started_at))::float8"
    " FROM memory_pipeline.worker WHERE NOT EXISTS (SELECT FROM memory_pipeline.change)"
)


def bench_sync(home: Path, *, changes: int, tenants: int, turns: int = TURNS) -> dict[str, object]:
    """Measure on services of its own below ``home``; the user's own services are not touched.

    Returns:
        ``ratio_to_limit``: changes a second of the worker over upserts a second of the limit in the
        same turns, medians; ``pass_seconds`` and ``idle_pass_ms``, medians.

    """
    begun, backlog = Load(BEGUN_A_TENANT * tenants, tenants), Load(changes, tenants, seed=1)
    settings = Settings.load(embedder="hashing")
    few, many = (documents(load, recipe_from(settings)) for load in (begun, backlog))
    many = [_after(one, begun.rows) for one in many]
    postgres = start_postgres(home / "postgres")
    try:
        fill_database(postgres, settings, begun, "begun")
        trials = _try_threads(home, few, many, settings.batch_size)
        method = trials[0].method
        limits: list[float] = []
        drains: list[float] = []
        for turn in range(turns):
            for drained in (True, False) if turn % 2 else (False, True):
                if drained:
                    drains.append(
                        changes / _drain_seconds(home, postgres, settings, begun, backlog)
                    )
                else:
                    limits.append(_limit(home, few, many, method).per_second)
        passes = time_passes(home, postgres, settings)
    finally:
        postgres.remove()
    rate, limit = statistics.median(drains), statistics.median(limits)
    return {
        "changes": changes,
        "tenants": tenants,
        "batch_size": settings.batch_size,
        "ratio_to_limit": round(rate / limit, 3),
        "changes_per_second": round(rate, 1),
        "limit_changes_per_second": round(limit, 1),
        "limit_threads": method.threads,
        "limit_trials": {t.method.threads: round(t.per_second, 1) for t in trials},
        "limit_runs": [round(r, 1) for r in limits],
        "runs": [round(r, 1) for r in drains],
        **passes,
        "machine": machine(),
    }


def _try_threads(
    home: Path, few: Sequence[Documents], many: Sequence[Documents], batch: int
) -> list[LoadRate]:
    """Try each number of threads on a part, back and forth; return the fastest first."""
    part = [one.part(0, -(-TRIAL_DOCUMENTS // len(many))) for one in many]
    methods = [LoadMethod(threads, batch) for threads in THREADS]
    rates = [
        _limit(home, few, part, method)
        for turn in range(TRIAL_ROUNDS)
        for method in methods[:: -1 if turn % 2 else 1]
    ]
    fastest = {
        method: min((r for r in rates if r.method == method), key=lambda r: r.seconds)
        for method in methods
    }
    return sorted(fastest.values(), key=lambda rate: rate.seconds)


def _limit(
    home: Path, few: Sequence[Documents], many: Sequence[Documents], method: LoadMethod
) -> LoadRate:
    """Upsert into collections that hold a few documents, on a fresh server."""
    with fresh_servers(home, 1) as urls:
        load_documents(urls, few, method)
        client = connect(urls[0])
        collections = {
            one.tenant: client.get_collection(collection_name(one.tenant), embedding_function=None)
            for one in few
        }

        def upsert(lane: Sequence[Documents]) -> None:
            for one in lane:
                for first in range(0, len(one), method.batch):
                    part = one.part(first, first + method.batch)
                    collections[part.tenant].upsert(
                        ids=part.ids,
                        embeddings=part.embeddings,
                        metadatas=part.metadatas,
                        documents=part.texts,
                    )

        began = time.perf_counter()
        with ThreadPoolExecutor(method.threads) as pool:
            list(pool.map(upsert, [many[at :: method.threads] for at in range(method.threads)]))
        seconds = time.perf_counter() - began
        _check(urls[0], sum(map(len, (*few, *many))))
        return LoadRate(method, 1, sum(map(len, many)), seconds)


def _after(one: Documents, rows: int) -> Documents:
    """Rename documents as if so many memories had come before theirs."""
    numbers = (int(name.rpartition("_")[2]) for name in one.ids)
    return replace(one, ids=[document_id(MemoryId(number + rows)) for number in numbers])


def _drain_seconds(
    home: Path, postgres: EmbeddedPostgres, settings: Settings, begun: Load, backlog: Load
) -> float:
    """Sync the tenants, insert the backlog, and return how long the worker needs for it."""
    with fresh_servers(home, 1) as urls:
        own = with_own_home(
            settings_for(settings, postgres, copy_database(postgres, "begun"), urls), home
        )
        with opened(own) as pipeline:
            list(pipeline.drain().run())
            fill(pipeline.database, backlog)
            with psycopg.connect(pipeline.database.url, autocommit=True) as connection:
                connection.execute("VACUUM ANALYZE")
                connection.execute("CHECKPOINT")
                with running_worker(own, home / "live.log"):
                    seconds = _wait_until_drained(connection)
        _check(urls[0], begun.rows + backlog.rows)
        return seconds


def _wait_until_drained(connection: psycopg.Connection) -> float:
    deadline = time.monotonic() + SECONDS_A_RUN
    while time.monotonic() < deadline:
        row = connection.execute(DRAINED).fetchone()
        if row is not None and row[0] is not None:
            return float(row[0])
        time.sleep(POLL_SECONDS)
    raise RuntimeError(f"the backlog was not synced within {SECONDS_A_RUN:.0f} s")


def _check(url: str, expected: int) -> None:
    """Refuse figures for missing documents; the pipeline's marker collection holds none."""
    client = connect(url)
    if (count := sum(c.count() for c in client.list_collections())) != expected:
        raise RuntimeError(f"{count} of {expected} documents were written")
