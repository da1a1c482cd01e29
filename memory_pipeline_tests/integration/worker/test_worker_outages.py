"""The worker over a real Postgres and a real Chroma while one of them is down or a tenant fails."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from uuid import UUID

import psycopg
import pytest

from memory_pipeline.domain.changes import PendingTenant
from memory_pipeline.domain.outcomes import Outcome
from memory_pipeline.domain.status import FailingReports
from memory_pipeline.domain.types import TenantId
from memory_pipeline.errors import PostgresUnavailable
from memory_pipeline.local.chroma import ChromaProcess
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.worker.loop import TURNS_PER_SERVER
from memory_pipeline_tests.embedders import BrokenEmbedder
from memory_pipeline_tests.integration.worker.words import (
    EVE,
    FRESH_SECONDS,
    SOON,
    Open,
    Running,
    WaitUntil,
    delete_collection,
    fill,
    finds,
    kill,
    living,
    prepared,
    return_of,
    rows,
    started,
    texts,
)
from memory_pipeline_tests.words import ADA, BOB, SECONDS, live, one, pending, remember

# ---- Chroma goes and comes back


def test_while_chroma_is_down_nothing_is_tried_and_all_of_it_arrives(
    reopened: Open,
    own_chroma: Callable[[], ChromaProcess],
    db: psycopg.Connection,
    wait_until: WaitUntil,
) -> None:
    """P1: no hand is needed; changes of the outage are there within seconds after it."""
    chroma = own_chroma()
    # With long pauses and no polling: only its being back can end them so soon.
    pipeline = reopened(
        chroma_url=chroma.url, retry_seconds=20.0, retry_max_seconds=60.0, poll_seconds=60.0
    )
    with living(pipeline) as running:
        remember(db, "ada", "before")
        remember(db, "bob", "before")
        wait_until(lambda: pending(db) == 0)
        kill(chroma)
        remember(db, "ada", "meanwhile")
        wait_until(lambda: running.background.nothing_can_be_written)
        tokens = "SELECT sum(lease_token) FROM memory_pipeline.tenant"
        wait_until(lambda: running.live._scheduler.running == 0)
        before = one(db, tokens)
        new = remember(db, "eve", "the cat sleeps on the router")
        remember(db, "bob", "meanwhile")
        threading.Event().wait(0.6)  # a probe: looked at is what is not done
        assert one(db, tokens) == before
        return_of(chroma)
        wait_until(lambda: pending(db) == 0, within=5)
        assert not running.background.nothing_can_be_written
    for tenant in (ADA, BOB, EVE):
        assert texts(pipeline, tenant) == rows(db, tenant)
    assert finds(pipeline, EVE, new, "cat router")


def test_chroma_may_come_later(
    reopened: Open,
    own_chroma: Callable[[], ChromaProcess],
    db: psycopg.Connection,
    wait_until: WaitUntil,
) -> None:
    """It starts without Chroma, and marks and uses it once it is there."""
    chroma = own_chroma()
    kill(chroma)
    pipeline = reopened(chroma_url=chroma.url, retry_seconds=20.0, retry_max_seconds=60.0)
    with living(pipeline) as running:
        memory_id = remember(db, "ada", "the cat sleeps on the router")
        wait_until(lambda: running.background.nothing_can_be_written)
        return_of(chroma)
        wait_until(lambda: pending(db) == 0, within=5)
    assert finds(pipeline, ADA, memory_id, "cat router")


def test_a_server_that_is_back_does_not_wait_for_another(
    reopened: Open,
    own_chroma: Callable[[], ChromaProcess],
    db: psycopg.Connection,
    wait_until: WaitUntil,
) -> None:
    """Both were down, one is back: its tenants are served, whatever the other does."""
    servers = [own_chroma(), own_chroma()]
    urls = [server.url for server in servers]
    pipeline = reopened(chroma_url=urls[0], chroma_urls=(urls[1],))
    with living(pipeline) as running:
        for user in ("ada", "bob", "eve", "zoe"):
            remember(db, user, "before")
            wait_until(lambda: pending(db) == 0)
        address: dict[UUID, str] = {s.id: s.url for s in pipeline.registry.servers()}
        at = {t: address[live(pipeline, t).server] for t in (ADA, BOB, EVE, TenantId("zoe"))}
        assert set(at.values()) == set(urls)
        for server in servers:
            kill(server)
        for tenant in at:
            remember(db, tenant, "meanwhile")
        wait_until(lambda: running.background.nothing_can_be_written)
        return_of(servers[0])
        served = [t for t, url in at.items() if url == urls[0]]
        wait_until(lambda: sum(pending(db, t) for t in served) == 0, within=8)
    for tenant in served:
        assert texts(pipeline, tenant) == rows(db, tenant)


@contextmanager
def hanging(server: ChromaProcess) -> Iterator[None]:
    """Freeze a Chroma server: it takes connections and never answers."""
    assert server.pid > 0
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def test_a_server_that_hangs_holds_up_none_but_its_own(
    reopened: Open,
    own_chroma: Callable[[], ChromaProcess],
    db: psycopg.Connection,
    wait_until: WaitUntil,
) -> None:
    """P5: many tenants of it wait, with old changes; those of the other are as fresh as ever."""
    servers = [own_chroma(), own_chroma()]
    urls = [server.url for server in servers]
    pipeline = reopened(chroma_url=urls[0], chroma_urls=(urls[1],), poll_seconds=0.05)
    users = [TenantId(f"user-{n}") for n in range(16)]
    with living(pipeline) as running:
        for user in users:
            remember(db, user, "before")
            wait_until(lambda: pending(db) == 0)
        address: dict[UUID, str] = {s.id: s.url for s in pipeline.registry.servers()}
        at = {t: address[live(pipeline, t).server] for t in users}
        hung, fine = ([t for t in users if at[t] == url] for url in urls)
        assert min(len(hung), len(fine)) > TURNS_PER_SERVER
        with hanging(servers[0]):
            for user in hung:
                remember(db, user, "meanwhile")
            wait_until(lambda: running.live._scheduler.running == TURNS_PER_SERVER)
            for user in fine:
                memory_id = remember(db, user, "the cat sleeps on the router")
                wait_until(lambda: pending(db, user) == 0, within=2)  # noqa: B023 - done by then
                assert memory_id in texts(pipeline, user)
            down = running.background
            wait_until(lambda: len(down.unwritable_servers) == 1, within=15)
            assert not down.nothing_can_be_written
            wait_until(lambda: running.live._scheduler.running == 0, within=10)
        wait_until(lambda: pending(db) == 0, within=25)  # confirms of what hung included
    for user in users:
        assert texts(pipeline, user) == rows(db, user)


# ---- Postgres breaks


def test_postgres_may_end_every_connection(
    reopened: Open, db: psycopg.Connection, wait_until: WaitUntil
) -> None:
    """The loop, the turns, the listener and the background tasks connect again; nothing is lost."""
    pipeline = reopened(request_seconds=0.5)  # soon enough for the confirms of what was cut off
    with living(pipeline):
        remember(db, "ada")
        wait_until(lambda: pending(db) == 0)
        for n in range(3):
            fill(db, "bob", 30)
            db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            memory_id = remember(db, "ada", f"memory {n}")
            wait_until(lambda i=memory_id: i in texts(pipeline, ADA), within=10)
        wait_until(lambda: pending(db) == 0, within=20)
    for tenant in (ADA, BOB):
        assert texts(pipeline, tenant) == rows(db, tenant)


def test_a_background_task_that_fails_runs_again(
    pipeline: Pipeline,
    db: psycopg.Connection,
    wait_until: WaitUntil,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A heartbeat that fails, for a reason or for none that is known, is not the last one."""
    beat, beats = pipeline.workers.heartbeat, count(1)
    errors = {2: PostgresUnavailable("it restarts"), 4: ZeroDivisionError("a fault of ours")}
    over = threading.Event()

    def beat_or_not(failing: FailingReports | None = None, *, quiet_seconds: float = 0.0) -> None:
        if (number := next(beats)) in errors:
            raise errors[number]
        beat(failing, quiet_seconds=quiet_seconds)
        if number > max(errors):
            over.set()

    monkeypatch.setattr(pipeline.workers, "heartbeat", beat_or_not)
    with living(pipeline, intervals=replace(SOON, heartbeat_seconds=0.1)):
        wait_until(over.is_set)
        (before,) = pipeline.workers.healthy()
        db.execute(
            "UPDATE memory_pipeline.worker SET heartbeat_at = heartbeat_at - interval '10 s'"
        )
        wait_until(lambda: pipeline.workers.healthy()[0].silent_seconds < 5)
        assert pipeline.workers.healthy()[0].id == before.id


