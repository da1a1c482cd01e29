"""Postgres' clock is set back by an hour: what was to end in seconds ends in seconds.

A step is a move of every time that is written, in the other direction.
"""

from collections.abc import Callable
from dataclasses import replace

import psycopg
import pytest

from memory_pipeline.domain.types import RebuildId
from memory_pipeline.errors import Fenced
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.postgres.clock_steps import ClockSteps
from memory_pipeline.postgres.outbox import PostgresOutbox
from memory_pipeline.postgres.rebuilds import PostgresRebuilds
from memory_pipeline.settings import Settings
from memory_pipeline_tests.manual_clock import ManualClock
from memory_pipeline_tests.words import ADA, count_of, drained, drained_due, held, one, remember

HOUR = 3600.0
WRITTEN = {
    "tenant": ("lease_until", "retry_at", "last_synced_at"),
    "change": ("changed_at", "not_before"),
    "rebuild": ("owned_until",),
    "worker": ("heartbeat_at",),
    "epoch": ("begun_at",),
}
WaitUntil = Callable[..., None]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Return settings under which everything ends within two seconds."""
    times = {"lease_seconds": 1.5, "request_seconds": 0.5, "grace_seconds": 0.5}
    return settings.model_copy(update=times)


def set_back(db: psycopg.Connection, seconds: float = HOUR) -> None:
    """Move every time that is written into the future, as seen by a clock that was set back."""
    for table, columns in WRITTEN.items():
        for column in columns:
            db.execute(
                f"UPDATE memory_pipeline.{table}"
                f" SET {column} = {column} + make_interval(secs => %s)".encode(),
                (seconds,),
            )


def another(pipeline: Pipeline) -> PostgresOutbox:
    """Return the outbox of a process that starts now."""
    return PostgresOutbox(pipeline.database, pipeline.settings)


def test_the_tenant_of_a_dead_worker_is_synced(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: WaitUntil
) -> None:
    """P2. What broke: the lease of a worker that had died ended an hour later."""
    memory = remember(db)
    drained(pipeline)
    second = remember(db)
    lease = pipeline.outbox.acquire_lease(ADA)
    assert lease is not None
    assert pipeline.outbox.claim(lease).memory_ids == (second,)
    set_back(db)
    worker = replace(pipeline, outbox=another(pipeline))
    wait_until(lambda: drained_due(worker) and held(pipeline) == {memory, second}, within=10.0)
    wait_until(lambda: drained_due(worker) is not None and count_of(db, "change") == 0, within=10.0)


def test_a_living_holder_keeps_its_lease(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """It renews the lease, whose end is near again; nobody takes the tenant over meanwhile."""
    remember(db)
    pipeline.registry.register(ADA)
    lease = pipeline.outbox.acquire_lease(ADA)
    assert lease is not None
    set_back(db)
    other = another(pipeline)
    other.pending_tenants()
    assert other.acquire_lease(ADA) is None
    lease.renew()
    left = "SELECT extract(epoch FROM lease_until - clock_timestamp()) FROM memory_pipeline.tenant"
    assert 0 < one(db, left) <= 1.5


def test_a_confirm_waits_anew_and_no_shorter(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """P1: the request that it waits for may still arrive, however the clock was set."""
    remember(db)
    pipeline.registry.register(ADA)
    for _ in range(2):  # the second claim schedules a confirm
        lease = pipeline.outbox.acquire_lease(ADA)
        assert lease is not None
        pipeline.outbox.claim(lease)
        db.execute("UPDATE memory_pipeline.tenant SET lease_until = clock_timestamp()")
    set_back(db)
    began = one(db, "SELECT clock_timestamp()")
    another(pipeline).pending_tenants()
    due = one(db, "SELECT not_before FROM memory_pipeline.change WHERE confirm")
    least = pipeline.settings.request_seconds + pipeline.settings.grace_seconds
    assert least <= (due - began).total_seconds() < 10.0


def test_a_tenant_that_backs_off_is_tried_again(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: WaitUntil
) -> None:
    """After its usual pause, not an hour later."""
    memory = remember(db)
    pipeline.registry.register(ADA)
    lease = pipeline.outbox.acquire_lease(ADA)
    assert lease is not None
    pipeline.outbox.release_lease(lease, error="an outage")
    set_back(db)
    worker = replace(pipeline, outbox=another(pipeline))
    wait_until(lambda: drained_due(worker) and held(pipeline) == {memory}, within=10.0)


def test_the_rebuild_of_a_dead_process_is_taken_over(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: WaitUntil
) -> None:
    """P7: once its last request has arrived or timed out."""
    remember(db)
    pipeline.registry.register(ADA)
    rebuild = RebuildId("r")
    pipeline.rebuilds.request(rebuild, [ADA], re_embed=False)
    dead = pipeline.rebuilds.acquire_part(rebuild, ADA)
    assert dead is not None
    set_back(db)
    other = PostgresRebuilds(pipeline.database, pipeline.settings)
    assert other.acquire_part(rebuild, ADA) is None
    wait_until(lambda: other.acquire_part(rebuild, ADA) is not None, within=10.0)
    with pytest.raises(Fenced):
        pipeline.rebuilds.renew_part(dead)


def test_a_dead_worker_is_not_healthy(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """What broke: for an hour Dagster's sensor left every change to a worker that had died."""
    pipeline.workers.heartbeat()
    assert len(pipeline.workers.healthy()) == 1
    set_back(db)
    assert pipeline.workers.healthy() == []
    pipeline.workers.heartbeat()
    assert len(pipeline.workers.healthy()) == 1


