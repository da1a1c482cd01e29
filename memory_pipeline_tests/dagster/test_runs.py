"""Sensor ticks and runs in process, against the real Postgres and Chroma."""

from collections.abc import Sequence
from pathlib import Path

import dagster as dg
import psycopg
import pytest
from dagster._core.storage.partition_status_cache import AssetPartitionStatus

from memory_pipeline.definitions import defs
from memory_pipeline.defs.automation import memory_changes, sync_sweep
from memory_pipeline.defs.partitions import SCOPE_PENDING, SCOPE_TAG, tenants
from memory_pipeline.defs.requests import RANGE_END, RANGE_START
from memory_pipeline.defs.resources import PipelineResource
from memory_pipeline.settings import Settings
from memory_pipeline_tests.builders import remember

INDEX = dg.AssetKey("memory_index")


def tick(instance: dg.DagsterInstance) -> dg.SensorResult:
    """Evaluate the sensor once, and add the partitions as the daemon would."""
    with dg.build_sensor_context(
        instance=instance, resources={"pipeline": PipelineResource()}
    ) as context:
        result = memory_changes(context)
    assert isinstance(result, dg.SensorResult)
    for request in result.dynamic_partitions_requests or []:
        instance.add_dynamic_partitions("tenants", list(request.partition_keys))
    return result


def execute(
    instance: dg.DagsterInstance, request: dg.RunRequest, *, raise_on_error: bool = True
) -> dg.ExecuteInProcessResult:
    """Run what the sensor asked for."""
    return defs.resolve_job_def("incremental_sync").execute_in_process(
        instance=instance,
        partition_key=request.partition_key,
        tags=request.tags,
        raise_on_error=raise_on_error,
    )


def statuses(instance: dg.DagsterInstance, keys: Sequence[str]) -> set[AssetPartitionStatus | None]:
    """Return how the UI would colour these partitions of the index."""
    found = instance.get_status_by_partition(INDEX, keys, defs_partitions())
    return set((found or {}).values())


def defs_partitions() -> dg.PartitionsDefinition[str]:
    """Return the definition of the tenants' partitions."""
    return tenants


def materialization(instance: dg.DagsterInstance, key: str) -> dg.AssetMaterialization:
    """Return the newest materialization of a tenant's index."""
    (record,) = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=INDEX, asset_partitions=[key]), limit=1
    ).records
    found = record.asset_materialization
    assert found is not None
    return found


