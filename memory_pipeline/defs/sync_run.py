"""A run in the default mode: sync its tenants, damaged ones included."""

from collections.abc import Iterator, Mapping, Sequence

import dagster as dg

from memory_pipeline.defs.check_results import (
    LAST_REBUILD,
    SHOWN_TENANTS,
    after_sync,
    failed_rebuilds,
    of_all,
)
from memory_pipeline.defs.materializations import newest_materialization, slowest_tenants, synced
from memory_pipeline.defs.partitions import SCOPE_PENDING, SCOPE_TAG
from memory_pipeline.defs.runs import left_to_rebuilds
from memory_pipeline.domain.outcomes import Outcome
from memory_pipeline.domain.types import TenantId
from memory_pipeline.maintenance.cleanup import drop_retired
from memory_pipeline.pipeline import Pipeline

DROPS_A_RUN = 3

Event = dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation


def sync_of_tenants(
    context: dg.AssetExecutionContext, pipeline: Pipeline, wanted: Mapping[TenantId, str]
) -> Iterator[Event]:
    """Sync the tenants with changes; report the others as in sync.

    Raises:
        Failure: some tenants could not be synced. The others stay materialized.

    """
    by_sensor = context.run.tags.get(SCOPE_TAG) == SCOPE_PENDING
    last: dict[TenantId, Outcome] = {}
    # A sync would make an unfinished rebuild run find them busy.
    pending = pipeline.outbox.pending_tenants(paused=True)
    others = left_to_rebuilds(context.instance, pipeline, pending)
    ours = {tenant: key for tenant, key in wanted.items() if key not in others}
    for outcome in pipeline.drain().run(only=ours, paused=_paused(context)):
        last[outcome.tenant] = outcome
        if outcome.verdict == "done":
            key = ours[outcome.tenant]
            pipeline.workers.record_freshness(pipeline.freshness.unreported())
            yield from synced(pipeline, outcome, key)
            yield from after_sync(context.instance, pipeline, outcome.tenant, key)
    stuck = [o for o in last.values() if o.verdict not in {"done", "busy"}]
    told = set(last)
    if stuck or not by_sensor:
        told = set(ours)
        yield from _in_sync(context, pipeline, {t: k for t, k in ours.items() if t not in last})
    yield from slowest_tenants(list(last.values()))
    if told:
        yield of_all(LAST_REBUILD, failed_rebuilds(pipeline), tenants=len(pipeline.registry.keys()))
    grace = pipeline.settings.retire_seconds
    drop_retired(pipeline.registry, pipeline.index, grace_seconds=grace, limit=DROPS_A_RUN)
    if stuck:
        raise _failure(stuck, len(wanted))


def _paused(context: dg.AssetExecutionContext) -> bool:
    """Whether tenants that back off after an error are synced too.

    The runs of the sweep, of a person and retries sync them; the sensor's runs do not.
    """
    swept = "dagster/schedule_name" in context.run.tags
    by_sensor = context.run.tags.get(SCOPE_TAG) == SCOPE_PENDING
    return context.retry_number > 0 or swept or not by_sensor


def _in_sync(
    context: dg.AssetExecutionContext, pipeline: Pipeline, clean: Mapping[TenantId, str]
) -> Iterator[Event]:
    """Report tenants without changes as in sync, once a run.

    Also in a run that fails: Dagster shows every partition red that the run has not materialized.
    """
    for tenant, key in clean.items():
        newest = newest_materialization(context.instance, key)
        if newest is not None and newest.run_id == context.run.run_id:
            continue
        live = pipeline.registry.live(tenant)
        if pipeline.outbox.pending(tenant) == 0 and (live is None or live.state == "live"):
            yield from synced(pipeline, Outcome(tenant), key)
            yield from after_sync(context.instance, pipeline, tenant, key)


def _failure(stuck: Sequence[Outcome], asked: int) -> dg.Failure:
    return dg.Failure(
        f"{len(stuck)} of {asked} tenants could not be synced; their changes wait: "
        f"{stuck[0].reason}",
        metadata={o.tenant: f"{o.verdict}: {o.reason}" for o in stuck[:SHOWN_TENANTS]},
        # A refused tenant needs other settings, not another attempt.
        allow_retries=any(o.verdict != "refused" for o in stuck),
    )
