"""Sensor ticks and sync runs in process, against the real Postgres and Chroma."""

from pathlib import Path

import dagster as dg
import psycopg
import pytest

from memory_pipeline.defs.partitions import MODE_REBUILD, MODE_TAG, SCOPE_PENDING, SCOPE_TAG
from memory_pipeline.defs.resources import PipelineResource
from memory_pipeline.defs.run_requests import RANGE_END, RANGE_START
from memory_pipeline.defs.schedules import sync_sweep
from memory_pipeline.settings import Settings
from memory_pipeline_tests.dagster.running import (
    GREEN,
    RED,
    empty,
    execute,
    materialization,
    over,
    status,
    synced,
    tick,
)
from memory_pipeline_tests.words import remember

REFUSED = "UPDATE memory_pipeline.generation SET config_hash = 'another' WHERE tenant = %s"
DAMAGED = "UPDATE memory_pipeline.generation SET state = 'corrupt' WHERE tenant = %s"


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
        assert status(instance, "ada", "ben", "chloe") == [GREEN] * 3
        figures = materialization(instance, "ben").metadata
        assert figures["documents written"].value == 2
        assert figures["dagster/row_count"].value == 2
        assert figures["pending changes"].value == 0
        assert "dagster/data_version" in (materialization(instance, "ben").tags or {})
        assert not tick(instance).run_requests

    def test_a_range_run_for_changes_passes_over_clean_tenants(
        self, instance: dg.DagsterInstance, db: psycopg.Connection
    ) -> None:
        """A tenant without changes gets no event from a run that was not about it."""
        for user in ("ada", "ben", "chloe"):
            remember(db, user)
        synced(instance)
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
        synced(instance)
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
            instance=instance, resources={"pipeline_resource": PipelineResource()}
        ) as context:
            requests = sync_sweep(context)
        assert isinstance(requests, list)
        assert [r.partition_key for r in requests] == ["ada"]
        assert requests[0].tags[SCOPE_TAG] == SCOPE_PENDING
        swept = {**requests[0].tags, "dagster/schedule_name": "sync_sweep"}  # as Dagster adds it
        execute(instance, dg.RunRequest(partition_key="ada", tags=swept))
        assert materialization(instance, "ada").metadata["documents written"].value == 1

    def test_a_tenant_that_cannot_be_synced_fails_the_run_and_not_its_neighbours(
        self, instance: dg.DagsterInstance, db: psycopg.Connection
    ) -> None:
        """What was finished stays materialized, and so does what the run has passed over."""
        for user in ("ada", "ben", "chloe"):
            remember(db, user)
        synced(instance)
        db.execute(REFUSED, ("ada",))
        for user in ("ada", "chloe"):
            remember(db, user)
        (request,) = tick(instance).run_requests or []
        result = execute(instance, request, raise_on_error=False)
        assert not result.success
        assert status(instance, "ada", "ben", "chloe") == [RED, GREEN, GREEN]
        assert materialization(instance, "chloe").metadata["dagster/row_count"].value == 2
        assert materialization(instance, "ada").metadata["dagster/row_count"].value == 1

    def test_a_damaged_collection_is_rebuilt_though_nothing_has_changed(
        self, instance: dg.DagsterInstance, db: psycopg.Connection
    ) -> None:
        """The sensor asks for the tenant, and the sync run builds its collection anew."""
        for user in ("ada", "ben"):
            remember(db, user)
        synced(instance)
        before = materialization(instance, "ben").metadata["collection"].value
        db.execute(DAMAGED, ("ben",))
        (request,) = tick(instance).run_requests or []
        assert request.partition_key == "ben"
        execute(instance, request)
        figures = materialization(instance, "ben").metadata
        assert figures["collection"].value != before
        assert figures["dagster/row_count"].value == 1
        assert not tick(instance).run_requests

    def test_a_first_collection_is_left_to_a_rebuild_that_is_under_way(
        self, instance: dg.DagsterInstance, db: psycopg.Connection
    ) -> None:
        """Nor does the rebuild find a tenant taken that was never synced; the others are synced."""
        remember(db, "ada")
        synced(instance)
        remember(db, "ada")
        remember(db, "ben")
        remember(db, "chloe")
        assert tick(instance).run_requests  # registers them
        tags = over("ada", "ben", **{MODE_TAG: MODE_REBUILD}).tags
        instance.add_run(dg.DagsterRun(job_name="full_rebuild", tags=tags))
        (request,) = tick(instance).run_requests or []
        assert request.tags[RANGE_START] == "ada"
        assert request.tags[RANGE_END] == "chloe"
        execute(instance, request)
        live = db.execute("SELECT tenant FROM memory_pipeline.tenant WHERE live IS NOT NULL")
        assert sorted(row[0] for row in live) == ["ada", "chloe"]

    def test_damage_is_left_to_a_rebuild_that_is_under_way(
        self, instance: dg.DagsterInstance, db: psycopg.Connection
    ) -> None:
        """Two that rebuild the same tenants would find them taken, and fail."""
        for user in ("ada", "ben", "chloe"):
            remember(db, user)
        synced(instance)
        db.execute("UPDATE memory_pipeline.generation SET state = 'corrupt'")
        tags = over("ada", "ben", **{MODE_TAG: MODE_REBUILD}).tags
        instance.add_run(dg.DagsterRun(job_name="full_rebuild", tags=tags))
        (request,) = tick(instance).run_requests or []
        assert request.partition_key == "chloe"
        execute(instance, over("ada", "chloe", **{SCOPE_TAG: SCOPE_PENDING}))
        live = db.execute(
            "SELECT t.tenant FROM memory_pipeline.tenant t JOIN memory_pipeline.generation g "
            "ON g.id = t.live WHERE g.state = 'live'"
        ).fetchall()
        assert live == [("chloe",)]


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


def test_a_server_that_lost_its_data_waits_for_a_person_by_default(
    instance: dg.DagsterInstance, environment: Settings, db: psycopg.Connection
) -> None:
    """It may only be the wrong volume, which somebody brings back."""
    remember(db, "ada")
    synced(instance)
    empty(environment, db)
    remember(db, "ada")
    result = tick(instance)
    assert not result.run_requests
    assert "lost" in str(result.skip_reason)


def test_a_server_that_lost_its_data_is_rebuilt_by_itself_where_the_settings_say_so(
    instance: dg.DagsterInstance,
    environment: Settings,
    db: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The tick gives it up, and asks for every tenant that it has served."""
    monkeypatch.setenv("MEMORY_PIPELINE_ON_SERVER_LOSS", "rebuild")
    for user in ("ada", "ben"):
        remember(db, user)
    synced(instance)
    empty(environment, db)
    (request,) = tick(instance).run_requests or []
    assert (request.tags[RANGE_START], request.tags[RANGE_END]) == ("ada", "ben")
    execute(instance, request)
    for user in ("ada", "ben"):
        assert materialization(instance, user).metadata["dagster/row_count"].value == 1
    assert not tick(instance).run_requests
