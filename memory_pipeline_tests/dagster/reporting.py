"""What the tests of reports share: tenants in sync, and what Dagster keeps of them."""

from collections.abc import Sequence
from pathlib import Path

import dagster as dg
import psycopg
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord

from memory_pipeline.defs.materializations import INDEX
from memory_pipeline.domain.types import TenantId
from memory_pipeline.local.postgres import EmbeddedPostgres
from memory_pipeline.pipeline import Pipeline
from memory_pipeline_tests.words import drained, remember

# The checks that each report evaluates again; the others need a verify.
CHECKS = ("last_rebuild", "dead_letters", "freshness")
MANY = 10_000


def tenants_in_sync(
    pipeline: Pipeline, db: psycopg.Connection, tenants: Sequence[TenantId]
) -> None:
    """Give each tenant a memory, in sync."""
    for tenant in tenants:
        remember(db, tenant)
    drained(pipeline)


def materializations(
    instance: dg.DagsterInstance, tenant: TenantId, asset: dg.AssetKey = INDEX
) -> Sequence[dg.EventLogRecord]:
    """Return what Dagster was told of a tenant, the newest first."""
    wanted = dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[tenant])
    return instance.fetch_materializations(wanted, limit=MANY).records


def evaluations_of(
    instance: dg.DagsterInstance, check: str, tenant: TenantId
) -> Sequence[AssetCheckExecutionRecord]:
    """Return the evaluations of a tenant's check that Dagster keeps, the shown one first."""
    return instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(INDEX, check), limit=MANY, partition_filter=PartitionKeyFilter(key=tenant)
    )


def assert_shown_fresh(instance: dg.DagsterInstance, tenant: TenantId) -> None:
    """Each check's shown evaluation is about the newest materialization, and was told after it."""
    newest = materializations(instance, tenant)[0]
    for check in CHECKS:
        shown = evaluations_of(instance, check, tenant)[0]
        assert shown.evaluation is not None
        assert shown.event is not None
        target = shown.evaluation.target_materialization_data
        assert target is not None
        assert target.storage_id == newest.storage_id, check
        assert shown.event.timestamp >= newest.timestamp


def count_errors(postgres: EmbeddedPostgres) -> int:
    """Return how many errors stand in the log of the server."""
    logs = Path(postgres.data, "log").iterdir()
    return sum("ERROR:" in line for log in logs for line in log.read_text().splitlines())
