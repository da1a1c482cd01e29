"""What starts by itself: the sensor that watches the outbox, the sweep behind it, the verify."""

import time
from collections.abc import Sequence

import dagster as dg

from memory_pipeline.defs.jobs import incremental_sync, verify_index
from memory_pipeline.defs.materializations import observed
from memory_pipeline.defs.partitions import tenants
from memory_pipeline.defs.resources import PipelineResource
from memory_pipeline.defs.run_requests import run_requests, under_way, verify_requests
from memory_pipeline.defs.runs import left_to_rebuilds, unfinished
from memory_pipeline.domain.changes import PendingTenant
from memory_pipeline.domain.types import TenantId
from memory_pipeline.errors import ServerLost, Transient
from memory_pipeline.maintenance.cleanup import drop_retired
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.settings import Settings

# The daemon gives a tick 60 s; what does not fit waits for the next one.
TICK_SECONDS = 30.0
NEW_TENANTS_A_TICK = 500
DROPS_A_TICK = 3


@dg.sensor(
    job=incremental_sync,
    minimum_interval_seconds=Settings.load().sensor_seconds,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Registers new tenants and asks for a sync of those with changes, and of those "
    "whose collections are damaged.",
)
def memory_changes(
    context: dg.SensorEvaluationContext, pipeline: PipelineResource
) -> dg.SensorResult:
    """Look at the outbox once."""
    began = time.monotonic()
    with pipeline.opened() as parts:
        try:
            _recognise(parts)
        except Transient as error:
            return dg.SensorResult(skip_reason=f"changes wait: {error}")
        parts.replay_cured()
        pending = _left_to_runs(parts, parts.outbox.pending_tenants())
        _register(parts, pending, until=began + TICK_SECONDS)
        registered = parts.registry.keys()
        new, keys = _partitions(context.instance, list(registered.values()))
        requests = _requests(context.instance, parts, pending, registered, keys)
        events = _observations(parts, [p.tenant for p in pending], registered) if requests else []
        if not requests:  # a tick that takes too long for this has lost nothing
            grace = parts.settings.retire_seconds
            drop_retired(parts.registry, parts.index, grace_seconds=grace, limit=DROPS_A_TICK)
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
            _recognise(parts)
        except Transient as error:
            return dg.SkipReason(f"changes wait: {error}")
        pending = _left_to_runs(parts, parts.outbox.pending_tenants(paused=True))
        keys = list(context.instance.get_dynamic_partitions("tenants"))
        requests = _requests(context.instance, parts, pending, parts.registry.keys(), keys)
    return requests or dg.SkipReason(_why_nothing(len(pending)))


@dg.schedule(
    job=verify_index,
    cron_schedule="17 3 * * *",  # when few write, and not on the hour, when others begin
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Compares the collections of all tenants with Postgres, every night.",
)
def nightly_verify(
    context: dg.ScheduleEvaluationContext,
) -> list[dg.RunRequest] | dg.SkipReason:
    """Ask for a verify of every tenant, unless the last one is still at it."""
    if unfinished(context.instance, job="verify_index"):
        return dg.SkipReason("the verify before is still under way")
    keys = list(context.instance.get_dynamic_partitions("tenants"))
    return verify_requests(keys) or dg.SkipReason("there are no tenants yet")


def _recognise(parts: Pipeline) -> None:
    """Find the Chroma servers; give up those that are lost, where the settings say so."""
    rebuilds = parts.settings.on_server_loss == "rebuild"
    try:
        parts.servers.check_identity()
    except ServerLost:
        if not rebuilds:
            raise
    parts.restore_watch.watch()
    if rebuilds and any(s.state == "lost" for s in parts.registry.servers()):
        parts.servers.replace_lost()
        parts.servers.check_identity()


def _left_to_runs(parts: Pipeline, pending: Sequence[PendingTenant]) -> list[PendingTenant]:
    """Leave out what a live process comes to by itself, while one is well."""
    grace = parts.settings.run_takeover_seconds if parts.workers.healthy() else 0.0
    return [p for p in pending if p.waits_seconds >= grace]


def _register(parts: Pipeline, pending: Sequence[PendingTenant], *, until: float) -> None:
    for change in pending[:NEW_TENANTS_A_TICK]:
        if change.partition_key is None and time.monotonic() < until:
            parts.registry.register(change.tenant)


def _partitions(
    instance: dg.DagsterInstance, registered: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return the partitions to add, and all as they are in order then."""
    known = list(instance.get_dynamic_partitions("tenants"))
    held = set(known)
    new = [key for key in registered if key not in held][:NEW_TENANTS_A_TICK]
    return new, [*known, *new]


def _requests(
    instance: dg.DagsterInstance,
    parts: Pipeline,
    pending: Sequence[PendingTenant],
    registered: dict[TenantId, str],
    keys: list[str],
) -> list[dg.RunRequest]:
    """Ask for the tenants with changes, and for those with damage."""
    dirty = {registered[p.tenant] for p in pending if p.tenant in registered}
    damaged = set(parts.registry.damaged().values())
    rebuilding = left_to_rebuilds(instance, parts, pending)
    covered = under_way(unfinished(instance, job="incremental_sync"), keys) | rebuilding
    return run_requests(dirty | damaged, keys, covered)


def _observations(
    parts: Pipeline, dirty: list[TenantId], registered: dict[TenantId, str]
) -> list[dg.AssetObservation]:
    """Report the version of each dirty tenant's memories: the number of its newest change."""
    return [
        observed(
            change.tenant,
            registered[change.tenant],
            newest=change.seq,
            pending=change.pending,
        )
        for change in parts.status.newest_changes(dirty)
        if change.tenant in registered
    ]


def _why_nothing(pending: int) -> str:
    """Explain that nothing is asked for; what a live process has in hand is not counted."""
    if pending:
        return f"{pending} tenants have changes; runs for them are under way"
    return "no changes"
