"""Live processes in Postgres: who counts as there, how fresh things are, what waits."""

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from memory_pipeline.domain.lags import WINDOW_SECONDS, Lags
from memory_pipeline.domain.status import Backlog, FailingReports
from memory_pipeline.domain.types import TenantId
from memory_pipeline.postgres.database import Database
from memory_pipeline.postgres.registry import PostgresRegistry
from memory_pipeline.postgres.workers import HEALTHY_SECONDS, PostgresWorkers
from memory_pipeline_tests.words import ADA, BOB, one, remember

EVE = TenantId("eve")
LAGS = Lags(7, 0.1, 0.2, 0.3, 0.4)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """Connect as the pipeline does."""
    opened = Database(database_url, size=8)
    yield opened
    opened.close()


@pytest.fixture
def workers(database: Database) -> PostgresWorkers:
    """Return one worker's view."""
    return PostgresWorkers(database)


def silent(db: psycopg.Connection, seconds: float) -> None:
    """Let every worker have been silent for longer."""
    db.execute(
        "UPDATE memory_pipeline.worker SET heartbeat_at = heartbeat_at - make_interval(secs => %s)",
        (seconds,),
    )


# ---- who is there


def test_who_beats_is_there(workers: PostgresWorkers) -> None:
    """With what a person needs to find the process."""
    assert workers.healthy() == []
    workers.heartbeat()
    (found,) = workers.healthy()
    assert (found.host, found.pid) == (socket.gethostname(), os.getpid())
    assert found.version
    assert 0 <= found.silent_seconds < HEALTHY_SECONDS


def test_a_beat_is_no_second_process(workers: PostgresWorkers) -> None:
    """It goes on under the id and the start that it had."""
    workers.heartbeat()
    (before,) = workers.healthy()
    workers.heartbeat()
    (after,) = workers.healthy()
    assert (after.id, after.started_at) == (before.id, before.started_at)


def test_a_beat_says_since_when_dagster_cannot_be_told(
    workers: PostgresWorkers, db: psycopg.Connection
) -> None:
    """Since the first failure, however the reason changes; and no longer once it can."""
    workers.heartbeat()
    (fine,) = workers.healthy()
    assert (fine.unreported_tenants, fine.report_failure, fine.report_failing_seconds) == (
        0,
        None,
        0,
    )
    workers.heartbeat(FailingReports(2, "it does not answer"))
    db.execute(
        "UPDATE memory_pipeline.worker SET report_failing_since ="
        " report_failing_since - interval '1 minute'"
    )
    workers.heartbeat(FailingReports(3, "it refuses"))
    (failing,) = workers.healthy()
    assert (failing.unreported_tenants, failing.report_failure) == (3, "it refuses")
    assert failing.report_failing_seconds >= 60
    workers.heartbeat()
    assert workers.healthy()[0].report_failure is None
    workers.heartbeat(FailingReports(1, "again"))
    assert workers.healthy()[0].report_failing_seconds < 60


def test_who_was_silent_is_not_counted_on(workers: PostgresWorkers, db: psycopg.Connection) -> None:
    """A process that was killed is healthy for some seconds and no longer; its next beat counts."""
    workers.heartbeat()
    silent(db, HEALTHY_SECONDS - 2)
    assert len(workers.healthy()) == 1
    silent(db, 3)
    assert workers.healthy() == []
    workers.heartbeat()
    assert len(workers.healthy()) == 1


def test_who_leaves_is_gone_at_once_and_alone(workers: PostgresWorkers, database: Database) -> None:
    """An orderly end needs no time to be noticed, and says nothing about others."""
    other = PostgresWorkers(database)
    workers.heartbeat()
    other.heartbeat()
    workers.deregister()
    (left,) = workers.healthy()
    other.deregister()
    assert workers.healthy() == []
    other.heartbeat()
    assert [w.id for w in workers.healthy()] == [left.id]


def test_the_dead_are_forgotten_after_a_day(
    workers: PostgresWorkers, database: Database, db: psycopg.Connection
) -> None:
    """The table does not grow by every kill, and nobody who may come back is forgotten."""
    hour = 3600.0
    workers.heartbeat()
    silent(db, 23 * hour)
    other = PostgresWorkers(database)
    other.heartbeat()
    assert one(db, "SELECT count(*) FROM memory_pipeline.worker") == 2
    silent(db, 2 * hour)
    other.heartbeat()
    assert one(db, "SELECT count(*) FROM memory_pipeline.worker") == 1
    silent(db, 25 * hour)
    other.heartbeat()  # after a day of sleep it is the same process still
    assert len(workers.healthy()) == 1


# ---- how fresh


def register(database: Database, *tenants: TenantId | None) -> None:
    """Register tenants: of one that is not registered, no figure is stored."""
    for tenant in tenants:
        if tenant is not None:
            PostgresRegistry(database).register(tenant)


def test_freshness_comes_back_as_it_was_recorded(
    workers: PostgresWorkers, database: Database
) -> None:
    """Of each tenant, and of all of them together, whose name is none."""
    measured: dict[TenantId | None, Lags] = {
        BOB: LAGS,
        None: Lags(9, 0.01, 0.02, 0.03, 0.04),
        TenantId(""): Lags(1, 1.0, 1.0, 1.0, 1.0),
        TenantId("Zoë, „ü“ \\ '%s'"): Lags(2, 0.5, 0.6, 0.7, 0.8),
    }
    register(database, *measured)
    workers.record_freshness(measured)
    assert workers.freshness() == measured
    assert workers.freshness([BOB, EVE]) == {BOB: LAGS}