@pytest.mark.usefixtures("environment")
class TestWithServices:
    """With the services named in the environment, as Dagster's processes have them."""

    def test_a_tick_with_nothing_to_do_says_so(self, instance: dg.DagsterInstance) -> None:
        """No runs, no partitions, a reason."""
        result = tick(instance)
        assert not result.run_requests
        assert result.skip_reason is not None

    def test_one_tick_registers_new_tenants_and_asks_for_their_sync(
        self, instance: dg.DagsterInstance, db: psycopg.Connection
    ) -> None:
        """A new tenant's first memory needs no second tick."""
        for user in ("ada", "ben", "a b/c,d"):
            remember(db, user)
        result = tick(instance)
        assert len(instance.get_dynamic_partitions("tenants")) == 3
        assert result.run_requests is not None
        assert len(result.run_requests) == 1
        assert {e.partition for e in result.asset_events} == set(
            instance.get_dynamic_partitions("tenants")
        )

    def test_a_range_run_materializes_each_tenant_with_its_figures(
        self, instance: dg.DagsterInstance, db: psycopg.Connection
    ) -> None:
        """Exact lineage from one run over many tenants."""
        for user in ("ada", "ben", "chloe"):
            remember(db, user, f"what {user} did")
            remember(db, user, f"what {user} said")
        (request,) = tick(instance).run_requests or []
        assert execute(instance, request).success
        assert statuses(instance, ["ada", "ben", "chloe"]) == {AssetPartitionStatus.MATERIALIZED}
        figures = materialization(instance, "ben").metadata
        assert figures["documents written"].value == 2
        assert figures["dagster/row_count"].value == 2
        assert figures["pending changes"].value == 0
        assert materialization(instance, "ben").tags is not None
        assert "dagster/data_version" in (materialization(instance, "ben").tags or {})
        assert not tick(instance).run_requests

    def test_a_range_run_for_changes_passes_over_clean_tenants(
        self, instance: dg.DagsterInstance, db: psycopg.Connection
    ) -> None:
        """A tenant without changes gets no event from a run that was not about it."""
        for user in ("ada", "ben", "chloe"):
            remember(db, user)
        (request,) = tick(instance).run_requests or []
        execute(instance, request)
        before = materialization(instance, "ben")
        remember(db, "ada")
        remember(db, "chloe")
        (request,) = tick(instance).run_requests or []
        assert (request.tags[RANGE_START], request.tags[RANGE_END]) == ("ada", "chloe")
        execute(instance, request)
        assert materialization(instance, "ben").metadata == before.metadata
        assert materialization(instance, "ada").metadata["documents written"].value == 1

    def test_a_person_who_materializes_a_tenant_in_sync_sees_it_green(
        self, instance: dg.DagsterInstance, db: psycopg.Connection
    ) -> None:
        """Asked for by hand, a tenant with nothing to do is materialized as it stands."""
        remember(db, "ada")
        (request,) = tick(instance).run_requests or []
        execute(instance, request)
        execute(instance, dg.RunRequest(partition_key="ada"))
        figures = materialization(instance, "ada").metadata
        assert figures["documents written"].value == 0
        assert figures["dagster/row_count"].value == 1

    def test_the_sweep_asks_for_tenants_that_pause_after_an_error(
        self, tmp_path: Path, db: psycopg.Connection
    ) -> None:
        """What the sensor leaves alone for a while is not left alone for ever."""
        # A schedule's context takes the instance by reference, so it has to be one on disk.
        instance = dg.DagsterInstance.local_temp(str(tmp_path))
        remember(db, "ada")
        tick(instance)
        db.execute("UPDATE memory_pipeline.tenant SET retry_at = now() + interval '1 hour'")
        assert not tick(instance).run_requests
        with dg.build_schedule_context(
            instance=instance, resources={"pipeline": PipelineResource()}
        ) as context:
            requests = sync_sweep(context)
        assert isinstance(requests, list)
        assert [r.partition_key for r in requests] == ["ada"]
        assert requests[0].tags[SCOPE_TAG] == SCOPE_PENDING
        swept = {**requests[0].tags, "dagster/schedule_name": "sync_sweep"}  # as Dagster adds it
        execute(instance, dg.RunRequest(partition_key="ada", tags=swept))
        assert materialization(instance, "ada").metadata["documents written"].value == 1


def test_with_chroma_down_the_sensor_says_so_and_starts_nothing(
    instance: dg.DagsterInstance,
    environment: Settings,
    db: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An outage costs no runs; the changes wait in the outbox."""
    monkeypatch.setenv("MEMORY_PIPELINE_CHROMA_URL", "http://127.0.0.1:9")
    remember(db, "ada")
    result = tick(instance)
    assert not result.run_requests
    assert "cannot be reached" in str(result.skip_reason)


def test_a_tenant_that_cannot_be_synced_fails_the_run_and_not_its_neighbours(
    instance: dg.DagsterInstance, environment: Settings, db: psycopg.Connection
) -> None:
    """What was finished stays materialized; the failure names who waits and why."""
    for user in ("ada", "ben"):
        remember(db, user)
    (request,) = tick(instance).run_requests or []
    execute(instance, request)
    db.execute("UPDATE memory_pipeline.generation SET config_hash = 'another' WHERE tenant = 'ada'")
    for user in ("ada", "ben"):
        remember(db, user)
    (request,) = tick(instance).run_requests or []
    result = execute(instance, request, raise_on_error=False)
    assert not result.success
    assert materialization(instance, "ben").metadata["dagster/row_count"].value == 2
    assert materialization(instance, "ada").metadata["dagster/row_count"].value == 1
