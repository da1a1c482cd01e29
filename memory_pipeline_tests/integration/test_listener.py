"""Hints from Postgres: each wakes, and a connection that breaks is opened again."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg

from memory_pipeline.backoff import Backoff
from memory_pipeline.postgres.listener import Listener
from memory_pipeline.postgres.migrate import migrate
from memory_pipeline.settings import Settings
from memory_pipeline_tests.words import remember

WaitUntil = Callable[..., None]

LISTENING = (
    "FROM pg_stat_activity WHERE datname = current_database() AND query = 'LISTEN memory_pipeline'"
)


CHECK_SECONDS = 0.05
SOON = Backoff(0.1, 1.0)


class Calls:
    """Counts how often it was woken."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def __call__(self) -> None:
        """Be woken."""
        with self._lock:
            self.count += 1


@contextmanager
def listening(url: str) -> Iterator[Calls]:
    """Listen for as long as the block lasts."""
    calls = Calls()
    listener = Listener(url, calls, check_seconds=CHECK_SECONDS, backoff=SOON)
    listener.start()
    try:
        yield calls
    finally:
        listener.stop()


def listeners(db: psycopg.Connection) -> int:
    """Count the connections that listen."""
    row = db.execute(f"SELECT count(*) {LISTENING}".encode()).fetchone()
    assert row is not None
    return int(row[0])


def test_each_hint_wakes(database_url: str, db: psycopg.Connection, wait_until: WaitUntil) -> None:
    """After every commit somebody is woken, whatever the statement was."""
    with listening(database_url) as calls:
        wait_until(lambda: calls.count == 1)  # what was hinted at before nobody has heard
        statements = (
            "INSERT INTO memory_logs (user_id, raw_data) VALUES ('ada', '{}')",
            "UPDATE memory_logs SET raw_data = '{\"a\": 1}'",
            "DELETE FROM memory_logs",
            "TRUNCATE memory_logs",
        )
        for statement in statements * 5:
            before = calls.count
            db.execute(statement.encode())
            wait_until(lambda b=before: calls.count > b, within=2.0)


def test_a_hint_comes_with_the_commit(
    database_url: str, db: psycopg.Connection, wait_until: WaitUntil
) -> None:
    """Nobody is woken for what cannot be seen yet, nor for what never will be."""
    with listening(database_url) as calls:
        wait_until(lambda: calls.count == 1)
        with db.transaction(force_rollback=True):
            remember(db)
        with db.transaction():
            remember(db)
            with psycopg.connect(database_url, autocommit=True) as other:
                other.execute("NOTIFY memory_pipeline")
            wait_until(lambda: calls.count > 1)
            assert calls.count == 2  # the other's alone
        wait_until(lambda: calls.count == 3)


def test_a_connection_that_was_killed_is_opened_again_and_wakes(
    database_url: str, db: psycopg.Connection, wait_until: WaitUntil
) -> None:
    """What was hinted at while nobody listened wakes on the return; later hints wake as before."""
    with listening(database_url) as calls:
        wait_until(lambda: calls.count == 1)
        for _ in range(3):
            before = calls.count
            db.execute(f"SELECT pg_terminate_backend(pid) {LISTENING}".encode())
            remember(db)
            wait_until(lambda b=before: calls.count > b)
            wait_until(lambda: listeners(db) == 1)
            before = calls.count
            remember(db)
            wait_until(lambda b=before: calls.count > b, within=2.0)


def test_without_hints_nobody_is_woken_but_at_the_start(
    settings: Settings, database_url: str, db: psycopg.Connection, wait_until: WaitUntil
) -> None:
    """NOTIFY=off sends nothing: the one hint that arrives is the test's own, after all changes."""
    migrate(settings.model_copy(update={"notify": "off"}))
    with listening(database_url) as calls:
        wait_until(lambda: calls.count == 1)
        remember(db)
        db.execute("UPDATE memory_logs SET raw_data = '{}'")
        db.execute("DELETE FROM memory_logs")
        threading.Event().wait(CHECK_SECONDS * 4)  # looked at is what does not happen
        db.execute("NOTIFY memory_pipeline")  # hints arrive in the order of their commits
        wait_until(lambda: calls.count > 1)
        assert calls.count == 2


def test_it_ends_when_it_is_told_to(
    database_url: str, db: psycopg.Connection, wait_until: WaitUntil
) -> None:
    """When ``stop`` returns nobody is woken any more, and the connection is closed."""
    calls = Calls()
    listener = Listener(database_url, calls, check_seconds=CHECK_SECONDS)
    listener.start()
    wait_until(lambda: listeners(db) == 1)
    listener.stop()
    assert not listener._thread.is_alive()
    wait_until(lambda: listeners(db) == 0)


def test_without_postgres_it_waits_and_still_ends() -> None:
    """A database that is not there ends nothing and holds up no stop."""
    with listening("postgresql://nobody@127.0.0.1:1/nowhere") as calls:
        pass
    assert calls.count == 0
