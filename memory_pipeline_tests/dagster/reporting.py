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


@dataclass(frozen=True, slots=True)
class Step:
    """One write of a report: into which table, which of its rows, and where the tenant is named."""

    table: str
    row: str
    tenant_in: str


@dataclass(frozen=True)
class Breaks:
    """Has Dagster's Postgres refuse what it is told, by triggers on its tables."""

    db: psycopg.Connection
    # What is "once stored" is in the log of events already when the rest of it is refused: to the
    # reporter that is an unknown outcome.
    STEPS: ClassVar[dict[str, Step]] = {
        "observation": Step("event_logs", "dagster_event_type = 'ASSET_OBSERVATION'", "event"),
        "embeddings": Step("event_logs", "asset_key LIKE '%memory_embeddings%'", "event"),
        "embeddings, once stored": Step(
            "asset_keys", "asset_key LIKE '%memory_embeddings%'", "last_materialization"
        ),
        "index": Step("event_logs", "asset_key LIKE '%memory_index%'", "event"),
        "index, once stored": Step(
            "asset_keys", "asset_key LIKE '%memory_index%'", "last_materialization"
        ),
        "evaluation": Step("event_logs", "dagster_event_type = 'ASSET_CHECK_EVALUATION'", "event"),
        "second evaluation, once stored": Step(
            "asset_check_executions", "check_name = 'dead_letters'", "evaluation_event"
        ),
    }

    @contextmanager
    def at(self, step: str, tenant: TenantId) -> Iterator[None]:
        """Refuse a step of one tenant."""
        found = self.STEPS[step]
        row = f"NEW.{found.row} AND NEW.{found.tenant_in} LIKE '%\"{tenant}\"%'"
        with self._refusing(found.table, row):
            yield

    @contextmanager
    def for_all(self) -> Iterator[None]:
        """Refuse every event."""
        with self._refusing("event_logs", "true"):
            yield

    @contextmanager
    def _refusing(self, table: str, row: str) -> Iterator[None]:
        self.db.execute(
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'planted'; END $$"
        )
        self.db.execute(
            f"CREATE TRIGGER refuses BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW"
            f" WHEN ({row}) EXECUTE FUNCTION refuse()"
        )
        try:
            yield
        finally:
            self.db.execute(f"DROP TRIGGER refuses ON {table}")
