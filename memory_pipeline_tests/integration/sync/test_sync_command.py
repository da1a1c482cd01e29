"""``sync`` where other processes have the tenants: exit code 0 says that the changes are synced.

What broke: it exited with 0 and had synced nothing, for another process had the lease. Why the
obvious is not enough: a change that another one has claimed is not even offered. What must not
change: a steady stream of new changes keeps no sync from its end.
"""

import json
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner, Result

from memory_pipeline.cli import app
from memory_pipeline.local.environment import settings_environment
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.ports import Lease
from memory_pipeline.settings import Settings
from memory_pipeline_tests.integration.worker.words import living
from memory_pipeline_tests.words import ADA, BOB, drained, held, pending, remember

WaitUntil = Callable[..., None]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The lease of a process that was killed ends soon."""
    return settings.model_copy(
        update={"request_seconds": 1.0, "grace_seconds": 0.0, "lease_seconds": 3.0}
    )


def sync(pipeline: Pipeline, *words: str, code: int = 0) -> Result:
    """Run the command as a user does."""
    done = CliRunner().invoke(app, ["sync", *words], env=settings_environment(pipeline.settings))
    assert done.exit_code == code, done.output + done.stderr
    return done


def figures(pipeline: Pipeline, *words: str, code: int = 0) -> dict[str, Any]:
    """Run the command as a program does; return what it printed."""
    read: dict[str, Any] = json.loads(sync(pipeline, *words, "--json", code=code).stdout)
    return read


def claimed(pipeline: Pipeline) -> Lease:
    """Claim all changes of ada, as another process does that is in the midst of its batch."""
    pipeline.registry.register(ADA)
    lease = pipeline.outbox.acquire_lease(ADA)
    assert lease is not None
    assert pipeline.outbox.claim(lease).changes
    return lease


def test_what_another_process_has_is_waited_for_and_then_named(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """With the process; what nobody has is synced."""
    remember(db, "ada")
    remember(db, "ada")
    remember(db, "bob")
    lease = claimed(pipeline)
    said = sync(pipeline, "--wait", "0", code=3).stderr
    assert "is syncing 2 changes of 1 tenants" in said
    assert f"process {socket.gethostname()}:{os.getpid()} is" in said
    assert "--wait" in said
    assert "Traceback" not in said
    assert len(held(pipeline, BOB)) == 1
    lease.renew()
    assert figures(pipeline, "--wait", "0", code=3)["unsynced_changes"] == 2


def test_what_another_process_leaves_behind_is_synced_here(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """It was killed: its lease ends while the command waits."""
    remember(db, "ada")
    claimed(pipeline)
    done = figures(pipeline)
    assert (done["written"], done["unsynced_changes"]) == (1, 0)
    assert len(held(pipeline, ADA)) == 1


def test_what_another_process_syncs_meanwhile_is_done(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """It does not matter who does it."""
    remember(db, "ada")
    lease = claimed(pipeline)

    def go_on() -> None:
        pipeline.outbox.release_lease(lease)
        drained(pipeline)

    other = threading.Timer(1.0, go_on)
    other.start()
    sync(pipeline)
    other.join()
    assert len(held(pipeline, ADA)) == 1


def test_beside_a_worker_under_a_steady_stream_it_ends(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """With everything synced that was written before it began."""
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(pipeline.database.url, autocommit=True) as application:
            while not stop.wait(0.02):
                remember(application, "ada")

    writer = threading.Thread(target=write)
    with living(pipeline):
        writer.start()
        try:
            for _ in range(3):
                before = {remember(db, "ada") for _ in range(5)}
                sync(pipeline)
                assert before <= held(pipeline, ADA)
        finally:
            stop.set()
            writer.join()


@pytest.mark.parametrize("others", [(), ("--tenant", "ada")])
def test_a_change_that_pauses_is_not_called_synced(
    pipeline: Pipeline, db: psycopg.Connection, others: tuple[str, ...]
) -> None:
    """After an error of a worker; it is synced here when the pause ends in time."""
    remember(db, "ada")
    remember(db, "bob")
    db.execute(
        "UPDATE memory_pipeline.change SET not_before = clock_timestamp() + interval '4 s'"
        " WHERE tenant = 'ada'"
    )
    said = sync(pipeline, "--wait", "0", *others, code=3).stderr
    assert "1 changes of 1 tenants pause after an error" in said
    assert pending(db, "ada") == 1
    assert figures(pipeline, *others)["written"] >= 1
    assert len(held(pipeline, ADA)) == 1


def test_a_confirm_is_no_change_to_wait_for(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """What it writes once more was written; and another tenant's changes are not asked about."""
    remember(db, "ada")
    remember(db, "bob")
    db.execute(
        "UPDATE memory_pipeline.change SET confirm = true,"
        " not_before = clock_timestamp() + interval '1 hour' WHERE tenant = 'ada'"
    )
    sync(pipeline, "--wait", "0")
    remember(db, "ada")
    lease = claimed(pipeline)
    sync(pipeline, "--wait", "0", "--tenant", "bob")
    pipeline.outbox.release_lease(lease)


def test_a_wait_that_is_no_duration_is_refused(pipeline: Pipeline) -> None:
    """As every other duration."""
    assert "is no duration" in sync(pipeline, "--wait", "long", code=2).stderr


def test_a_rebuild_that_another_process_does_is_not_done_yet(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """It has not failed either."""
    remember(db, "ada")
    drained(pipeline)
    db.execute(
        "INSERT INTO memory_pipeline.rebuild (id, tenant, state, owner, owned_until)"
        " VALUES ('another', 'ada', 'running', 'elsewhere', clock_timestamp() + interval '1 hour')"
    )
    done = CliRunner().invoke(
        app, ["rebuild", "--tenant", "ada"], env=settings_environment(pipeline.settings)
    )
    assert done.exit_code == 3, done.output + done.stderr
    assert "another rebuild of this tenant is under way" in done.stderr
