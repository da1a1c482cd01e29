"""What a backlog costs beside the limit, and how long a pass over few changes takes.

The backlog stands when ``memory-pipeline live`` starts, as after an outage. Its clock runs from the
process's first sign of life, which it gives when it is ready, until Postgres holds no change any
more: leases, claims, reads, acks and looks for hidden documents are all in it. The limit: Chroma's
own upserts of the same documents from memory, in batches of the same size. The two take turns.
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
from memory_pipeline.testing.benchmarks.limit import (
    THREADS,
    TRIAL_DOCUMENTS,
    TRIAL_ROUNDS,
    LoadMethod,
    Rate,
    collection_name,
    connect,
    fresh_servers,
    load_documents,
)
from memory_pipeline.testing.benchmarks.passes import time_passes
from memory_pipeline.testing.benchmarks.rebuild import (
    SECONDS_A_RUN,
    copy_database,
    fill_database,
    settings_of,
)
from memory_pipeline.testing.benchmarks.rows import Documents, Load, documents, fill
from memory_pipeline.testing.benchmarks.worker_process import living, own
from memory_pipeline.testing.machine import machine

TURNS = 3
BEGUN_A_TENANT = 5
POLL_SECONDS = 0.02
DRAINED = (
    "SELECT extract(epoch FROM clock_timestamp() - max(started_at))::float8"
    " FROM memory_pipeline.worker WHERE NOT EXISTS (SELECT FROM memory_pipeline.change)"
)


def bench_sync(home: Path, *, changes: int, tenants: int, turns: int = TURNS) -> dict[str, object]:
    """Measure on services of its own below ``home``; nothing of the user's is touched.

    Returns:
        ``ratio_to_limit``: changes a second of the resident process, to the upserts a second of the
        limit in the same turns, medians; ``pass_seconds`` and ``idle_pass_ms``, medians.

    """
    begun, backlog = Load(BEGUN_A_TENANT * tenants, tenants), Load(changes, tenants, seed=1)
    settings = Settings.load(embedder="hashing")
    few, many = (documents(load, recipe_from(settings)) for load in (begun, backlog))
    many = [_after(one, begun.rows) for one in many]
    postgres = start_postgres(home / "postgres")
    try:
        fill_database(postgres, settings, begun, "begun")
        trials = _trials(home, few, many, settings.batch_size)
        way = trials[0].way
        limits: list[float] = []
        drains: list[float] = []
        for turn in range(turns):
            for drained in (True, False) if turn % 2 else (False, True):
                if drained:
                    drains.append(changes / _drained(home, postgres, settings, begun, backlog))
                else:
                    limits.append(_limit(home, few, many, way).per_second)
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
        "limit_threads": way.threads,
        "limit_trials": {t.way.threads: round(t.per_second, 1) for t in trials},
        "limit_runs": [round(r, 1) for r in limits],
        "runs": [round(r, 1) for r in drains],
        **passes,
        "machine": machine(),
    }


def _trials(
    home: Path, few: Sequence[Documents], many: Sequence[Documents], batch: int
) -> list[Rate]:
    """Try each number of threads on a part, back and forth; the fastest first."""
    part = [one.part(0, -(-TRIAL_DOCUMENTS // len(many))) for one in many]
    ways = [LoadMethod(threads, batch) for threads in THREADS]
    rates = [
        _limit(home, few, part, way)
        for turn in range(TRIAL_ROUNDS)
        for way in ways[:: -1 if turn % 2 else 1]
    ]
    fastest = {
        way: min((r for r in rates if r.way == way), key=lambda r: r.seconds) for way in ways
    }
    return sorted(fastest.values(), key=lambda rate: rate.seconds)


def _limit(
    home: Path, few: Sequence[Documents], many: Sequence[Documents], way: LoadMethod
) -> Rate:
    """Upsert into collections that hold a few documents, on a fresh server."""
    with fresh_servers(home, 1) as urls:
        load_documents(urls, few, way)
        client = connect(urls[0])
        collections = {
            one.tenant: client.get_collection(collection_name(one.tenant), embedding_function=None)
            for one in few
        }

        def upsert(lane: Sequence[Documents]) -> None:
            for one in lane:
                for first in range(0, len(one), way.batch):
                    part = one.part(first, first + way.batch)
                    collections[part.tenant].upsert(
                        ids=part.ids,
                        embeddings=part.embeddings,
                        metadatas=part.metadatas,
                        documents=part.texts,
                    )

        began = time.perf_counter()
        with ThreadPoolExecutor(way.threads) as pool:
            list(pool.map(upsert, [many[at :: way.threads] for at in range(way.threads)]))
        seconds = time.perf_counter() - began
        _check(urls[0], sum(map(len, (*few, *many))))
        return Rate(way, 1, sum(map(len, many)), seconds)


def _after(one: Documents, rows: int) -> Documents:
    """Name documents as if so many memories had come before theirs."""
    numbers = (int(name.rpartition("_")[2]) for name in one.ids)
    return replace(one, ids=[document_id(MemoryId(number + rows)) for number in numbers])


def _drained(
    home: Path, postgres: EmbeddedPostgres, settings: Settings, begun: Load, backlog: Load
) -> float:
    """Begin the tenants, put the backlog in, and let the resident process bring it."""
    with fresh_servers(home, 1) as urls:
        mine = own(settings_of(settings, postgres, copy_database(postgres, "begun"), urls), home)
        with opened(mine) as pipeline:
            list(pipeline.drain().run())
            fill(pipeline.database, backlog)
            with psycopg.connect(pipeline.database.url, autocommit=True) as asking:
                asking.execute("VACUUM ANALYZE")
                asking.execute("CHECKPOINT")
                with living(mine, home / "live.log"):
                    seconds = _wait_until_drained(asking)
        _check(urls[0], begun.rows + backlog.rows)
        return seconds


def _wait_until_drained(asking: psycopg.Connection) -> float:
    give_up_at = time.monotonic() + SECONDS_A_RUN
    while time.monotonic() < give_up_at:
        row = asking.execute(DRAINED).fetchone()
        if row is not None and row[0] is not None:
            return float(row[0])
        time.sleep(POLL_SECONDS)
    raise RuntimeError(f"the backlog was not brought within {SECONDS_A_RUN:.0f} s")


def _check(url: str, expected: int) -> None:
    """Refuse a figure for documents that are not there; the pipeline's marker holds none."""
    client = connect(url)
    if (count := sum(c.count() for c in client.list_collections())) != expected:
        raise RuntimeError(f"{count} of {expected} documents were brought")