def test_a_process_that_was_frozen_in_a_transaction_goes_on(
    pipeline: Pipeline,
    db: psycopg.Connection,
    wait_until: WaitUntil,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A laptop slept, a container was paused: Postgres has ended the transaction meanwhile."""
    ask, frozen = pipeline.outbox.pending_tenants, threading.Event()

    def ask_after_a_sleep(*, paused: bool = False) -> list[PendingTenant]:
        if threading.current_thread() is running.thread and not frozen.is_set():
            frozen.set()
            with pipeline.database.transaction() as connection:
                connection.execute("SET idle_in_transaction_session_timeout = '20ms'")
                (pid,) = connection.execute("SELECT pg_backend_pid()").fetchone() or (0,)
                there = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
                wait_until(lambda: one(db, there, pid) == 0)
                connection.execute("SELECT 1")
        return ask(paused=paused)

    running = prepared(pipeline)
    monkeypatch.setattr(pipeline.outbox, "pending_tenants", ask_after_a_sleep)
    monkeypatch.setattr(running.live, "_warm_up", lambda: None)
    with started(running):
        assert frozen.wait(SECONDS)
        memory_id = remember(db, "ada", "the cat sleeps on the router")
        wait_until(lambda: finds(pipeline, ADA, memory_id, "cat router"), within=5)


def test_rows_that_a_frozen_process_has_locked_hold_up_nobody_else(
    pipeline: Pipeline, database_url: str, db: psycopg.Connection, wait_until: WaitUntil
) -> None:
    """P5: it was paused between a claim's or an ack's lock and the commit, in every turn of its."""
    held = [TenantId(f"held {n}") for n in range(4)]
    with living(pipeline), psycopg.connect(database_url) as frozen:
        for tenant in (ADA, *held):
            remember(db, tenant)
        wait_until(lambda: pending(db) == 0)
        frozen.execute(
            "SELECT FROM memory_pipeline.tenant WHERE tenant = ANY(%s) FOR NO KEY UPDATE", (held,)
        )
        for tenant in held:
            remember(db, tenant)
        wait_until(lambda: pending(db) == len(held))
        memory_id = remember(db, "ada", "the cat sleeps on the router")
        try:
            wait_until(lambda: finds(pipeline, ADA, memory_id, "cat router"), within=FRESH_SECONDS)
        finally:
            frozen.rollback()
        wait_until(lambda: pending(db) == 0, within=10)


# ---- one tenant is in trouble


@dataclass
class MeddledSync:
    """The real heart, but for one tenant."""

    run_really: Callable[..., Outcome]
    broken: TenantId
    heal: threading.Event = field(default_factory=threading.Event)
    tried_at: list[float] = field(default_factory=list)

    def run(self, tenant: TenantId, *, once: bool = False) -> Outcome:
        """Sync, or raise what nobody has foreseen."""
        if tenant == self.broken and not self.heal.is_set():
            self.tried_at.append(time.monotonic())
            raise ZeroDivisionError("a fault of ours")
        return self.run_really(tenant, once=once)


def meddled(pipeline: Pipeline, broken: TenantId) -> tuple[Running, MeddledSync]:
    """Prepare a worker whose sync of one tenant raises what nobody has foreseen."""
    running = prepared(pipeline)
    sync = MeddledSync(running.live.sync.run, broken)
    running.live.sync = sync
    return running, sync


def test_a_fault_of_ours_stops_one_tenant_alone(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: WaitUntil
) -> None:
    """Whatever a tenant's sync raises, the others stay fresh, and it is tried again."""
    running, sync = meddled(pipeline, BOB)
    with started(running):
        remember(db, "bob")
        wait_until(lambda: sync.tried_at)
        for n in range(10):
            memory_id = remember(db, "ada", f"memory {n}")
            wait_until(lambda i=memory_id: i in texts(pipeline, ADA), within=FRESH_SECONDS)
        assert pending(db, "bob") == 1
        sync.heal.set()
        wait_until(lambda: pending(db, "bob") == 0, within=10)
    assert texts(pipeline, BOB) == rows(db, "bob")


def test_a_fault_of_ours_is_tried_less_and_less_often(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: WaitUntil
) -> None:
    """Each pause is about twice the one before: what does not help is not done every second."""
    running, sync = meddled(pipeline, BOB)
    with started(running):
        remember(db, "bob")
        wait_until(lambda: len(sync.tried_at) >= 3, within=10)
    gaps = [later - sooner for sooner, later in zip(sync.tried_at, sync.tried_at[1:], strict=False)]
    print(f"paused {[round(gap, 2) for gap in gaps]} s")  # noqa: T201 - for whoever asks with -s
    assert gaps[1] > gaps[0] * 1.5


def test_a_tenant_that_is_refused_is_tried_less_and_less_often(
    reopened: Open, db: psycopg.Connection, wait_until: WaitUntil
) -> None:
    """An error that lasts is paused for longer each time, though Chroma itself is well."""
    pipeline = reopened(BrokenEmbedder(), retry_seconds=0.25, retry_max_seconds=60.0)
    with living(pipeline):
        remember(db, "ada")
        retries = "SELECT coalesce(max(retries), 0) FROM memory_pipeline.tenant"
        wait_until(lambda: one(db, retries) >= 3, within=10)
        pause = (
            "SELECT extract(epoch FROM retry_at - clock_timestamp()) FROM memory_pipeline.tenant"
        )
        began, tried = time.monotonic(), int(one(db, retries))
        threading.Event().wait(0.6)  # what is looked at is that nothing happens
        tries = int(one(db, retries)) - tried
        print(f"tried {tries} times in {time.monotonic() - began:.1f} s, then {one(db, pause)} s")  # noqa: T201 - for -s
    # After three failures the pause is 1 s, less a quarter at most; a probe came by meanwhile.
    assert tries == 0


def test_a_damaged_collection_is_rebuilt_by_itself(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: WaitUntil
) -> None:
    """P7: deleted behind its back, found at the next change, built anew; fresh again after that."""
    with living(pipeline):
        fill(db, "ada", 50)
        remember(db, "bob")
        wait_until(lambda: pending(db) == 0)
        before, untouched = live(pipeline, ADA), live(pipeline, BOB)
        delete_collection(pipeline, before)
        remember(db, "ada", "the straw")
        wait_until(lambda: live(pipeline, ADA).id != before.id, within=15)
        memory_id = remember(db, "ada", "the cat sleeps on the router")
        wait_until(lambda: finds(pipeline, ADA, memory_id, "cat router"), within=FRESH_SECONDS)
        assert live(pipeline, BOB).id == untouched.id
    assert texts(pipeline, ADA) == rows(db, "ada")
    assert pipeline.verify().run(ADA, sample=None).findings == ()
