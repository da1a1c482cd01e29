"""The resident process over a real Postgres and a real Chroma: fresh, fair, and hard to stop."""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace

import psycopg
import pytest

from memory_pipeline.domain.outcomes import Outcome
from memory_pipeline.domain.types import TenantId
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.postgres.migrate import migrate
from memory_pipeline.rebuild.tenants import RebuildAll
from memory_pipeline.worker import background
from memory_pipeline.worker.reports import REPORT_TENANTS
from memory_pipeline_tests.embedders import CountingEmbedder
from memory_pipeline_tests.integration.worker.words import (
    CROWD,
    EVE,
    FRESH_SECONDS,
    SOON,
    STOP_SECONDS,
    Open,
    Told,
    WaitUntil,
    fill,
    fill_alike,
    finds,
    living,
    prepared,
    rows,
    started,
    texts,
)
from memory_pipeline_tests.words import (
    ADA,
    BOB,
    SECONDS,
    change,
    drained,
    live,
    one,
    pending,
    remember,
)

# ---- fresh


def _whatever_happens_arrives(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: WaitUntil
) -> None:
    cat = remember(db, "ada", "the cat sleeps on the router")
    wait_until(lambda: finds(pipeline, ADA, cat, "cat router"), within=FRESH_SECONDS)
    dog = remember(db, "ada", "the dog sleeps on the stairs")
    wait_until(lambda: finds(pipeline, ADA, dog, "dog stairs"), within=FRESH_SECONDS)
    change(db, cat, "a parrot speaks in the kitchen")
    wait_until(lambda: texts(pipeline, ADA) == rows(db, "ada"), within=FRESH_SECONDS)
    assert finds(pipeline, ADA, cat, "parrot kitchen")
    db.execute("UPDATE memory_logs SET user_id = 'bob' WHERE id = %s", (cat,))
    wait_until(lambda: finds(pipeline, BOB, cat, "parrot kitchen"), within=FRESH_SECONDS)
    wait_until(lambda: set(texts(pipeline, ADA)) == {dog}, within=FRESH_SECONDS)
    db.execute("DELETE FROM memory_logs WHERE id = %s", (dog,))
    wait_until(lambda: texts(pipeline, ADA) == {}, within=FRESH_SECONDS)
    db.execute("TRUNCATE memory_logs")
    wait_until(lambda: texts(pipeline, BOB) == {}, within=FRESH_SECONDS)


def test_a_hint_brings_every_change(
    reopened: Open, db: psycopg.Connection, wait_until: WaitUntil
) -> None:
    """P1: insert, update, move, delete, TRUNCATE are there in no time; nothing was polled for."""
    pipeline = reopened(poll_seconds=60.0)
    with living(pipeline):
        _whatever_happens_arrives(pipeline, db, wait_until)


def test_without_hints_polling_brings_every_change(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: WaitUntil
) -> None:
    """P1: hints are hints; where they are off or lost, nothing is, and little later."""
    migrate(pipeline.settings.model_copy(update={"notify": "off"}))
    with living(pipeline):
        _whatever_happens_arrives(pipeline, db, wait_until)


