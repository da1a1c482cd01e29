"""The unfinished runs of the instance, and the tenants that they will sync."""

from collections.abc import Iterable, Mapping, Sequence

import dagster as dg

from memory_pipeline.defs.partitions import MODE_REBUILD, MODE_TAG
from memory_pipeline.defs.run_requests import under_way
from memory_pipeline.domain.changes import PendingTenant
from memory_pipeline.pipeline import Pipeline

WAITING_OR_RUNNING = [
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
    """Return the queued and running runs of a job, or with these tags."""
    return instance.get_runs(
        dg.RunsFilter(job_name=job, tags=dict(tags or {}), statuses=WAITING_OR_RUNNING)
    )


def left_to_rebuilds(
    instance: dg.DagsterInstance, pipeline: Pipeline, pending: Iterable[PendingTenant]
) -> set[str]:
    """Return the partitions without a usable collection that an unfinished rebuild run covers.

    A sync would rebuild them too, and the rebuild run would find the tenant busy.
    """
    first = {p.partition_key for p in pending if p.server is None and p.partition_key is not None}
    without = first | set(pipeline.registry.damaged().values())
    if not without:
        return set()
    runs = unfinished(instance, tags={MODE_TAG: MODE_REBUILD})
    return without & under_way(runs, instance.get_dynamic_partitions("tenants"))
