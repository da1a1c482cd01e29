"""The time from a commit to its visibility in Chroma, compared with a process without guarantees.

Writers commit at a steady rate, one statement a commit, while ``memory-pipeline live`` runs as a
process of its own. Observers query Chroma with its own client until they see each change; the time
is from the commit's return to the return of the first answer that shows the change. The observers
load the machine on both sides alike.

The floor (``floor.py``) serves a copy of the same database and collections of the same
configuration on the same server; blocks of its traffic and of the pipeline's take turns.
"""

import sys
from pathlib import Path
from typing import Any, Literal

import psycopg
from pydantic import SecretStr

from memory_pipeline.content.document import recipe_from
from memory_pipeline.domain.types import TenantId
from memory_pipeline.embedding.model_files import verify_model
from memory_pipeline.local.postgres import start_postgres
from memory_pipeline.pipeline import opened
from memory_pipeline.settings import Settings
from memory_pipeline.testing.benchmarks.bulk_load import LoadMethod, collection_name, load_documents
from memory_pipeline.testing.benchmarks.floor import install_hints, running_floor
from memory_pipeline.testing.benchmarks.rows import Load, documents
from memory_pipeline.testing.benchmarks.services import (
    copy_database,
    fill_database,
    fresh_servers,
    settings_for,
    with_own_home,
)
from memory_pipeline.testing.benchmarks.traffic import Traffic
from memory_pipeline.testing.benchmarks.worker_process import build_tenants, running_worker
from memory_pipeline.testing.chroma_client import connect
from memory_pipeline.testing.machine import machine

MEMORIES_A_TENANT = 50
# Imports, connections and priming happen once, and count on neither side.
WARM_SECONDS, WARM_CHANGES = 5.0, 20
BLOCKS = 3
# Python's default, 5 ms between two switches of threads, would be much of a measured lag.
SWITCH_SECONDS = 0.0005
REPORTED = "SELECT p50, p95, p99 FROM memory_pipeline.freshness WHERE tenant IS NULL"


def bench_freshness(
    home: Path, *, rate: float, tenants: int, seconds: float, model: Literal["real", "none"]
) -> dict[str, object]:
    """Measure on services of its own below ``home``; the user's own services are not touched.

    ``seconds``: of the pipeline's traffic; the floor's takes as long again.

    Returns:
        ``ratio_to_floor``: the pipeline's median for inserts over the floor's; ``lost``: changes
        that were not visible within 30 seconds, which are in no percentile.

    Raises:
        ModelMissing: the real model is not on this machine yet.

    """
    sys.setswitchinterval(SWITCH_SECONDS)
    load = Load(MEMORIES_A_TENANT * tenants, tenants)
    settings = Settings.load(embedder="model" if model == "real" else "hashing", document="full")
    if model == "real":
        verify_model(settings.model_cache())  # before any service is started
    postgres = start_postgres(home / "postgres")
    try:
        fill_database(postgres, settings, load, "filled")
        floor_url = postgres.url(copy_database(postgres, "filled"))
        with fresh_servers(home, 1) as urls:
            own = with_own_home(settings_for(settings, postgres, "filled", urls), home)
            client = connect(urls[0])
            ours = build_collections(own, client)
            load_documents(urls, documents(load, recipe_from(settings)), LoadMethod(1, 250))
            theirs = {tenant: _collection(client, collection_name(tenant)) for tenant in ours}
            install_hints(floor_url)
            floors = own.model_copy(update={"database_url": SecretStr(floor_url)})
            pipeline = Traffic(postgres.url("filled"), ours, load, rate, real=model == "real")
            floor = Traffic(floor_url, theirs, load, rate, real=model == "real")
            with running_worker(own, home / "live.log"), running_floor(floors, home / "floor.log"):
                for side in (pipeline, floor):
                    side.run(max(WARM_SECONDS, WARM_CHANGES / rate), counts=False)
                for block in range(BLOCKS):
                    for side in (pipeline, floor) if block % 2 else (floor, pipeline):
                        side.run(seconds / BLOCKS)
            with psycopg.connect(postgres.url("filled")) as connection:
                reported = connection.execute(REPORTED).fetchone()
    finally:
        postgres.remove()
    found, least = pipeline.figures(), floor.figures()
    return {
        "rate": rate,
        "tenants": tenants,
        "seconds": seconds,
        "model": model,
        "ratio_to_floor": round(found["inserts"]["p50_ms"] / least["inserts"]["p50_ms"], 2),
        **found.pop("all"),
        "lost": pipeline.lost,
        **found,
        **{f"floor_{name}": value for name, value in least["inserts"].items()},
        "floor_lost": floor.lost,
        "floors": {kind: least[kind] for kind in found},
        "observer_errors": {"pipeline": pipeline.errors, "floor": floor.errors},
        # The processor time of the measurement itself, without Chroma's part.
        "observer_cores": round(pipeline.cpu_seconds / pipeline.busy_seconds, 2),
        "changes_per_second": round(pipeline.commits / pipeline.busy_seconds, 2),
        # By the worker itself, over all changes: its clock starts with the statement.
        "reported_ms": [round(value * 1e3, 1) for value in reported or ()],
        "machine": machine(),
    }


def build_collections(settings: Settings, client: Any) -> dict[TenantId, Any]:
    """Build every tenant's collection; return them, by Chroma's own client."""
    with opened(settings) as pipeline:
        live = {tenant: pipeline.registry.live(tenant) for tenant in build_tenants(pipeline)}
    return {
        t: _collection(client, found.collection) for t, found in live.items() if found is not None
    }


def _collection(client: Any, name: str) -> Any:
    return client.get_collection(name, embedding_function=None)
