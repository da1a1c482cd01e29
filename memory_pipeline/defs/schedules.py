"""The schedules: a sweep of all pending changes, and a nightly verify."""

import dagster as dg

from memory_pipeline.defs.jobs import incremental_sync, verify_index
from memory_pipeline.defs.quiet import sweep_cron
from memory_pipeline.defs.resources import PipelineResource
from memory_pipeline.defs.run_requests import verify_requests
from memory_pipeline.defs.runs import unfinished
from memory_pipeline.defs.sync_requests import (
    identify_servers,
    left_to_runs,
    skip_reason_of,
    sync_requests,
)
from memory_pipeline.errors import Transient
from memory_pipeline.settings import Settings


@dg.schedule(
    job=incremental_sync,
    cron_schedule=sweep_cron(Settings.load().quiet_seconds),
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Requests a sync of every tenant with changes, tenants that back off included.",
)
def sync_sweep(
    context: dg.ScheduleEvaluationContext, pipeline_resource: PipelineResource
) -> list[dg.RunRequest] | dg.SkipReason:
    """Query the outbox once, whatever the sensor did."""
    with pipeline_resource.opened() as pipeline:
        try:
            identify_servers(pipeline)
        except Transient as error:
            return dg.SkipReason(f"the changes wait: {error}")
        pending = left_to_runs(pipeline, pipeline.outbox.pending_tenants(paused=True))
        keys = list(context.instance.get_dynamic_partitions("tenants"))
        requests = sync_requests(
            context.instance, pipeline, pending, pipeline.registry.keys(), keys
        )
        if not pipeline.workers.healthy():  # a worker does it itself
            pipeline.retire_empty()
    return requests or dg.SkipReason(skip_reason_of(len(pending)))


@dg.schedule(
    job=verify_index,
    # When few applications write, and not on the hour, when other jobs start.
    cron_schedule="17 3 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Compares the collections of all tenants with Postgres, every night.",
)
def nightly_verify(
    context: dg.ScheduleEvaluationContext,
) -> list[dg.RunRequest] | dg.SkipReason:
    """Request a verify of every tenant, unless the last one is still running."""
    if unfinished(context.instance, job="verify_index"):
        return dg.SkipReason("the previous verify is still running")
    keys = list(context.instance.get_dynamic_partitions("tenants"))
    return verify_requests(keys) or dg.SkipReason("no tenant is registered yet")
