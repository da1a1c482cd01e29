"""What Dagster has of a tenant that was forgotten: its partition, which can go, and its history.

Ranges over dynamic partitions are positional: a queued run whose ends are deleted fails, and one
whose ends were deleted and added again covers other tenants. So a partition is deleted only while
no run and no backfill is waiting or running; the sensor does it then. Runs are never deleted: their
events hold the state of other partitions.
"""

from collections.abc import Collection, Sequence

import dagster as dg
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus  # not public

from memory_pipeline.defs.materializations import EMBEDDINGS, INDEX, LOGS
from memory_pipeline.defs.partitions import tenants
from memory_pipeline.defs.runs import unfinished
from memory_pipeline.domain.erasure import Place
from memory_pipeline.domain.partition_keys import partition_keys
from memory_pipeline.domain.types import TenantId
from memory_pipeline.pipeline import Pipeline

# The first of a tenant's events; whether there are more makes no difference.
COUNTED = 1000
PARTITION = "the tenant's partition"
UNDER_WAY = [BulkActionStatus.REQUESTED, BulkActionStatus.CANCELING, BulkActionStatus.FAILING]


def is_idle(instance: dg.DagsterInstance) -> bool:
    """Whether no run and no backfill is waiting or running: partitions may be deleted."""
    backfills = instance.get_backfills(filters=BulkActionsFilter(statuses=UNDER_WAY), limit=1)
    return not backfills and not unfinished(instance)


def departed(
    instance: dg.DagsterInstance, pipeline: Pipeline, registered: Collection[str], *, most: int
) -> list[str]:
    """Return partitions without a tenant that may be deleted now.

    None while a run is under way, nor while Postgres is unproven: what it has forgotten may come
    back.
    """
    held = set(registered)
    gone = [k for k in instance.get_dynamic_partitions(str(tenants.name)) if k not in held][:most]
    if not gone or pipeline.epochs.unproven().tenants or not is_idle(instance):
        return []
    return gone


class DagsterHistory:
    """The Dagster instance of DAGSTER_HOME."""

    def __init__(self, pipeline: Pipeline, instance: dg.DagsterInstance | None = None) -> None:
        self._pipeline = pipeline
        self._instance = instance

    def forget(self, tenant: TenantId) -> Sequence[Place]:
        """Delete the tenant's partition where no run is under way; return what is left."""
        try:
            instance = self._instance or dg.DagsterInstance.get()
            taken = set(self._pipeline.registry.keys().values())
            keys = [k for k in partition_keys(tenant) if k not in taken]
            return [self._partition(instance, keys), self._events(instance, keys)]
        except Exception as error:  # noqa: BLE001 - whatever its storage raises: it cannot be asked
            return [
                Place(
                    "Dagster",
                    PARTITION,
                    "unknown",
                    detail=f"its storage does not answer ({type(error).__name__})",
                    next="bring it back, and run this again",
                )
            ]

    def _partition(self, instance: dg.DagsterInstance, keys: Sequence[str]) -> Place:
        name = str(tenants.name)
        if _known(instance, keys) and is_idle(instance):
            for key in _known(instance, keys):
                instance.delete_dynamic_partition(name, key)
        if left := _known(instance, keys):
            return Place(
                "Dagster",
                PARTITION,
                "left",
                len(left),
                detail="a run or a backfill is waiting or running",
                next="the sensor deletes it once none is; run this again then",
            )
        return Place("Dagster", PARTITION, "gone")

    def _events(self, instance: dg.DagsterInstance, keys: Sequence[str]) -> Place:
        """Count what no API of Dagster deletes for one partition."""
        found = 0
        for asset, fetch in (
            (LOGS, instance.fetch_observations),
            (EMBEDDINGS, instance.fetch_materializations),
            (INDEX, instance.fetch_materializations),
        ):
            of_tenant = dg.AssetRecordsFilter(asset_key=asset, asset_partitions=list(keys))
            found += len(fetch(of_tenant, limit=COUNTED).records)
        return Place(
            "Dagster's history",
            "materializations and observations of the partition",
            "kept" if found else "gone",
            found,
            detail="each names the partition key and, as metadata, the tenant" if found else "",
            next="delete them in its database (docs: how-to/forget-a-tenant.md)" if found else "",
        )


def _known(instance: dg.DagsterInstance, keys: Sequence[str]) -> list[str]:
    held = set(instance.get_dynamic_partitions(str(tenants.name)))
    return [key for key in keys if key in held]
