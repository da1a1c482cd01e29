"""A worker without work lets the database sleep, and is there at once when there is work.

What broke: a database that bills for being awake never slept, for it was asked ten times a second.
Why the obvious is not enough: the poll is one of six that ask. What must not change: what is late,
dead or rolled back is noticed as before.
"""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from memory_pipeline.chroma.marker import EPOCH_KEY, MARKER
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.local.postgres import EmbeddedPostgres
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.postgres.listener import Listener
from memory_pipeline.postgres.migrate import migrate
from memory_pipeline.settings import Settings
from memory_pipeline.worker.background import Intervals
from memory_pipeline_tests.integration.worker.words import (
    Running,
    WaitUntil,
    finds,
    prepared,
    started,
)
from memory_pipeline_tests.words import ADA, one, pending, remember

AFTER_SECONDS = 0.5
LONG_SECONDS = 1000.0
SILENT_SECONDS = 5.0
# What Postgres does by itself, such as an autovacuum.
ITS_OWN = 3
# What the tasks ask in one burst, all of them together, with new connections for it.
BURST = 40
BURST_SECONDS = 10.0
INTERVALS = Intervals(
    heartbeat_seconds=0.2,
    probe_seconds=0.2,
    repair_seconds=0.2,
    report_seconds=0.1,
    report_tenant_seconds=0.2,
    restore_watch_seconds=0.2,
)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Rest for long: no burst comes by itself while a test runs."""
    return settings.model_copy(update={"quiet_seconds": LONG_SECONDS})


@pytest.fixture
def admin(postgres: EmbeddedPostgres) -> Iterator[psycopg.Connection]:
    """Connect to another database, to see what happens in the test's own without a part in it."""
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        yield connection


@dataclass(frozen=True)
class Asleep:
    """A worker that rests, and what its database looks like from another one."""

    pipeline: Pipeline
    running: Running
    admin: psycopg.Connection
    wait_until: WaitUntil

    def transactions(self) -> int:
        """Return how many there were in the database."""
        return transactions(self.admin, database_of(self.pipeline))

    def connections(self, *, listening: bool) -> int:
        """Count the connections that listen, or the others."""
        return connections(self.admin, database_of(self.pipeline), listening=listening)

    def wait(self) -> None:
        """Wait until no connection is left: one that is open tells its figures late."""
        self.wait_until(lambda: self.connections(listening=False) == 0, within=30)


@contextmanager
def resting(pipeline: Pipeline, wait_until: WaitUntil) -> Iterator[Running]:
    """Run a worker; the block begins when it rests."""
    running = prepared(pipeline, intervals=INTERVALS)
    quiet = running.background.quiet
    quiet.after_seconds = AFTER_SECONDS
    running.live.listen = partial(
        Listener,
        pipeline.database.url,
        check_seconds=0.1,
        may_connect=partial(quiet.may_touch, "listen"),
    )
    with started(running):
        wait_until(lambda: quiet.rests, within=20)
        yield running


def database_of(pipeline: Pipeline) -> str:
    """Return the name of the database."""
    return str(conninfo_to_dict(pipeline.database.url)["dbname"])


def transactions(admin: psycopg.Connection, database: str) -> int:
    """Return how many transactions there were in a database."""
    row = admin.execute(
        "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = %s", (database,)
    ).fetchone()
    assert row is not None
    return int(row[0])


def connections(admin: psycopg.Connection, database: str, *, listening: bool) -> int:
    """Count the connections that listen, or the others."""
    row = admin.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND (query LIKE 'LISTEN%%') = %s",
        (database, listening),
    ).fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture
def asleep(
    settings: Settings,
    admin: psycopg.Connection,
    wait_until: WaitUntil,
    monkeypatch: pytest.MonkeyPatch,
    unmarked_chroma: None,
) -> Iterator[Asleep]:
    """Run a worker until it rests and its connections are closed; each has told its figures."""
    monkeypatch.setattr("memory_pipeline.postgres.database.UNUSED_QUIET_SECONDS", 0.5)
    with (
        opened(settings, embedder=HashingEmbedder()) as pipeline,
        resting(pipeline, wait_until) as running,
    ):
        found = Asleep(pipeline, running, admin, wait_until)
        found.wait()
        yield found


def test_a_worker_that_rests_asks_nothing(asleep: Asleep) -> None:
    """No poll, heartbeat, repair or watch; no connection is left but the one that listens."""
    before = asleep.transactions()
    time.sleep(SILENT_SECONDS)  # looked at is what does not happen
    asked = asleep.transactions() - before
    assert asked <= ITS_OWN
    assert asleep.running.background.quiet.rests
    assert asleep.connections(listening=True) == 1
    assert len(asleep.pipeline.workers.healthy()) == 1


