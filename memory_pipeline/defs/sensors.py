"""The sensors: changes in the outbox, new dead letters, failed runs."""

import time
from collections.abc import Sequence

import dagster as dg

from memory_pipeline.defs.jobs import incremental_sync
from memory_pipeline.defs.materializations import observed
from memory_pipeline.defs.partitions import tenants
from memory_pipeline.defs.quiet import at_least
from memory_pipeline.defs.resources import PipelineResource
from memory_pipeline.defs.sync_requests import (
    identify_servers,
    left_to_runs,
    skip_reason_of,
    sync_requests,
)
from memory_pipeline.defs.tenant_history import departed
from memory_pipeline.domain.changes import PendingTenant
from memory_pipeline.domain.types import TenantId
from memory_pipeline.errors import Transient
from memory_pipeline.maintenance.alerts import Alerts, send_dead_letter_alerts
from memory_pipeline.maintenance.cleanup import drop_retired
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.settings import PREFIX, Settings

# The daemon gives a tick 60 s; tenants that do not fit are registered by the next one.
TICK_SECONDS = 30.0
NEW_TENANTS_A_TICK = 500
DROPS_A_TICK = 3
GONE_A_TICK = 100

ALERT_SECONDS = 30
MESSAGE_LENGTH = 500
NO_ADDRESS = f"{PREFIX}ALERT_URL is not set"


@dg.sensor(
    job=incremental_sync,
    minimum_interval_seconds=at_least(Settings.load().sensor_seconds),
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Registers new tenants and requests a sync of the tenants with changes, and of "
    "those with a damaged collection.",
)
def memory_changes(
    context: dg.SensorEvaluationContext, pipeline_resource: PipelineResource
) -> dg.SensorResult:
    """Query the outbox once."""
    began = time.monotonic()
    with pipeline_resource.opened() as pipeline:
        try:
            identify_servers(pipeline)
        except Transient as error:
            return dg.SensorResult(skip_reason=f"the changes wait: {error}")
        pipeline.replay_cured()
        pending = left_to_runs(pipeline, pipeline.outbox.pending_tenants())
        _register(pipeline, pending, until=began + TICK_SECONDS)
        registered = pipeline.registry.keys()
        new, keys = _partitions(context.instance, list(registered.values()))
        requests = sync_requests(context.instance, pipeline, pending, registered, keys)
        events = (
            _observations(pipeline, [p.tenant for p in pending], registered) if requests else []
        )
        gone: list[str] = []
        if not requests:  # optional: a tick that times out here loses nothing
            gone = departed(context.instance, pipeline, registered.values(), most=GONE_A_TICK)
            grace = pipeline.settings.retire_seconds
            drop_retired(pipeline.registry, pipeline.index, grace_seconds=grace, limit=DROPS_A_TICK)
            pipeline.forget().resume()
    return dg.SensorResult(
        run_requests=requests,
        dynamic_partitions_requests=[
            *([tenants.build_add_request(new)] if new else []),
            *([tenants.build_delete_request(gone)] if gone else []),
        ],
        asset_events=events,
        skip_reason=None if requests else skip_reason_of(len(pending)),
    )


def _register(pipeline: Pipeline, pending: Sequence[PendingTenant], *, until: float) -> None:
    for change in pending[:NEW_TENANTS_A_TICK]:
        if change.partition_key is None and time.monotonic() < until:
            pipeline.registry.register_pending(change.tenant)


def _partitions(
    instance: dg.DagsterInstance, registered: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return the partitions to add, and all partitions in their order after that."""
    known = list(instance.get_dynamic_partitions("tenants"))
    held = set(known)
    new = [key for key in registered if key not in held][:NEW_TENANTS_A_TICK]
    return new, [*known, *new]


def _observations(
    pipeline: Pipeline, dirty: list[TenantId], registered: dict[TenantId, str]
) -> list[dg.AssetObservation]:
    """Report the version of each dirty tenant's memories: the number of its newest change."""
    return [
        observed(
            change.tenant,
            registered[change.tenant],
            newest=change.seq,
            pending=change.pending,
        )
        for change in pipeline.status.newest_changes(dirty)
        if change.tenant in registered
    ]


@dg.sensor(
    minimum_interval_seconds=at_least(ALERT_SECONDS),
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Sends an alert of new dead letters, once each, if ALERT_URL is set.",
)
def dead_letter_alerts(
    context: dg.SensorEvaluationContext,  # noqa: ARG001 - Dagster wants it
    pipeline_resource: PipelineResource,
) -> dg.SkipReason:
    """Send the dead letters that no alert has named yet."""
    alerts = Alerts.from_settings(Settings.load())
    if alerts.url is None:
        return dg.SkipReason(NO_ADDRESS)
    with pipeline_resource.opened() as pipeline:
        sent = send_dead_letter_alerts(alerts, pipeline.dead_letters)
    return dg.SkipReason(f"sent {sent} dead letters" if sent else "no new dead letters")


@dg.run_failure_sensor(
    minimum_interval_seconds=ALERT_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Sends an alert of each failed run, if ALERT_URL is set.",
)
def run_failure_alerts(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
    """Send an alert of one failed run."""
    alerts = Alerts.from_settings(Settings.load())
    if alerts.url is None:
        return dg.SkipReason(NO_ADDRESS)
    run = context.dagster_run
    alerts.send(
        "run_failed",
        {
            "job": run.job_name,
            "run_id": run.run_id,
            "tags": dict(run.tags),
            "message": (context.failure_event.message or "")[:MESSAGE_LENGTH],
        },
    )
    return None
