"""What the tests of reports share: tenants in sync, and what Dagster keeps of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import dagster as dg
import psycopg
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord

from memory_pipeline.defs.materializations import INDEX, LOGS
from memory_pipeline.domain.outcomes import Outcome
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


def observations(instance: dg.DagsterInstance, tenant: TenantId) -> Sequence[dg.EventLogRecord]:
    """Return the observations of a tenant's memories, the newest first."""
    wanted = dg.AssetRecordsFilter(asset_key=LOGS, asset_partitions=[tenant])
    return instance.fetch_observations(wanted, limit=MANY).records


def version(record: dg.EventLogRecord) -> int:
    """Return the number of the newest change that an event is about."""
    event = record.asset_event
    assert event is not None
    assert event.tags is not None
    return int(event.tags["dagster/data_version"])


def synced_once(number: int, *tenants: TenantId) -> list[Outcome]:
    """Return what one sync of each tenant has done; its newest change has this number."""
    return [Outcome(tenant, written=1, newest_change=number) for tenant in tenants]


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


@dataclass(frozen=True)
class Breaks:
    """Has Dagster's Postgres refuse what it is told, by triggers on its tables."""

    db: psycopg.Connection
    # What is refused, by table and by what distinguishes the event. An event whose entry in
    # asset_keys or asset_event_tags is refused is in the log already: the outcome is unknown.
    STEPS: ClassVar[dict[str, tuple[str, str]]] = {
        "observation": ("event_logs", "NEW.dagster_event_type = 'ASSET_OBSERVATION'"),
        "embeddings": ("event_logs", "NEW.asset_key = '[\"memory_embeddings\"]'"),
        "embeddings, once stored": ("asset_keys", "NEW.asset_key = '[\"memory_embeddings\"]'"),
        "index": (
            "event_logs",
            "NEW.asset_key = '[\"memory_index\"]'"
            " AND NEW.dagster_event_type = 'ASSET_MATERIALIZATION'",
        ),
        "index, once stored": ("asset_keys", "NEW.asset_key = '[\"memory_index\"]'"),
        "evaluation": ("event_logs", "NEW.dagster_event_type = 'ASSET_CHECK_EVALUATION'"),
        "second evaluation": (
            "asset_check_executions",
            "NEW.check_name = 'dead_letters'",
        ),
    }

    @contextmanager
    def at(self, step: str, tenant: TenantId) -> Iterator[None]:
        """Refuse a step of one tenant."""
        table, condition = self.STEPS[step]
        event = {
            "event_logs": "event",
            "asset_keys": "last_materialization",
            "asset_check_executions": "evaluation_event",
        }[table]
        with self._trigger(table, f"{condition} AND NEW.{event} LIKE '%\"{tenant}\"%'"):
            yield

    @contextmanager
    def for_all(self) -> Iterator[None]:
        """Refuse every event."""
        with self._trigger("event_logs", "true"):
            yield

    @contextmanager
    def _trigger(self, table: str, condition: str) -> Iterator[None]:
        self.db.execute(
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'planted'; END $$"
        )
        self.db.execute(
            f"CREATE TRIGGER refuses BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW"
            f" WHEN ({condition}) EXECUTE FUNCTION refuse()"
        )
        try:
            yield
        finally:
            self.db.execute(f"DROP TRIGGER refuses ON {table}")
