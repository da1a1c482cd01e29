"""Runs of full_rebuild in process, against the real Postgres and Chroma."""

import threading
from typing import Any

import dagster as dg
import psycopg
import pytest

from memory_pipeline.defs.rebuild_run import rebuild_id
from memory_pipeline.postgres.rebuilds import PostgresRebuilds
from memory_pipeline.settings import Settings
from memory_pipeline_tests.dagster.running import (
    GREEN,
    RED,
    empty,
    evaluations,
    execute,
    green,
    materialization,
    over,
    passes,
    red,
    run_of,
    status,
    synced,
)
from memory_pipeline_tests.words import remember

USERS = ("ada", "ben", "chloe")
TAKEN = (
    "UPDATE memory_pipeline.tenant SET lease_until = now() + interval '1 hour' WHERE tenant = %s"
)
FREED = "UPDATE memory_pipeline.tenant SET lease_until = NULL WHERE tenant = %s"
UNDER_WAY = """
    INSERT INTO memory_pipeline.rebuild (id, tenant, state, owner, owned_until)
    VALUES ('another', %s, 'running', 'somebody', now() + interval '1 hour')
"""
LIVE = "SELECT live FROM memory_pipeline.tenant ORDER BY tenant"

pytestmark = pytest.mark.usefixtures("environment")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a tenant up that cannot be had at once, and try again at once."""
    monkeypatch.setattr(dg.RetryPolicy, "calculate_delay", lambda *_: 0.0)
    monkeypatch.setattr("memory_pipeline.rebuild.ownership.LEASE_PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr("memory_pipeline.rebuild.retries.MAX_FAILURES", 1)
    monkeypatch.setattr(PostgresRebuilds, "redo_seconds", 0.0)


@pytest.fixture
def everybody(environment: Settings, instance: dg.DagsterInstance, db: psycopg.Connection) -> None:
    """Give three tenants two memories each, in sync."""
    for user in USERS:
        remember(db, user, f"what {user} did")
        remember(db, user, f"what {user} said")
    synced(instance)


def rebuild(
    instance: dg.DagsterInstance, first: str = "ada", last: str = "chloe", **tags: str
) -> dg.ExecuteInProcessResult:
    """Run full_rebuild over a range, as a backfill would."""
    asked = over(first, last, **tags)
    return execute(instance, asked, job="full_rebuild", raise_on_error=False)


@pytest.mark.usefixtures("everybody")
class TestOfEverybody:
    """Three tenants that are in sync."""

    def test_a_rebuild_materializes_each_tenant_and_flips_to_new_collections(
        self, instance: dg.DagsterInstance, db: psycopg.Connection
    ) -> None:
        """Each partition is green with figures of its own, and searches go elsewhere."""
        before = db.execute(LIVE).fetchall()
        result = rebuild(instance)
        assert result.success
        assert not set(before) & set(db.execute(LIVE).fetchall())
        assert status(instance, *USERS) == [GREEN] * 3
        figures = materialization(instance, "ben").metadata
        assert figures["documents written"].value == 2
        assert figures["vectors reused"].value == 2
        assert figures["vectors embedded"].value == 0
        assert figures["dagster/row_count"].value == 2
        assert green(instance, "last_rebuild") == list(USERS)
        assert passes(instance, "last_rebuild")

    def test_a_rebuild_with_the_tag_embeds_everything_anew(
        self, instance: dg.DagsterInstance
    ) -> None:
        """Which is how another model comes in."""
        rebuild(instance, "ben", "ben", **{"memory_pipeline/re_embed": "yes"})
        assert materialization(instance, "ben").metadata["vectors embedded"].value == 2

    @pytest.mark.usefixtures("impatient")
    def test_one_tenant_that_fails_is_alone_red_until_its_next_rebuild(
        self, instance: dg.DagsterInstance, db: psycopg.Connection
    ) -> None:
        """Its check says so at once, and no later sync paints it green."""
        db.execute(TAKEN, ("ben",))
        result = rebuild(instance)
        assert not result.success
        assert status(instance, *USERS) == [GREEN, RED, GREEN]
        assert red(instance, "last_rebuild") == ["ben"]
        assert not passes(instance, "last_rebuild")
        db.execute(FREED, ("ben",))
        remember(db, "ben")
        synced(instance)
        assert status(instance, "ben") == [GREEN]
        assert red(instance, "last_rebuild") == ["ben"]
        assert not passes(instance, "last_rebuild")
        assert rebuild(instance, "ben", "ben").success
        assert red(instance, "last_rebuild") == []
        assert passes(instance, "last_rebuild")

    @pytest.mark.usefixtures("impatient")
    def test_a_run_of_the_same_backfill_skips_what_is_done_and_does_the_rest(
        self, instance: dg.DagsterInstance, db: psycopg.Connection
    ) -> None:
        """A retry costs no tenant a second rebuild, nor does it change what the UI says of it."""
        db.execute(TAKEN, ("ben",))
        backfill = {"dagster/backfill": "abcdefgh"}
        first = rebuild(instance, **backfill)
        db.execute(FREED, ("ben",))
        before = db.execute(LIVE).fetchall()
        second = rebuild(instance, **backfill)
        after = db.execute(LIVE).fetchall()
        assert [first.success, second.success] == [False, True]
        assert [b == a for b, a in zip(before, after, strict=True)] == [True, False, True]
        assert run_of(instance, "ada") == first.run_id
        assert run_of(instance, "ben") == second.run_id
        assert status(instance, *USERS) == [GREEN] * 3

    @pytest.mark.usefixtures("impatient")
    def test_what_an_earlier_run_has_done_stays_green_when_the_retry_fails(
        self, instance: dg.DagsterInstance, db: psycopg.Connection
    ) -> None:
        """Dagster paints red whatever a failed run was to materialize and has not."""
        db.execute(TAKEN, ("ben",))
        for _ in range(2):
            rebuild(instance, **{"dagster/backfill": "abcdefgh"})
        assert status(instance, *USERS) == [GREEN, RED, GREEN]
        assert red(instance, "last_rebuild") == ["ben"]

    def test_a_tenant_whose_run_died_before_it_could_tell_is_told_of_by_the_next(
        self, instance: dg.DagsterInstance, db: psycopg.Connection
    ) -> None:
        """It was flipped, and nobody has said so."""
        done = """
            INSERT INTO memory_pipeline.rebuild (id, tenant, state, ended_at)
            VALUES ('dagster-abcdefgh', 'ada', 'done', now())
        """
        db.execute(done)
        # As a flip would have it: the collection is another one than was told of.
        instance.report_runless_asset_event(
            dg.AssetMaterialization(
                "memory_index", partition="ada", metadata={"collection": "memories-before"}
            )
        )
        result = rebuild(instance, **{"dagster/backfill": "abcdefgh"})
        assert result.success
        assert run_of(instance, "ada") == result.run_id

    def test_a_run_that_is_cancelled_stops_at_once(
        self, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Dagster lets go of the body then, and its threads would go on to the last tenant."""
        record, recorded = type(instance).handle_new_event, []

        def interrupted(self: dg.DagsterInstance, event: dg.EventLogEntry, **more: Any) -> None:
            if event.dagster_event and event.dagster_event.is_step_materialization:
                recorded.append(event)
                if len(recorded) == 1:
                    raise KeyboardInterrupt
            record(self, event, **more)

        monkeypatch.setattr(type(instance), "handle_new_event", interrupted)
        with pytest.raises(KeyboardInterrupt):
            execute(instance, over("ada", "chloe"), job="full_rebuild")
        assert [t.name for t in threading.enumerate() if t.name.startswith("rebuild")] == []
        assert len(recorded) == 1

    def test_a_rebuild_gives_up_a_server_that_lost_its_data(
        self, environment: Settings, instance: dg.DagsterInstance, db: psycopg.Connection
    ) -> None:
        """Who asks for a rebuild has decided that the data does not come back."""
        empty(environment, db)
        assert rebuild(instance).success
        assert status(instance, *USERS) == [GREEN] * 3
        assert materialization(instance, "ada").metadata["dagster/row_count"].value == 2

    def test_a_tenant_that_another_rebuild_is_at_is_not_waited_for(
        self, instance: dg.DagsterInstance, db: psycopg.Connection
    ) -> None:
        """The run names it and fails, without another attempt."""
        db.execute(UNDER_WAY, ("ben",))
        result = rebuild(instance)
        assert not result.success
        assert not result.filter_events(lambda e: e.is_step_up_for_retry)
        assert status(instance, *USERS) == [GREEN, RED, GREEN]


