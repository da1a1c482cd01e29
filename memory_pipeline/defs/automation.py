"""What starts by itself: the sensor that watches the outbox, and the sweep behind it."""

import time

import dagster as dg

from memory_pipeline.defs.partitions import SYNC_TAG, tenants
from memory_pipeline.defs.requests import run_requests, under_way
from memory_pipeline.defs.resources import PipelineResource
from memory_pipeline.errors import Transient
from memory_pipeline.model import TenantId
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.settings import Settings

# The daemon gives a tick 60 s; what does not fit waits for the next one.
TICK_SECONDS = 30.0
NEW_TENANTS_A_TICK = 500

incremental_sync = dg.define_asset_job(
    "incremental_sync",
    selection=dg.AssetSelection.assets("memory_embeddings", "memory_index"),
    description="Brings the collections of the chosen tenants up to their memories.",
    tags={"dagster/priority": "10", SYNC_TAG: "incremental"},
)


@dg.sensor(
    job=incremental_sync,
    minimum_interval_seconds=Settings.load().sensor_seconds,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Registers new tenants and asks for a sync of those with changes.",
)
def memory_changes(
    context: dg.SensorEvaluationContext, pipeline: PipelineResource
) -> dg.SensorResult:
    """Look at the outbox once."""
    began = time.monotonic()
    with pipeline.opened() as parts:
        try:
            parts.servers.recognise()
        except Transient as error:
            return _skip(f"changes wait: {error}")
        pending = parts.outbox.pending_tenants()
        for change in pending[:NEW_TENANTS_A_TICK]:
            if change.partition_key is None and time.monotonic() - began < TICK_SECONDS:
                parts.registry.register(change.tenant)
        registered = parts.registry.keys()
        known = list(context.instance.get_dynamic_partitions("tenants"))
        held = set(known)
        new = [k for k in registered.values() if k not in held][:NEW_TENANTS_A_TICK]
        keys = [*known, *new]
        dirty = {registered[p.tenant] for p in pending if p.tenant in registered}
        requests = run_requests(dirty, keys, under_way(_unfinished(context.instance), keys))
        events = _observations(parts, [p.tenant for p in pending], registered) if requests else []
    return dg.SensorResult(
        run_requests=requests,
        dynamic_partitions_requests=[tenants.build_add_request(new)] if new else [],
        asset_events=events,
        skip_reason=None if requests else _why_nothing(len(pending)),
    )


@dg.schedule(
    job=incremental_sync,
    cron_schedule="*/10 * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Asks again for every tenant with changes, those that pause after an error too.",
)
def sync_sweep(
    context: dg.ScheduleEvaluationContext, pipeline: PipelineResource
) -> list[dg.RunRequest] | dg.SkipReason:
    """Look at the outbox once, whatever the sensor did."""
    with pipeline.opened() as parts:
        try:
            parts.servers.recognise()
        except Transient as error:
            return dg.SkipReason(f"changes wait: {error}")
        dirty = {p.partition_key for p in parts.outbox.pending_tenants(paused=True)} - {None}
    keys = list(context.instance.get_dynamic_partitions("tenants"))
    requests = run_requests(
        {k for k in dirty if k}, keys, under_way(_unfinished(context.instance), keys)
    )
    return requests or dg.SkipReason(_why_nothing(len(dirty)))


def _unfinished(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    return list(
        instance.get_runs(
            dg.RunsFilter(
                job_name="incremental_sync",
                statuses=[
                    dg.DagsterRunStatus.QUEUED,
                    dg.DagsterRunStatus.NOT_STARTED,
                    dg.DagsterRunStatus.STARTING,
                    dg.DagsterRunStatus.STARTED,
                ],
            )
        )
    )


def _observations(
    parts: Pipeline, dirty: list[TenantId], registered: dict[TenantId, str]
) -> list[dg.AssetObservation]:
    """Report the version of each dirty tenant's memories: the number of its newest change."""
    return [
        dg.AssetObservation(
            "memory_logs",
            partition=registered[change.tenant],
            metadata={"tenant": change.tenant, "pending changes": change.pending},
            tags={"dagster/data_version": str(change.seq)},
        )
        for change in parts.status.newest_changes(dirty)
        if change.tenant in registered
    ]


def _skip(reason: str) -> dg.SensorResult:
    return dg.SensorResult(skip_reason=reason)


def _why_nothing(pending: int) -> str:
    if pending:
        return f"{pending} tenants have changes; runs for them are under way"
    return "no changes"