def test_a_change_grows_older(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """What broke: it was minus an hour old, too young for Dagster's sensor and for an alert."""
    remember(db)
    set_back(db)
    assert pipeline.workers.backlog().oldest_seconds == 0.0
    (waiting,) = another(pipeline).pending_tenants()
    assert 0.0 <= waiting.waits_seconds < HOUR
    assert one(db, "SELECT bool_and(changed_at < clock_timestamp()) FROM memory_pipeline.change")


def test_epochs_go_on(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """Without a new one, nobody notices that Postgres went back to the hour before."""
    pipeline.epochs.rotate(seconds=0.0)
    assert pipeline.epochs.rotate(seconds=30.0) is None
    set_back(db)
    assert pipeline.epochs.rotate(seconds=30.0) is not None


def test_what_another_process_has_just_written_is_left_alone(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """Its settings may allow a lease of ten minutes, which is no step of the clock."""
    slow = pipeline.settings.model_copy(update={"lease_seconds": 600.0})
    pipeline.registry.register(ADA)
    assert PostgresOutbox(pipeline.database, slow).acquire_lease(ADA) is not None
    until = "SELECT lease_until FROM memory_pipeline.tenant"
    before = one(db, until)
    another(pipeline).pending_tenants()
    assert one(db, until) == before


def test_a_step_is_noticed_by_a_process_that_runs_already(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """It compares Postgres' clock with its own monotonic one; without a step it changes nothing."""
    pipeline.registry.register(ADA)
    clock = ManualClock()
    steps = ClockSteps(pipeline.database, pipeline.settings, clock)
    steps.shorten_waits()
    assert pipeline.outbox.acquire_lease(ADA) is not None
    set_back(db)
    far = (
        "SELECT lease_until > clock_timestamp() + interval '10 minutes' FROM memory_pipeline.tenant"
    )
    steps.shorten_waits()
    assert one(db, far)
    clock.now += HOUR
    steps.shorten_waits()
    assert not one(db, far)


def test_a_worker_that_is_frozen_in_a_transaction_blocks_nobody(
    pipeline: Pipeline, db: psycopg.Connection, database_url: str
) -> None:
    """P2: its rows are shortened by the next process; all others now."""
    pipeline.registry.register(ADA)
    assert pipeline.outbox.acquire_lease(ADA) is not None
    set_back(db)
    with psycopg.connect(database_url) as frozen:
        frozen.execute("SELECT FROM memory_pipeline.tenant FOR NO KEY UPDATE")
        assert another(pipeline).pending_tenants() == []
        frozen.rollback()