def test_a_run_and_what_retries_it_are_one_rebuild(instance: dg.DagsterInstance) -> None:
    """Also after the end of the backfill, whose tag Dagster takes from re-executions."""
    alone = dg.DagsterRun(job_name="full_rebuild", run_id="1" * 8)
    of_backfill = dg.DagsterRun(
        job_name="full_rebuild", run_id="2" * 8, tags={"dagster/backfill": "abcdefgh"}
    )
    for run in (alone, of_backfill):
        instance.add_run(run)
    assert rebuild_id(alone, instance) == "dagster-11111111"
    assert rebuild_id(of_backfill, instance) == "dagster-abcdefgh"
    for first, name in ((alone, "dagster-11111111"), (of_backfill, "dagster-abcdefgh")):
        again = dg.DagsterRun(
            job_name="full_rebuild", root_run_id=first.run_id, parent_run_id=first.run_id
        )
        assert rebuild_id(again, instance) == name


def test_a_sync_evaluates_the_rebuild_of_a_tenant_that_was_never_rebuilt_too(
    instance: dg.DagsterInstance, db: psycopg.Connection
) -> None:
    """A verify has said so of every tenant, and a materialization hides that."""
    remember(db, "ada")
    synced(instance)
    result = execute(instance, dg.RunRequest(partition_key="ada"))
    told = [e.check_name for e in evaluations(result) if e.partition == "ada"]
    assert told == ["last_rebuild", "dead_letters", "freshness"]
