"""What a sync looks like in the UI: materializations with data versions and figures."""

from collections.abc import Iterator, Sequence

import dagster as dg
import pandas as pd

from memory_pipeline.errors import PipelineError
from memory_pipeline.model import Outcome
from memory_pipeline.pipeline import Pipeline

SHOWN_TENANTS = 10


def materializations(
    pipeline: Pipeline, outcome: Outcome, partition_key: str
) -> Iterator[dg.AssetMaterialization]:
    """Report one synced tenant: its embeddings, then its index."""
    generation = pipeline.registry.live(outcome.tenant)
    version = str(outcome.newest_change) if outcome.newest_change else None
    tags = {"dagster/data_version": version} if version else {}
    yield dg.AssetMaterialization(
        "memory_embeddings",
        partition=partition_key,
        metadata={
            "tenant": outcome.tenant,
            "vectors embedded": outcome.embedded,
            "vectors reused": outcome.reused,
            "model": pipeline.embedder.model,
        },
        tags=tags,
    )
    counted: dict[str, int | str] = {}
    if generation is not None:
        seconds = pipeline.settings.request_seconds
        try:
            counted["dagster/row_count"] = pipeline.index.count(generation, seconds=seconds)
        except PipelineError as error:  # of the report, not of the sync
            counted["documents cannot be counted"] = str(error)
    yield dg.AssetMaterialization(
        "memory_index",
        partition=partition_key,
        metadata={
            "tenant": outcome.tenant,
            **counted,
            "documents written": outcome.written,
            "documents deleted": outcome.deleted,
            "memories failed": outcome.failed,
            "dead letters": outcome.buried,
            "pending changes": pipeline.outbox.pending(outcome.tenant),
            "seconds": round(outcome.seconds, 3),
            "documents per second": round(
                (outcome.written + outcome.deleted) / max(outcome.seconds, 1e-3), 1
            ),
            "collection": generation.collection if generation else "none yet",
        },
        tags=tags,
    )


def slowest_tenants(outcomes: Sequence[Outcome]) -> Iterator[dg.AssetObservation]:
    """Report which tenants a run over several spent its time on."""
    if len(outcomes) < 2:  # noqa: PLR2004 - one tenant needs no table
        return
    table = pd.DataFrame(
        {
            "tenant": [o.tenant for o in outcomes],
            "seconds": [round(o.seconds, 2) for o in outcomes],
            "written": [o.written for o in outcomes],
            "deleted": [o.deleted for o in outcomes],
            "embedded": [o.embedded for o in outcomes],
            "reused": [o.reused for o in outcomes],
            "verdict": [o.verdict for o in outcomes],
        }
    ).nlargest(SHOWN_TENANTS, "seconds")
    yield dg.AssetObservation(
        "memory_index",
        metadata={
            "tenants in this run": len(outcomes),
            "documents written": sum(o.written for o in outcomes),
            "vectors reused": sum(o.reused for o in outcomes),
            "slowest tenants": dg.MetadataValue.md(table.to_markdown(index=False)),
        },
    )
