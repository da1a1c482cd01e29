"""Materializations and observations, with versions and figures, of a sync or a rebuild."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import dagster as dg
import pandas as pd

from memory_pipeline.domain.lags import Lags
from memory_pipeline.domain.outcomes import Outcome, Rebuilt
from memory_pipeline.domain.types import Generation, TenantId
from memory_pipeline.errors import PipelineError
from memory_pipeline.pipeline import Pipeline

EMBEDDINGS = dg.AssetKey("memory_embeddings")
INDEX = dg.AssetKey("memory_index")
LOGS = dg.AssetKey("memory_logs")
# The metadata key with the collection that a materialization is about.
COLLECTION = "collection"
SLOWEST_TENANTS = 10
SHOWN_FIGURES = ["tenant", "seconds", "written", "deleted", "embedded", "reused", "verdict"]


def observed(
    tenant: TenantId, key: str, *, newest: int, pending: int | None = None
) -> dg.AssetObservation:
    """Report the version of a tenant's memories: the number of its newest change."""
    waits = {} if pending is None else {"pending changes": pending}
    return dg.AssetObservation(
        LOGS,
        partition=key,
        metadata={"tenant": tenant, **waits},
        tags={"dagster/data_version": str(newest)},
    )


def synced(pipeline: Pipeline, outcome: Outcome, key: str) -> Iterator[dg.AssetMaterialization]:
    """Report one synced tenant: its embeddings, then its index."""
    version = str(outcome.newest_change) if outcome.newest_change else None
    tags = {"dagster/data_version": version} if version else {}
    yield _embeddings(pipeline, outcome, key, tags)
    generation = pipeline.registry.live(outcome.tenant)
    yield dg.AssetMaterialization(
        INDEX,
        partition=key,
        metadata={
            "tenant": outcome.tenant,
            **_counted(pipeline, generation),
            "documents written": outcome.written,
            "documents deleted": outcome.deleted,
            "memories failed": outcome.failed,
            "dead letters": outcome.buried,
            "dates not read": outcome.unread_dates,
            "pending changes": pipeline.outbox.pending(outcome.tenant),
            **_speed(outcome.written + outcome.deleted, outcome.seconds),
            **searchable_after(pipeline.workers.freshness([outcome.tenant]).get(outcome.tenant)),
            COLLECTION: generation.collection if generation else "none yet",
        },
        tags=tags,
    )


def rebuilt(pipeline: Pipeline, one: Rebuilt, key: str) -> Iterator[dg.AssetMaterialization]:
    """Report one rebuilt tenant: its embeddings, then its index."""
    yield _embeddings(pipeline, one, key, {})
    generation = pipeline.registry.live(one.tenant)
    yield dg.AssetMaterialization(
        INDEX,
        partition=key,
        metadata={
            "tenant": one.tenant,
            **_counted(pipeline, generation),
            "documents written": one.written,
            "vectors reused": one.reused,
            "vectors embedded": one.embedded,
            "documents repaired": one.repaired,
            "verify seconds": round(one.verify_seconds, 3),
            **_speed(one.written, one.seconds),
            "generation": str(generation.id) if generation else "none yet",
            COLLECTION: generation.collection if generation else "none yet",
        },
    )


def searchable_after(lags: Lags | None) -> dict[str, float]:
    """Return how soon changes became searchable recently, as metadata in milliseconds."""
    shown = {} if lags is None else lags.milliseconds()
    return {f"searchable after ms, {name}": figure for name, figure in shown.items()}


def newest_materialization(instance: dg.DagsterInstance, key: str) -> dg.EventLogRecord | None:
    """Return the newest materialization of a tenant's index."""
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=INDEX, asset_partitions=[key]), limit=1
    ).records
    return records[0] if records else None


def is_about_live_collection(
    instance: dg.DagsterInstance, pipeline: Pipeline, tenant: TenantId, key: str
) -> bool:
    """Whether the newest materialization of a tenant's index is about its current collection."""
    newest = newest_materialization(instance, key)
    materialization = newest.asset_materialization if newest else None
    live = pipeline.registry.live(tenant)
    if materialization is None or live is None or COLLECTION not in materialization.metadata:
        return False
    return bool(materialization.metadata[COLLECTION].value == live.collection)


def slowest_tenants(
    outcomes: Sequence[Outcome] | Sequence[Rebuilt],
) -> Iterator[dg.AssetObservation]:
    """Report the slowest tenants of a run over several."""
    if len(outcomes) < 2:  # noqa: PLR2004 - one tenant needs no table
        return
    table = pd.DataFrame([asdict(o) for o in outcomes]).round({"seconds": 2})
    shown = table[[name for name in SHOWN_FIGURES if name in table]]
    yield dg.AssetObservation(
        INDEX,
        metadata={
            "tenants in this run": len(outcomes),
            "documents written": sum(o.written for o in outcomes),
            "vectors reused": sum(o.reused for o in outcomes),
            "slowest tenants": dg.MetadataValue.md(
                shown.nlargest(SLOWEST_TENANTS, "seconds").to_markdown(index=False)
            ),
        },
    )


def _embeddings(
    pipeline: Pipeline, done: Outcome | Rebuilt, key: str, tags: dict[str, str]
) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(
        EMBEDDINGS,
        partition=key,
        metadata={
            "tenant": done.tenant,
            "vectors embedded": done.embedded,
            "vectors reused": done.reused,
            "model": pipeline.embedder.model,
            **_unbacked(pipeline),
        },
        tags=tags,
    )


def _unbacked(pipeline: Pipeline) -> dict[str, str]:
    refusal = pipeline.status.backup_refusal()
    if refusal is None or refusal.backup != pipeline.settings.backup:
        return {}
    return {"vectors not backed up": refusal.reason}


def _counted(pipeline: Pipeline, generation: Generation | None) -> dict[str, int | str]:
    if generation is None:
        return {}
    seconds = pipeline.settings.request_seconds
    try:
        return {"dagster/row_count": pipeline.index.count(generation, seconds=seconds)}
    except PipelineError as error:  # the report fails, not the sync
        return {"documents cannot be counted": str(error)}


def _speed(documents: int, seconds: float) -> dict[str, float]:
    return {
        "seconds": round(seconds, 3),
        "documents per second": round(documents / max(seconds, 1e-3), 1),
    }
