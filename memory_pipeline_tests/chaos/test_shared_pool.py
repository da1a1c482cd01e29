"""A worker behind a pooler in transaction mode, and an application on the same few sessions.

What broke: the application's ``pg_sleep(62)`` was cancelled, its idle transaction killed, and a
statement that the worker had prepared ran in place of its own. Why resetting is not enough: the
pooler gives the session to the next client before that. What must not change: everything that the
application writes becomes searchable.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from memory_pipeline.domain.types import TenantId
from memory_pipeline.local.environment import base_environment
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.settings import Settings
from memory_pipeline_tests.pgbouncer import pgbouncer, through_pooler
from memory_pipeline_tests.words import one, pending, remember

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

QUERY_SECONDS = 62  # longer than a statement of the pipeline may take
IDLE_SECONDS = 12  # longer than a transaction of the pipeline may be idle
PAUSE_SECONDS = 0.05
# Two are held by the slow query and the idle transaction.
SESSIONS = 5
LIVE = "from memory_pipeline.cli import main; main()"


def test_a_worker_disturbs_no_application_of_the_pool(
    settings: Settings,
    pipeline: Pipeline,
    database_url: str,
    db: psycopg.Connection,
    wait_until: Callable[..., None],
) -> None:
    """P6 and P1, for as long as the application's query runs."""
    shown: set[tuple[str, ...]] = set()
    done = threading.Event()

    with pgbouncer(database_url, pool_size=SESSIONS, server_idle_timeout=600) as pooler:
        address = pooler.through(database_url)

        def queries() -> str:
            with psycopg.connect(address, autocommit=True, prepare_threshold=None) as slow:
                return str(one(slow, f"SELECT 'slept ' || pg_sleep({QUERY_SECONDS})"))

        def stays_idle() -> int:
            turns = 0
            while not done.is_set():
                with psycopg.connect(address, prepare_threshold=None) as idle:
                    idle.execute("SELECT 1")
                    time.sleep(IDLE_SECONDS)  # what is tested: an idle transaction of this length
                    idle.execute("SELECT 1")
                turns += 1
            return turns

        def writes() -> int:
            written = 0
            with psycopg.connect(address, autocommit=True, prepare_threshold=None) as writer:
                while not done.wait(PAUSE_SECONDS):
                    remember(writer, f"user-{written % 10}", f"memory {written}")
                    shown.add(
                        tuple(
                            str(one(writer, f"SHOW {name}"))
                            for name in (
                                "statement_timeout",
                                "idle_in_transaction_session_timeout",
                                "row_security",
                                "lock_timeout",
                            )
                        )
                    )
                    written += 1
            return written

        worker = subprocess.Popen(
            [sys.executable, "-c", LIVE, "live", "--no-dagster"],
            env=base_environment(through_pooler(settings, pooler)),
        )
        try:
            with ThreadPoolExecutor(3) as pool:
                idle, writing, slow = (
                    pool.submit(stays_idle),
                    pool.submit(writes),
                    pool.submit(queries),
                )
                try:
                    assert slow.result(timeout=QUERY_SECONDS * 2) == "slept "
                finally:
                    done.set()
                written, turns = writing.result(), idle.result()
            wait_until(lambda: pending(db) == 0, within=60)
        finally:
            worker.terminate()
            assert worker.wait(30) == 0

    assert shown == {("0", "0", "on", "0")}
    assert turns >= QUERY_SECONDS // IDLE_SECONDS
    assert written > QUERY_SECONDS  # the worker and the queries left the writer some sessions
    documents = [pipeline.verify().run(TenantId(f"user-{n}"), sample=0) for n in range(10)]
    assert [v.findings for v in documents] == [()] * 10
    assert sum(v.documents for v in documents) == written