def test_a_search_while_the_first_memory_lands_finds_nothing_or_it(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P2: a collection that was made this moment is no damaged one; an early search is empty."""
    with living(pipeline):
        for n in range(15):
            tenant = TenantId(f"new {n}")
            memory_id = remember(db, tenant, "the cat sleeps on the router")
            until = time.monotonic() + FRESH_SECONDS
            found: list[int] = []
            while not found and time.monotonic() < until:
                hits = pipeline.search.search(tenant, "cat router")
                found = [hit.memory_id for hit in hits]
            assert found == [memory_id]


def test_how_fresh_it_was_is_told(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: WaitUntil
) -> None:
    """P5: measured where it is kept, in Postgres, of each tenant and of all; and that it lives."""
    with living(pipeline):
        wait_until(lambda: len(pipeline.workers.healthy()) == 1)
        for n in range(10):
            for user in ("ada", "bob"):
                remember(db, user, f"memory {n}")
            wait_until(lambda: pending(db) == 0)
    fresh = pipeline.workers.freshness()
    assert {tenant: lags.changes for tenant, lags in fresh.items()} == {ADA: 10, BOB: 10, None: 20}
    print(f"freshness {fresh[None].milliseconds()} ms")  # noqa: T201 - for whoever asks with -s
    assert 0 < fresh[None].p50 <= fresh[None].slowest < FRESH_SECONDS
    assert pipeline.workers.healthy() == []


# Tenants that import at once, memories of each, changes in a batch; and other tenants.
@pytest.mark.parametrize("imports", [(1, 2_000, 200, 29), (5, 400, 50, 8)])
def test_a_small_change_does_not_wait_for_a_backlog(
    reopened: Open, db: psycopg.Connection, wait_until: WaitUntil, imports: tuple[int, ...]
) -> None:
    """P5: some tenants import thousands of memories; the others stay as fresh as ever."""
    backlogs, memories, batch, others = imports
    pipeline = reopened(batch_size=batch)
    big, small = [f"big {n}" for n in range(backlogs)], [f"small {n}" for n in range(others)]
    with living(pipeline):
        for user in small:
            remember(db, user, "the first memory")
        wait_until(lambda: pending(db) == 0, within=20)
        for user in big:
            fill(db, user, memories)
        waited: list[float] = []
        for tenant in map(TenantId, small[:8]):
            began = time.monotonic()
            memory_id = remember(db, tenant, "the cat sleeps on the router")
            wait_until(lambda t=tenant, i=memory_id: finds(pipeline, t, i, "cat router"), within=10)
            waited.append(time.monotonic() - began)
            if (left := pending(db)) == 0:
                break
        print(f"waited {[round(w, 2) for w in waited]} s, {left} left")  # noqa: T201 - for -s
        assert len(waited) >= 3  # the backlog was there
        assert max(waited) < FRESH_SECONDS


def test_a_crowd_of_like_memories_is_brought_to_an_end(
    pipeline: Pipeline, reopened: Open, db: psycopg.Connection, wait_until: WaitUntil
) -> None:
    """P1: what no search lists in a tight crowd is written again, but not for ever by turns."""
    with living(pipeline), living(reopened()):
        fill_alike(db, "ada", CROWD)
        wait_until(lambda: pending(db) == 0, within=15)
    assert texts(pipeline, ADA) == rows(db, "ada")


def test_two_processes_share_the_work(
    pipeline: Pipeline, reopened: Open, db: psycopg.Connection, wait_until: WaitUntil
) -> None:
    """Leases keep them apart, each change is as fresh as with one, and either may leave."""
    with living(reopened()) as other:
        with living(pipeline):
            wait_until(lambda: len(pipeline.workers.healthy()) == 2)
            for n in range(15):
                began = time.monotonic()
                for user in ("ada", "bob", "eve"):
                    remember(db, user, f"memory {n}")
                wait_until(lambda: pending(db) == 0)
                assert time.monotonic() - began < FRESH_SECONDS
        assert len(pipeline.workers.healthy()) == 1
        last = remember(db, "ada", "the cat sleeps on the router")
        wait_until(lambda: finds(pipeline, ADA, last, "cat router"), within=FRESH_SECONDS)
        other.stop()
    for tenant in (ADA, BOB, EVE):
        assert texts(pipeline, tenant) == rows(db, tenant)


# ---- the end


def test_after_a_stop_no_lease_is_left_and_nothing_is_lost(
    reopened: Open, db: psycopg.Connection, wait_until: WaitUntil
) -> None:
    """P1: stopped in the middle of backlogs, it gives everything back; the next one goes on."""
    slowly = threading.Event()

    def as_slow_as_a_model(_: object) -> None:
        if slowly.is_set():
            threading.Event().wait(0.2)

    embedder = CountingEmbedder(before=as_slow_as_a_model)
    pipeline = reopened(embedder, batch_size=20)
    users = [f"user {n}" for n in range(6)]
    with living(pipeline) as running:
        for user in users:
            remember(db, user)
        wait_until(lambda: pending(db) == 0)
        slowly.set()
        for user in users:
            fill(db, user, 100)
        wait_until(lambda: pending(db) < 600)
        wait_until(lambda: running.live._scheduler.running > 1)
        running.stop()
    assert pending(db) > 0
    assert one(db, "SELECT count(*) FROM memory_pipeline.tenant WHERE lease_until IS NOT NULL") == 0
    assert pipeline.workers.healthy() == []
    confirms = "SELECT count(*) FROM memory_pipeline.change WHERE confirm OR claim_token > 0"
    assert one(db, confirms) == 0  # nothing is left of unknown outcome
    with living(reopened()):
        wait_until(lambda: pending(db) == 0, within=30)
    for user in users:
        assert texts(pipeline, TenantId(user)) == rows(db, user)


def test_a_signal_may_come_at_any_moment(pipeline: Pipeline) -> None:
    """A handler runs between two steps of the loop, also where the loop holds its event's lock."""
    live = prepared(pipeline).live

    def interrupted() -> None:
        with live._wake._cond:  # type: ignore[attr-defined]  # as in Event.clear() and wait()
            live.stop()

    loop = threading.Thread(target=interrupted, daemon=True)
    loop.start()
    loop.join(3.0)
    assert not loop.is_alive()


def test_a_stop_while_a_rebuild_begins_ends_the_rebuild(
    reopened: Open,
    db: psycopg.Connection,
    wait_until: WaitUntil,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A rebuild that was made at the moment of the stop is told to end, too."""
    pipeline = reopened(rebuild_batch_size=5, rebuild_batch_size_idle=5)
    fill(db, "ada", 150)
    drained(pipeline)
    generation = live(pipeline, ADA)
    db.execute("UPDATE memory_pipeline.generation SET state = 'corrupt'")
    begun, made = threading.Event(), Pipeline.rebuild

    def rebuild_late(self: Pipeline, *, proves: bool = True) -> RebuildAll:
        begun.set()
        assert running.background._stop.wait(SECONDS)
        return made(self, proves=proves)

    monkeypatch.setattr(Pipeline, "rebuild", rebuild_late)
    running = prepared(pipeline)
    with started(running):
        assert begun.wait(SECONDS)
        running.stop()
    assert live(pipeline, ADA).id == generation.id


# ---- lineage


def test_lineage_that_fails_delays_nothing_and_hears_of_it_later(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: WaitUntil
) -> None:
    """Dagster may be down: changes are as fresh, and what was done is shown when it is back."""
    reporter = Told(failures=3)
    with living(pipeline, reporter):
        written = 0
        while reporter.raised < 3:
            memory_id = remember(db, "ada", f"memory {written}")
            written += 1
            wait_until(lambda i=memory_id: i in texts(pipeline, ADA), within=FRESH_SECONDS)
        wait_until(lambda: sum(o.written for o in reporter.outcomes) == written)
    assert {o.tenant for o in reporter.outcomes} == {ADA}
    assert sum(o.written for o in reporter.outcomes) == written


def test_a_lineage_that_never_answers_keeps_no_worker_from_ending(
    pipeline: Pipeline,
    db: psycopg.Connection,
    wait_until: WaitUntil,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A database that hangs, amid a report: changes arrive, and a stop ends the worker."""
    monkeypatch.setattr(background, "LAST_REPORT_SECONDS", 0.5)
    hangs, released = threading.Event(), threading.Event()

    class Hangs(Told):
        def report(self, outcomes: Sequence[Outcome]) -> None:
            hangs.set()
            released.wait(2 * STOP_SECONDS)
            super().report(outcomes)

    try:
        with living(pipeline, Hangs()) as running:
            remember(db, "ada", "the first")
            assert hangs.wait(SECONDS)
            memory_id = remember(db, "ada", "the second")
            wait_until(lambda: memory_id in texts(pipeline, ADA), within=FRESH_SECONDS)
            running.stop()
        assert pipeline.workers.healthy() == []
    finally:
        released.set()


def test_of_a_tenant_it_is_told_only_so_often(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: WaitUntil
) -> None:
    """Many turns are one materialization: the UI's tables do not grow with every change."""
    reporter, seldom = Told(), replace(SOON, report_tenant_seconds=3600.0)
    with living(pipeline, reporter, intervals=seldom) as running:
        remember(db, "ada", "the first")
        wait_until(lambda: len(reporter.outcomes) == 1)
        for n in range(5):
            remember(db, "ada", f"memory {n}")
            wait_until(lambda: pending(db) == 0)
        wait_until(lambda: running.live._scheduler.running == 0)
        assert len(reporter.outcomes) == 1
    first, rest = reporter.outcomes
    assert (first.written, rest.written) == (1, 5)
    assert rest.newest_change > first.newest_change


def test_before_the_end_all_of_it_is_told(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: WaitUntil
) -> None:
    """What was synced is shown, however many tenants it was, though the process ends."""
    users = [f"user {n}" for n in range(REPORT_TENANTS + 5)]
    reporter = Told()
    with living(pipeline, reporter, intervals=replace(SOON, report_seconds=3600.0)):
        for user in users:
            remember(db, user)
        wait_until(lambda: pending(db) == 0, within=20)
        assert reporter.outcomes == []
    assert {o.tenant for o in reporter.outcomes} == set(users)
