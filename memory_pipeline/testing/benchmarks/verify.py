"""The cost of a verify, compared with the limit: one plain read of both sides."""

import statistics
import time
from pathlib import Path
from typing import Any

import psycopg

from memory_pipeline.domain.outcomes import Verified
from memory_pipeline.local.postgres import start_postgres
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.settings import Settings
from memory_pipeline.testing.benchmarks.rows import Load
from memory_pipeline.testing.benchmarks.services import fill_database, fresh_servers, settings_for
from memory_pipeline.testing.benchmarks.worker_process import build_tenants
from memory_pipeline.testing.machine import machine, median
from memory_pipeline.verify.tenant import SAMPLE
from memory_pipeline.verify.tenants import verify_all

TURNS = 3
PAGE = 5_000
# The hashes by which index and source are compared, in the plainest query.
HASHES = (
    "SELECT id, md5(raw_data::text) FROM public.memory_logs"
    " WHERE memory_pipeline.tenant_of(user_id::text, project_id::text) = %s"
)


def bench_verify(home: Path, *, rows: int, tenants: int) -> dict[str, object]:
    """Measure on services of its own below ``home``; the user's own services are not touched.

    Returns:
        ``ratio_to_limit``: documents verified a second, without reachability, over those of the
        limit in the same turns, medians of three.

    """
    load = Load(rows, tenants)
    settings = Settings.load(embedder="hashing")
    postgres = start_postgres(home / "postgres")
    try:
        fill_database(postgres, settings, load, "filled")
        with fresh_servers(home, 1) as urls:
            own = settings_for(settings, postgres, "filled", urls)
            with opened(own) as pipeline:
                build_tenants(pipeline)
                plain: list[float] = []
                compared: list[float] = []
                reached: list[float] = []
                findings = 0
                for turn in range(TURNS):
                    measured: list[tuple[list[float], Any]] = [
                        (plain, lambda: _plain_read(pipeline)),
                        (compared, lambda: _verify(pipeline, 0)),
                        (reached, lambda: _verify(pipeline, SAMPLE)),
                    ]
                    for times, work in measured if turn % 2 else reversed(measured):
                        began = time.perf_counter()
                        findings += work() or 0
                        times.append(time.perf_counter() - began)
    finally:
        postgres.remove()
    limit, rate, full = (rows / statistics.median(t) for t in (plain, compared, reached))
    return {
        "rows": rows,
        "tenants": tenants,
        "ratio_to_limit": round(rate / limit, 3),
        "documents_per_second": round(rate, 1),
        "limit_documents_per_second": round(limit, 1),
        "documents_per_second_with_reachability": round(full, 1),
        "reachability_seconds": median([statistics.median(reached) - statistics.median(compared)]),
        "sample": SAMPLE,
        "findings": findings,
        "machine": machine(),
    }


def _verify(pipeline: Pipeline, sample: int) -> int:
    verdicts = verify_all(pipeline.verify(), list(pipeline.registry.keys()), sample=sample)
    return sum(len(v.findings) if isinstance(v, Verified) else 1 for v in verdicts)


def _plain_read(pipeline: Pipeline) -> None:
    """Read ids and metadata of all documents, then ids and hashes of all memories."""
    keys = pipeline.registry.keys()
    for tenant in keys:
        generation = pipeline.registry.live(tenant)
        if generation is None:
            raise RuntimeError(f"{tenant} was not rebuilt")
        client = pipeline.servers.client(generation.server)
        with client.collection(generation, 60.0) as collection:
            offset = 0
            while collection.get(limit=PAGE, offset=offset, include=["metadatas"])["ids"]:
                offset += PAGE
        with psycopg.connect(pipeline.database.url, cursor_factory=psycopg.Cursor) as connection:
            connection.execute(HASHES, (tenant,)).fetchall()
