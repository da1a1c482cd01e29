"""What the tests of runs share: ticks and runs in process, and what the UI would show then."""

import dagster as dg
import psycopg
from dagster._core.definitions.partitions.context import partition_loading_context
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecordStatus,
    AssetCheckExecutionResolvedStatus,
)
from dagster._core.storage.partition_status_cache import AssetPartitionStatus

from memory_pipeline.chroma.client import ChromaClient
from memory_pipeline.chroma.marker import MARKER
from memory_pipeline.definitions import defs
from memory_pipeline.defs.materializations import INDEX
from memory_pipeline.defs.partitions import tenants
from memory_pipeline.defs.resources import PipelineResource
from memory_pipeline.defs.run_requests import RANGE_END, RANGE_START
from memory_pipeline.defs.sensors import memory_changes
from memory_pipeline.settings import Settings

GREEN = AssetPartitionStatus.MATERIALIZED
RED = AssetPartitionStatus.FAILED


def tick(instance: dg.DagsterInstance) -> dg.SensorResult:
    """Evaluate the sensor once; add and delete the partitions as the daemon would."""
    with dg.build_sensor_context(
        instance=instance, resources={"pipeline_resource": PipelineResource()}
    ) as context:
        result = memory_changes(context)
    assert isinstance(result, dg.SensorResult)
    for request in result.dynamic_partitions_requests or []:
        if isinstance(request, dg.AddDynamicPartitionsRequest):
            instance.add_dynamic_partitions("tenants", list(request.partition_keys))
            continue
        for key in request.partition_keys:
            instance.delete_dynamic_partition("tenants", key)
    return result


def execute(
    instance: dg.DagsterInstance,
    request: dg.RunRequest,
    *,
    job: str = "incremental_sync",
    raise_on_error: bool = True,
) -> dg.ExecuteInProcessResult:
    """Run what was asked for."""
    return defs.resolve_job_def(job).execute_in_process(
        instance=instance,
        partition_key=request.partition_key,
        tags=request.tags,
        raise_on_error=raise_on_error,
    )


def over(first: str, last: str, **tags: str) -> dg.RunRequest:
    """Ask for a run over a range of partitions."""
    return dg.RunRequest(tags={RANGE_START: first, RANGE_END: last, **tags})


def synced(instance: dg.DagsterInstance) -> None:
    """Do what the sensor and its runs do, until nothing is left to do."""
    while requests := tick(instance).run_requests:
        for request in requests:
            execute(instance, request)


def empty(settings: Settings, db: psycopg.Connection) -> None:
    """Take from Chroma all that the pipeline has put there, as a lost volume would."""
    assert settings.chroma_url is not None
    client = ChromaClient(settings.chroma_url, settings)
    names = [f"memories-{i}" for (i,) in db.execute("SELECT id FROM memory_pipeline.generation")]
    with client.call(5.0) as server:
        for name in [MARKER, *names]:
            server.delete_collection(name)
    client.close()


def status(instance: dg.DagsterInstance, *keys: str) -> list[AssetPartitionStatus | None]:
    """Return how the UI would colour these partitions of the index."""
    found = instance.get_status_by_partition(INDEX, keys, tenants) or {}
    return [found.get(key) for key in keys]


def materialization(instance: dg.DagsterInstance, key: str) -> dg.AssetMaterialization:
    """Return the newest materialization of a tenant's index."""
    found = _newest(instance, key).asset_materialization
    assert found is not None
    return found


def run_of(instance: dg.DagsterInstance, key: str) -> str:
    """Return the run that has materialized a tenant's index last."""
    return _newest(instance, key).run_id


def red(instance: dg.DagsterInstance, check: str) -> list[str]:
    """Return the partitions of a check that the UI would colour red."""
    return _partitions(instance, check, AssetCheckExecutionResolvedStatus.FAILED)


def green(instance: dg.DagsterInstance, check: str) -> list[str]:
    """Return the partitions of a check that the UI would colour green."""
    return _partitions(instance, check, AssetCheckExecutionResolvedStatus.SUCCEEDED)


def passes(instance: dg.DagsterInstance, check: str, asset: dg.AssetKey = INDEX) -> bool:
    """Say whether a check passes for the asset as a whole, as the catalog would show it."""
    key = dg.AssetCheckKey(asset, check)
    newest = instance.event_log_storage.get_latest_asset_check_execution_by_key([key])[key]
    assert newest.partition is None
    return newest.status is AssetCheckExecutionRecordStatus.SUCCEEDED


def evaluations(result: dg.ExecuteInProcessResult) -> list[dg.AssetCheckEvaluation]:
    """Return what a run's checks have said, in order."""
    return list(result.get_asset_check_evaluations())


def _newest(instance: dg.DagsterInstance, key: str) -> dg.EventLogRecord:
    (record,) = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=INDEX, asset_partitions=[key]), limit=1
    ).records
    return record


def _partitions(
    instance: dg.DagsterInstance, check: str, wanted: AssetCheckExecutionResolvedStatus
) -> list[str]:
    key = dg.AssetCheckKey(INDEX, check)
    with partition_loading_context(dynamic_partitions_store=instance):
        state = instance.event_log_storage.get_asset_check_state([(key, tenants)])[key]
        return sorted(state.subsets[wanted].subset_value.get_partition_keys())