def test_a_burst_asks_each_thing_once(asleep: Asleep, wait_until: WaitUntil) -> None:
    """In each of the setting's seconds the database is woken once, and asked a few things."""
    quiet, before = asleep.running.background.quiet, asleep.transactions()
    wait_until(lambda: quiet.idle_seconds() > BURST_SECONDS, within=2 * BURST_SECONDS)
    quiet.seconds = quiet.idle_seconds() - 2 * AFTER_SECONDS  # now, and then not for long
    wait_until(lambda: asleep.connections(listening=False) > 0)
    asleep.wait()
    asked = asleep.transactions() - before
    assert quiet.rests
    assert 0 < asked <= BURST


def test_a_hint_wakes_it_at_once(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: WaitUntil
) -> None:
    """What is written to a database that slept is as fresh as ever; then it sleeps again."""
    lags = []
    with resting(pipeline, wait_until) as running:
        for n in range(6):
            began = time.monotonic()
            memory = remember(db, "ada", f"number {n}")
            wait_until(lambda: pending(db, "ada") == 0, within=5)
            lags.append(time.monotonic() - began)
            assert finds(pipeline, ADA, memory, f"number {n}")
            wait_until(lambda: running.background.quiet.rests, within=20)
    assert statistics.median(lags[1:]) < 0.5  # the first one creates the collection


def test_without_hints_a_change_waits_no_longer_than_the_setting(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: WaitUntil
) -> None:
    """Each poll finds every change."""
    migrate(pipeline.settings.model_copy(update={"notify": "off"}))
    with resting(pipeline, wait_until) as running:
        running.background.quiet.seconds = 3.0
        remember(db)
        wait_until(lambda: pending(db) == 0, within=6.0)


def test_a_change_that_waits_for_later_keeps_it_awake(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: WaitUntil
) -> None:
    """A confirm, a pause after an error: what is known to be due soon is done soon."""
    remember(db)
    with resting(pipeline, wait_until) as running:
        db.execute(
            "INSERT INTO memory_pipeline.change (tenant, memory_id, not_before)"
            " SELECT 'ada', max(id), clock_timestamp() + interval '3 s' FROM memory_logs"
        )
        remember(db)  # its hint wakes
        wait_until(lambda: not running.background.quiet.rests)
        time.sleep(AFTER_SECONDS * 3)
        assert not running.background.quiet.rests
        wait_until(lambda: pending(db) == 0, within=6.0)
        wait_until(lambda: running.background.quiet.rests, within=20)


def test_a_worker_that_rests_is_not_taken_for_dead(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: WaitUntil
) -> None:
    """It has said for how long it may be silent; when it is awake it may not be so for long."""
    silence = "UPDATE memory_pipeline.worker SET heartbeat_at = heartbeat_at - interval '900 s'"
    with resting(pipeline, wait_until) as running:
        db.execute(silence)
        assert len(pipeline.workers.healthy()) == 1
        db.execute(silence)
        assert pipeline.workers.healthy() == []
        remember(db)
        wait_until(lambda: one(db, "SELECT quiet_seconds FROM memory_pipeline.worker") == 0)
        assert len(pipeline.workers.healthy()) == 1
        running.background.quiet.after_seconds = LONG_SECONDS
    assert pipeline.workers.healthy() == []


def test_before_it_rests_the_markers_have_an_epoch_after_the_last_change(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: WaitUntil
) -> None:
    """What broke in a draft: files put back while it rested had been noticed within 30 s before."""
    with resting(pipeline, wait_until) as running:
        remember(db)
        wait_until(lambda: pending(db) == 0)
        wait_until(lambda: running.background.quiet.rests, within=20)
        synced_at = one(db, "SELECT last_synced_at FROM memory_pipeline.tenant")
        (server,) = pipeline.servers.usable()
        with pipeline.servers.client(server).call(5.0) as connected:
            nonce = (connected.get_collection(MARKER).metadata or {})[EPOCH_KEY]
        begun = one(db, "SELECT begun_at FROM memory_pipeline.epoch WHERE nonce = %s", nonce)
        assert begun > synced_at


def test_a_connection_that_the_database_closed_is_opened_with_the_next_burst(
    pipeline: Pipeline, admin: psycopg.Connection, db: psycopg.Connection, wait_until: WaitUntil
) -> None:
    """A database that goes to sleep closes it; to open it at once would wake the database."""
    database = database_of(pipeline)
    with resting(pipeline, wait_until) as running:
        assert connections(admin, database, listening=True) == 1
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = %s AND query LIKE 'LISTEN%%'",
            (database,),
        )
        time.sleep(3.0)  # it would have been opened again within two
        assert connections(admin, database, listening=True) == 0
        running.background.quiet.seconds = 4.0
        wait_until(lambda: connections(admin, database, listening=True) == 1, within=8.0)


def test_without_hints_no_connection_is_kept_for_them(pipeline: Pipeline) -> None:
    """An open connection is enough to keep some databases awake."""
    silent = replace(pipeline, settings=pipeline.settings.model_copy(update={"notify": "off"}))
    running = prepared(pipeline)
    assert not isinstance(silent.worker(running.background).listen(lambda: None), Listener)
    assert isinstance(pipeline.worker(running.background).listen(lambda: None), Listener)
