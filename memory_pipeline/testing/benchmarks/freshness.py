"""How soon a committed change is visible in Chroma, beside the least that any program needs for it.

Writers commit at a steady rate, one statement a commit, while ``memory-pipeline live`` runs as a
process of its own. Observers ask Chroma with its own client until they see each change; the time is
from the commit's return to the return of the first answer that shows it. What the observers do to
the machine they do to both sides.

The floor is a process without a pipeline (``floor.py``). It serves a copy of the same database and
collections of the same configuration on the same server; blocks of its traffic and of the
pipeline's take turns.
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
from memory_pipeline.testing.benchmarks.floor import hint, serving
from memory_pipeline.testing.benchmarks.limit import (
    LoadMethod,
    collection_name,
    connect,
    fresh_servers,
    load_documents,
)
from memory_pipeline.testing.benchmarks.rebuild import copied, filled, settings_of
from memory_pipeline.testing.benchmarks.resident import living, own, rebuilt
from memory_pipeline.testing.benchmarks.rows import Load, documents
from memory_pipeline.testing.benchmarks.traffic import Traffic
from memory_pipeline.testing.machine import machine

MEMORIES_A_TENANT = 50
# What is imported, connected, primed or replayed once is in neither side's figures.
WARM_SECONDS, WARM_CHANGES = 5.0, 20
BLOCKS = 3
# Python hands the processor from thread to thread each 5 ms, which is much of what is measured.
SWITCH_SECONDS = 0.0005
REPORTED = "SELECT p50, p95, p99 FROM memory_pipeline.freshness WHERE tenant IS NULL"


def bench_freshness(
    home: Path, *, rate: float, tenants: int, seconds: float, model: Literal["real", "none"]
) -> dict[str, object]:
    """Measure on services of its own below ``home``; nothing of the user's is touched.

    ``seconds`` are the pipeline's; the floor's traffic takes as long again.

    Returns:
        ``ratio_to_floor``: the pipeline's median for inserts, to the floor's; ``lost``: changes
        that were not visible within 30 seconds, which are in no percentile.

    Raises:
        ModelMissing: the real model is not on this machine yet.

    """
    sys.setswitchinterval(SWITCH_SECONDS)
    load = Load(MEMORIES_A_TENANT * tenants, tenants)
    settings = Settings.load(embedder="model" if model == "real" else "hashing", document="full")
    if model == "real":
        verify_model(settings.model_cache())  # before anything is started
    postgres = start_postgres(home / "postgres")
    try:
        filled(postgres, settings, load, "filled")
        floor_url = postgres.url(copied(postgres, "filled"))
        with fresh_servers(home, 1) as urls:
            mine = own(settings_of(settings, postgres, "filled", urls), home)
            client = connect(urls[0])
            ours = opened_collections(mine, client)
            load_documents(urls, documents(load, recipe_from(settings)), LoadMethod(1, 250))
            theirs = {tenant: _opened(client, collection_name(tenant)) for tenant in ours}
            hint(floor_url)
            its = mine.model_copy(update={"database_url": SecretStr(floor_url)})
            pipeline = Traffic(postgres.url("filled"), ours, load, rate, real=model == "real")
            floor = Traffic(floor_url, theirs, load, rate, real=model == "real")
            with living(mine, home / "live.log"), serving(its, home / "floor.log"):
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
        # What measuring takes of the machine, Chroma's part of it apart.
        "observer_cores": round(pipeline.cpu_seconds / pipeline.busy_seconds, 2),
        "changes_per_second": round(pipeline.commits / pipeline.busy_seconds, 2),
        # By the process itself, over all that it synced: its clock starts with the statement.
        "reported_ms": [round(value * 1e3, 1) for value in reported or ()],
        "machine": machine(),
    }


def opened_collections(settings: Settings, client: Any) -> dict[TenantId, Any]:
    """Bring every tenant; return their collections, as Chroma's own client has them."""
    with opened(settings) as pipeline:
        live = {tenant: pipeline.registry.live(tenant) for tenant in rebuilt(pipeline)}
    return {t: _opened(client, found.collection) for t, found in live.items() if found is not None}


def _opened(client: Any, name: str) -> Any:
    return client.get_collection(name, embedding_function=None)
