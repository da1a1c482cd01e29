"""Forgetting beside a running worker; what a worker finishes; and tenants without memories."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import psycopg
from typer.testing import CliRunner, Result

from memory_pipeline.cli import app
from memory_pipeline.local.chroma import ChromaProcess
from memory_pipeline.local.environment import settings_environment
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.settings import Settings
from memory_pipeline_tests.doubles import around
from memory_pipeline_tests.integration.worker.words import (
    SOON,
    Open,
    WaitUntil,
    fill,
    kill,
    living,
    return_of,
    rows,
    texts,
)
from memory_pipeline_tests.words import (
    ADA,
    BOB,
    count_of,
    drained_well,
    held,
    live,
    one,
    pending,
    remember,
)

EMPTY = replace(SOON, empty_seconds=0.2)
FAILED = (
    "INSERT INTO memory_pipeline.failure (tenant, memory_id, attempts, first_error, last_error)"
    " VALUES ('ada', 1, 1, 'no', 'no')"
)
LONG_AGO = "UPDATE memory_pipeline.tenant SET last_synced_at = now() - interval '2 days'"


def forget(settings: Settings, *words: str, code: int = 0) -> Result:
    """Run the command as a user does."""
    done = CliRunner().invoke(
        app, ["forget-tenant", *words], env=settings_environment(settings), input="y\n"
    )
    assert done.exit_code == code, done.output + done.stderr
    return done


def test_a_tenant_that_is_forgotten_under_writes_and_a_worker_loses_nothing(
    pipeline: Pipeline, db: psycopg.Connection, database_url: str, wait_until: WaitUntil
) -> None:
    """P1, P2: again and again, while an application writes for it and for another.

    What the application writes after a forgetting has begun is synced like any other; nothing that
    the worker or a rebuild has in hand brings the rest back.
    """
    stop = threading.Event()
    written = {"ada": 0, "bob": 0}

    def write(tenant: str) -> None:
        with psycopg.connect(database_url, autocommit=True) as application:
            while not stop.is_set():
                remember(application, tenant, f"{uuid4().hex} {uuid4().hex}")
                written[tenant] += 1
                stop.wait(0.03)

    writers = [threading.Thread(target=write, args=(t,), daemon=True) for t in written]
    with living(pipeline) as running:
        for writer in writers:
            writer.start()
        for _ in range(6):
            begun = written["ada"]
            wait_until(lambda begun=begun: written["ada"] > begun + 5, within=30)
            pipeline.forget().run(ADA, delete_memories=True)
        stop.set()
        for writer in writers:
            writer.join()
        wait_until(lambda: pending(db) == 0, within=60)
        wait_until(lambda: pipeline.erasures.pending() == [], within=60)
        for tenant in (ADA, BOB):
            assert texts(pipeline, tenant) == rows(db, tenant)
            assert pipeline.verify().run(tenant).findings == ()
        assert len(rows(db, "bob")) == written["bob"]
        # The last word: nobody writes any more, and the worker still runs.
        assert pipeline.forget().run(ADA, delete_memories=True).proven
        wait_until(lambda: count_of(db, "change") == 0)
        assert count_of(db, "tenant WHERE tenant = 'ada'") == 0
        running.stop()
    assert count_of(db, "generation WHERE tenant = 'ada'") == 0
    assert count_of(db, "freshness WHERE tenant = 'ada'") == 0


def test_a_server_that_is_down_leaves_an_erasure_that_a_worker_finishes(
    own_chroma: Callable[[], ChromaProcess],
    reopened: Open,
    db: psycopg.Connection,
    settings: Settings,
    wait_until: WaitUntil,
) -> None:
    """Not proven, never forgotten: `status` shows it with the reason until it is finished."""
    chroma = own_chroma()
    named = settings.model_copy(update={"chroma_url": chroma.url})
    pipeline = reopened(chroma_url=chroma.url)
    remember(db)
    drained_well(pipeline)
    kill(chroma)
    done = forget(named, "ada", "--delete-memories", code=3)
    assert "? Chroma at" in done.output
    assert "not finished: Chroma at" in done.stderr
    shown = CliRunner().invoke(app, ["status"], env=settings_environment(named))
    assert "tenant ada is being forgotten since" in shown.stderr
    assert "cannot be reached" in shown.stderr
    assert count_of(db, "generation WHERE tenant = 'ada'") == 1
    db.execute("UPDATE memory_pipeline.erasure SET tried_at = now() - interval '1 hour'")
    return_of(chroma)
    with living(pipeline):
        wait_until(lambda: count_of(db, "erasure") == 0, within=30)
    assert "nothing is left of tenant ada" in forget(named, "ada").stderr
    assert count_of(db, "generation WHERE tenant = 'ada'") == 0
    shown = CliRunner().invoke(app, ["status"], env=settings_environment(named))
    assert "forgotten" not in shown.stderr


def test_a_forgetting_that_was_killed_after_each_step_is_finished(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """Whatever it had done by then: nothing half done and forgotten."""

    class Killed(BaseException):
        pass

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    for step in ("fence", "forget_orphaned_provenance", "generations", "erased", "complete"):
        remember(db)
        drained_well(pipeline)
        forgetting = replace(pipeline.forget(), erasures=around(pipeline.erasures, **{step: die}))
        try:
            forgetting.run(ADA, delete_memories=True)
        except Killed:
            pass
        else:
            raise AssertionError(step)
        db.execute("UPDATE memory_pipeline.tenant SET lease_until = now()")
        assert count_of(db, "erasure") == 1, step
        assert pipeline.forget().resume(idle_seconds=0) == 1, step
        for table in ("erasure", "tenant", "generation", "change", "provenance"):
            assert count_of(db, table) == 0, (step, table)


# ---- tenants without memories


def test_the_collection_of_a_tenant_without_memories_goes_and_comes_back(
    reopened: Open, db: psycopg.Connection, wait_until: WaitUntil
) -> None:
    """By itself, after a while; the next memory begins another one and is searchable as ever."""
    pipeline = reopened(empty_tenant_seconds=3600.0, retire_seconds=0.0)
    remember(db, "bob")
    remember(db)
    drained_well(pipeline)
    db.execute("DELETE FROM memory_logs WHERE user_id = 'ada'")
    drained_well(pipeline)
    before = live(pipeline)
    assert pipeline.retire_empty() == 0
    db.execute(LONG_AGO)
    with living(pipeline, intervals=EMPTY):
        wait_until(lambda: pipeline.registry.live(ADA) is None)
        wait_until(lambda: count_of(db, "generation WHERE dropped_at IS NOT NULL") == 1)
        assert live(pipeline, BOB).state == "live"
        assert pipeline.search.search(ADA, "anything") == []
        memory = remember(db, "ada", "back again")
        wait_until(lambda: texts(pipeline, ADA).keys() == {memory})
    assert live(pipeline).id != before.id
    assert pipeline.verify().run(ADA).findings == ()


def test_what_is_pending_failed_or_rebuilt_keeps_its_collection(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """Decided under the lease, by what stands then, and not by what was listed before."""
    remember(db)
    drained_well(pipeline)
    db.execute("DELETE FROM memory_logs")
    drained_well(pipeline)
    db.execute(LONG_AGO)
    kept = live(pipeline)
    for put, away in (
        ("INSERT INTO memory_pipeline.change (tenant, memory_id) VALUES ('ada', 1)", "change"),
        ("INSERT INTO memory_pipeline.truncation DEFAULT VALUES", "truncation"),
        (FAILED, "failure"),
        ("INSERT INTO memory_pipeline.rebuild (id, tenant) VALUES ('r', 'ada')", "rebuild"),
    ):
        db.execute(put)
        assert not _retired(pipeline), away
        db.execute(f"DELETE FROM memory_pipeline.{away}".encode())
    assert live(pipeline) == kept
    assert _retired(pipeline)


def _retired(pipeline: Pipeline) -> bool:
    lease = pipeline.outbox.acquire_lease(ADA)
    assert lease is not None
    try:
        return pipeline.erasures.retire_empty(lease)
    finally:
        pipeline.erasures.return_lease(lease)


def test_a_write_just_then_is_synced_into_a_new_collection(
    pipeline: Pipeline, db: psycopg.Connection, database_url: str
) -> None:
    """It commits while the collection is retired: its change stays, and finds nothing live."""
    remember(db)
    drained_well(pipeline)
    db.execute("DELETE FROM memory_logs")
    drained_well(pipeline)
    sync = pipeline.sync()
    sync.run(ADA)  # a worker that was the last to have the tenant
    before = live(pipeline)
    with psycopg.connect(database_url) as slow:
        slow.execute("INSERT INTO memory_logs (user_id, raw_data) VALUES ('ada', '{}')")
        assert _retired(pipeline)
    assert pipeline.registry.live(ADA) is None
    assert pending(db, "ada") == 1
    assert sync.run(ADA).verdict == "done"
    assert len(held(pipeline)) == 1
    assert live(pipeline).id != before.id


def test_a_thousand_writes_beside_the_cleanup_are_all_synced(
    reopened: Open, db: psycopg.Connection, wait_until: WaitUntil
) -> None:
    """P1, P2: a tenant that is emptied and filled while the cleanup looks all the time."""
    pipeline = reopened(empty_tenant_seconds=0.001, retire_seconds=0.0)
    with living(pipeline, intervals=replace(SOON, empty_seconds=0.01)):
        for turn in range(12):
            fill(db, "ada", 5)
            if turn % 3:
                wait_until(lambda: pending(db) == 0, within=30)
            db.execute("DELETE FROM memory_logs")
            if turn % 2:
                wait_until(lambda: pipeline.registry.live(ADA) is None, within=30)
        fill(db, "ada", 7)
        wait_until(lambda: pending(db) == 0, within=30)
        wait_until(lambda: texts(pipeline, ADA) == rows(db, "ada"), within=30)
    assert pipeline.verify().run(ADA).findings == ()
    assert one(db, "SELECT count(*) FROM memory_pipeline.generation") > 1


def test_zero_keeps_every_collection(reopened: Open, db: psycopg.Connection) -> None:
    """The setting's way to say never."""
    pipeline = reopened(empty_tenant_seconds=0.0)
    remember(db)
    drained_well(pipeline)
    db.execute("DELETE FROM memory_logs")
    drained_well(pipeline)
    db.execute(LONG_AGO)
    assert pipeline.retire_empty() == 0
    assert live(pipeline).state == "live"
