"""What Dagster says of runs under way, and which tenants they concern."""

from collections.abc import Mapping, Sequence

import dagster as dg

from memory_pipeline.defs.partitions import MODE_REBUILD, MODE_TAG
from memory_pipeline.defs.requests import under_way
from memory_pipeline.pipeline import Pipeline

UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


def unfinished(
    instance: dg.DagsterInstance,
    *,
    job: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> Sequence[dg.DagsterRun]:
    """Return the runs of a job, or with these tags, that wait or are under way."""
    return instance.get_runs(
        dg.RunsFilter(job_name=job, tags=dict(tags or {}), statuses=UNFINISHED)
    )


def being_rebuilt(instance: dg.DagsterInstance, parts: Pipeline) -> set[str]:
    """Return the partitions with a damaged collection that a rebuild's run will come to."""
    damaged = set(parts.registry.damaged().values())
    if not damaged:
        return set()
    runs = unfinished(instance, tags={MODE_TAG: MODE_REBUILD})
    return damaged & under_way(runs, instance.get_dynamic_partitions("tenants"))