def test_newer_figures_replace_older_ones(
    workers: PostgresWorkers, database: Database, db: psycopg.Connection
) -> None:
    """One row a tenant, and one for all of them, however often it is told."""
    register(database, ADA, BOB)
    newer = Lags(8, 1.0, 2.0, 3.0, 4.0)
    workers.record_freshness({ADA: LAGS, BOB: LAGS, None: LAGS})
    workers.record_freshness({ADA: newer, None: newer})
    assert workers.freshness() == {ADA: newer, BOB: LAGS, None: newer}
    assert one(db, "SELECT count(*) FROM memory_pipeline.freshness") == 3


def test_figures_of_the_past_are_not_told(
    workers: PostgresWorkers, database: Database, db: psycopg.Connection
) -> None:
    """When all workers are gone, nothing claims to be fresh."""
    register(database, ADA)
    workers.record_freshness({ADA: LAGS, None: LAGS})
    db.execute(
        "UPDATE memory_pipeline.freshness SET measured_at = measured_at - make_interval(secs => %s)"
        " WHERE tenant IS NULL",
        (WINDOW_SECONDS + 1,),
    )
    assert workers.freshness() == {ADA: LAGS}
    workers.record_freshness({None: LAGS})
    assert workers.freshness() == {ADA: LAGS, None: LAGS}


def test_nothing_measured_is_nothing_recorded(
    workers: PostgresWorkers, db: psycopg.Connection
) -> None:
    """A quiet quarter of an hour writes no row."""
    workers.record_freshness({})
    assert one(db, "SELECT count(*) FROM memory_pipeline.freshness") == 0


def test_two_processes_record_the_same_tenants_at_once(database: Database) -> None:
    """In one order, whatever the order they measured in: neither ends as a deadlock's victim."""
    tenants = [TenantId(f"tenant {n}") for n in range(100)]
    register(database, *tenants)
    forward: dict[TenantId | None, Lags] = {**dict.fromkeys(tenants, LAGS), None: LAGS}
    backward: dict[TenantId | None, Lags] = dict(reversed(forward.items()))

    def record(measured: dict[TenantId | None, Lags]) -> None:
        for _ in range(60):
            PostgresWorkers(database).record_freshness(measured)

    with ThreadPoolExecutor(2) as threads:
        for recorded in [threads.submit(record, m) for m in (forward, backward)]:
            recorded.result()
    assert len(PostgresWorkers(database).freshness()) == len(forward)


# ---- what waits


def test_who_pauses_may_try_at_once(
    workers: PostgresWorkers, database: Database, db: psycopg.Connection
) -> None:
    """What they waited for is back; how often they failed is not forgotten, nor the lease moved."""
    registry = PostgresRegistry(database)
    for tenant in (ADA, BOB, EVE):
        registry.register(tenant)
    db.execute(
        "UPDATE memory_pipeline.tenant SET retries = 3, lease_token = 5,"
        " lease_until = now() + interval '1 minute',"
        " retry_at = now() + CASE tenant WHEN 'ada' THEN interval '1 minute'"
        " WHEN 'bob' THEN interval '-1 minute' END"
    )
    assert workers.resume_paused() == 1
    assert workers.resume_paused() == 0
    state = "SELECT tenant, retry_at > now(), retries, lease_token, lease_until > now()"
    assert set(db.execute(f"{state} FROM memory_pipeline.tenant".encode())) == {
        ("ada", None, 3, 5, True),
        ("bob", False, 3, 5, True),
        ("eve", None, 3, 5, True),
    }


def test_the_backlog_is_what_waits_and_for_how_long(
    workers: PostgresWorkers, db: psycopg.Connection
) -> None:
    """Changes of all tenants, the age of the oldest, and what was given up."""
    assert workers.backlog() == Backlog(0, 0.0, 0)
    for user in ("ada", "ada", "bob"):
        remember(db, user)
    db.execute(
        "UPDATE memory_pipeline.change SET changed_at = changed_at - interval '100 seconds'"
        " WHERE tenant = 'bob'"
    )
    for memory_id, buried_at in ((1, "now"), (2, None)):
        db.execute(
            "INSERT INTO memory_pipeline.failure VALUES"
            " ('ada', %s, 1, 'why', 'why', now(), now(), %s)",
            (memory_id, buried_at),
        )
    backlog = workers.backlog()
    assert (backlog.changes, backlog.dead_letters) == (3, 1)
    assert 100 <= backlog.oldest_seconds < 160


def test_a_tenant_waits_as_long_as_its_oldest_change(
    workers: PostgresWorkers, db: psycopg.Connection
) -> None:
    """Who has none is not named."""
    for user in ("ada", "ada", "bob"):
        remember(db, user)
    db.execute(
        "UPDATE memory_pipeline.change SET changed_at = changed_at - interval '50 seconds'"
        " WHERE seq = (SELECT min(seq) FROM memory_pipeline.change)"
    )
    waits = workers.waits([ADA, EVE])
    assert waits.keys() == {ADA}
    assert 50 <= waits[ADA] < 110
