"""Evaluations of a tenant's checks that no run stores: a worker's, and those that a run hid.

Dagster keeps one evaluation of a check for each partition and run, and shows the one whose row is
the newest. Two things follow:

- All evaluations without a run are of the run '', so the second one of a partition is refused. Here
  each has a run id of its own instead; no run of that id exists, and Dagster needs none.
- A run's evaluation fills the row that the run has planned, or stored before. If a worker has
  reported the tenant since, the worker's row is newer, and the run's evaluation is never shown.

A report writes over its predecessor's row while that is the newest: the rows of the checks grow
with the runs and not with the reports.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import TypeVar
from uuid import uuid4

import dagster as dg
from dagster._core.event_api import PartitionKeyFilter  # not public, like the others below
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.instance.utils import RUNLESS_JOB_NAME
from dagster._core.storage.asset_check_execution_record import (
    COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES as EVALUATED,
)
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecord,
    AssetCheckPartitionInfo,
)

from memory_pipeline.defs.check_results import DEAD_LETTERS, FRESHNESS, LAST_REBUILD, after_sync
from memory_pipeline.defs.materializations import INDEX, newest_materialization
from memory_pipeline.domain.types import TenantId
from memory_pipeline.pipeline import Pipeline

# The UI shows the part before the first hyphen as the name of the run.
REPORT = "report-"
# Those that need no verify.
REPORTED = [dg.AssetCheckKey(INDEX, name) for name in (LAST_REBUILD, DEAD_LETTERS, FRESHNESS)]
# Another process may materialize the tenant while it is evaluated; more than a few times in a row
# only where it evaluates the tenant itself.
ROUNDS = 3

Event = TypeVar(
    "Event", bound=dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation
)
RunContext = dg.AssetExecutionContext | dg.OpExecutionContext


def report_checks(
    instance: dg.DagsterInstance, pipeline: Pipeline, tenant: TenantId, key: str
) -> None:
    """Evaluate a tenant's checks now, and have Dagster show these evaluations.

    Raises what Dagster's storage raises; then it may be called again.
    """
    for _ in range(ROUNDS):
        shown, new = _shown(instance, key), f"{REPORT}{uuid4()}"
        for evaluation in after_sync(instance, pipeline, tenant, key):
            run_id = _run_id(shown.get(evaluation.asset_check_key), new)
            _store(instance, evaluation, run_id)
        if _are_current(instance, key):
            return


def shown_at_end(
    run: RunContext, pipeline: Pipeline, tenants: Mapping[TenantId, str], events: Iterator[Event]
) -> Iterator[Event]:
    """Yield a run's events; at the end, evaluate again each check whose evaluation is not shown.

    Also where the run fails: its finished tenants stay finished. A query for each check, where
    nothing is hidden.
    """
    evaluated: set[tuple[str, str | None]] = set()

    def note(event: Event) -> Event:
        if isinstance(event, dg.AssetCheckEvaluation):
            evaluated.add((event.check_name, event.partition))
        return event

    try:
        yield from map(note, events)
    except dg.Failure:
        _report_hidden(run, pipeline, tenants, evaluated)
        raise
    _report_hidden(run, pipeline, tenants, evaluated)


def _report_hidden(
    run: RunContext,
    pipeline: Pipeline,
    tenants: Mapping[TenantId, str],
    evaluated: Collection[tuple[str, str | None]],
) -> None:
    partitions = {partition for _, partition in evaluated}
    keys = [key for key in tenants.values() if key in partitions]
    if not keys:
        return
    infos = run.instance.event_log_storage.get_asset_check_partition_info(
        REPORTED, partition_keys=keys
    )
    hidden = {
        info.partition_key
        for info in infos
        if (info.check_key.name, info.partition_key) in evaluated
        and _is_hidden(info, run.run.run_id)
    }
    for tenant, key in tenants.items():
        if key in hidden:
            report_checks(run.instance, pipeline, tenant, key)


def _shown(
    instance: dg.DagsterInstance, key: str
) -> Mapping[dg.AssetCheckKey, AssetCheckExecutionRecord]:
    return instance.event_log_storage.get_latest_asset_check_execution_by_key(
        REPORTED, partition_filter=PartitionKeyFilter(key=key)
    )


def _run_id(shown: AssetCheckExecutionRecord | None, new: str) -> str:
    """Return the shown report's run id, to write over it; else the new one, to be shown instead."""
    if shown is not None and shown.run_id.startswith(REPORT):
        return shown.run_id
    return new


def _store(instance: dg.DagsterInstance, evaluation: dg.AssetCheckEvaluation, run_id: str) -> None:
    event = DagsterEvent(
        event_type_value=DagsterEventType.ASSET_CHECK_EVALUATION.value,
        event_specific_data=evaluation,
        job_name=RUNLESS_JOB_NAME,
    )
    instance.report_dagster_event(event, run_id=run_id)


def _are_current(instance: dg.DagsterInstance, key: str) -> bool:
    """Whether all that is shown is about the tenant's newest materialization.

    What a run has planned is: the run evaluates it later.
    """
    newest = newest_materialization(instance, key)
    told = [r for r in _shown(instance, key).values() if r.status in EVALUATED]
    targets = [r.evaluation.target_materialization_data for r in told if r.evaluation]
    return newest is None or all(
        t is not None and t.storage_id == newest.storage_id for t in targets
    )


def _is_hidden(info: AssetCheckPartitionInfo, run_id: str) -> bool:
    return info.latest_planned_run_id != run_id or not info.is_current
