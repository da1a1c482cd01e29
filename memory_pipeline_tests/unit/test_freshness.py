"""The lags of the last quarter of an hour: counted, dropped, and read by any thread."""

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_pipeline.domain.lags import WINDOW_SECONDS, Lags, lags_of
from memory_pipeline.domain.types import TenantId
from memory_pipeline.sync.freshness import LAGS_A_TENANT, LAGS_IN_ALL, Freshness

ADA, BOB = TenantId("ada"), TenantId("bob")


class Clock:
    """The clock that Freshness reads; it stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 5_000.0

    def monotonic(self) -> float:
        """Return the time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let this much time pass."""
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    """Return a clock that stands still."""
    return Clock()


def counted(found: dict[TenantId | None, Lags]) -> dict[TenantId | None, int]:
    """Return the number of lags of each tenant, and of all."""
    return {tenant: lags.changes for tenant, lags in found.items()}


# ---- quantiles


def test_lags_are_summed_up() -> None:
    """Half of the changes were as fast as p50, 19 of 20 as p95, 99 of 100 as p99."""
    lags = lags_of([n / 100 for n in range(101)])
    assert lags is not None
    assert lags.changes == 101
    assert (lags.p50, lags.p95, lags.p99, lags.slowest) == pytest.approx((0.5, 0.95, 0.99, 1.0))


def test_one_lag_is_all_of_them() -> None:
    """A tenant with one change has figures too; one without any has none."""
    assert lags_of([0.25]) == Lags(1, 0.25, 0.25, 0.25, 0.25)
    assert lags_of([]) is None


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200))
def test_quantiles_are_the_usual_ones(seconds: list[float]) -> None:
    """Between the fastest and the slowest, in order, and the same as numpy's."""
    lags = lags_of(seconds)
    assert lags is not None
    assert lags.changes == len(seconds)
    quantiles = (lags.p50, lags.p95, lags.p99, lags.slowest)
    assert quantiles == pytest.approx(np.percentile(seconds, [50, 95, 99, 100]).tolist())


# ---- windows


def test_only_the_last_quarter_of_an_hour_counts(clock: Clock) -> None:
    """An old lag says nothing about now: neither of its tenant nor of all."""
    fresh = Freshness(clock)
    fresh.record(ADA, [9.0])
    fresh.record(BOB, [9.0])
    clock.now += WINDOW_SECONDS - 1
    fresh.record(ADA, [0.1])
    assert counted(fresh.unreported()) == {ADA: 2, BOB: 1, None: 3}
    clock.now += 2
    fresh.record(ADA, [0.2])
    reported = fresh.unreported()
    assert counted(reported) == {ADA: 2, None: 2}
    assert reported[ADA].slowest == reported[None].slowest == 0.2
    clock.now += WINDOW_SECONDS + 1
    assert fresh.unreported() == {}
    fresh.record(BOB, [0.3])
    assert counted(fresh.unreported()) == {BOB: 1, None: 1}


def test_old_lags_are_not_reported(clock: Clock) -> None:
    """Figures of the past are no figures of now."""
    fresh = Freshness(clock)
    fresh.record(ADA, [9.0])
    clock.now += WINDOW_SECONDS + 1
    assert fresh.unreported() == {}


def test_a_tenant_is_reported_again_only_with_new_lags(clock: Clock) -> None:
    """Postgres is not written for nothing; a new lag is reported with the older ones."""
    fresh = Freshness(clock)
    fresh.record(ADA, [0.1, 0.2])
    fresh.record(BOB, [0.3])
    assert counted(fresh.unreported()) == {ADA: 2, BOB: 1, None: 3}
    assert fresh.unreported() == {}
    fresh.record(BOB, [0.4])
    assert counted(fresh.unreported()) == {BOB: 2, None: 4}


def test_a_batch_without_lags_is_nothing_new(clock: Clock) -> None:
    """Confirms and resets measure nothing."""
    fresh = Freshness(clock)
    fresh.record(ADA, [])
    assert fresh.unreported() == {}


def test_every_lag_reaches_the_watcher(clock: Clock) -> None:
    """The histogram counts them all, however long they are kept here."""
    fresh, seen = Freshness(clock), list[float]()
    fresh.record(ADA, [9.0])
    fresh.watch(seen.append)
    fresh.record(ADA, [0.1, 0.2])
    fresh.record(BOB, [0.3])
    assert seen == [0.1, 0.2, 0.3]


# ---- memory


def test_a_busy_tenant_takes_no_more_memory_than_its_share(clock: Clock) -> None:
    """Of many lags the newest count, of one tenant and of all."""
    fresh = Freshness(clock)
    fresh.record(ADA, [5.0] * LAGS_IN_ALL)
    fresh.record(ADA, [0.1] * LAGS_A_TENANT)
    assert len(fresh._tenants[ADA]) == LAGS_A_TENANT
    assert len(fresh._all) == LAGS_IN_ALL
    reported = fresh.unreported()
    assert counted(reported) == {ADA: LAGS_A_TENANT, None: LAGS_IN_ALL}
    assert (reported[ADA].slowest, reported[None].slowest) == (0.1, 5.0)


def test_quiet_tenants_are_dropped(clock: Clock) -> None:
    """A process that runs for months keeps nothing of a tenant that wrote once."""
    fresh = Freshness(clock)
    for n in range(1_000):
        fresh.record(TenantId(f"passer-by {n}"), [0.1])
    fresh.unreported()
    assert len(fresh._tenants) == 1_000
    clock.now += WINDOW_SECONDS + 1
    fresh.record(ADA, [0.1])
    fresh.unreported()
    assert set(fresh._tenants) == {ADA}
    assert not fresh._unreported


# ---- threads


class Interrupted(list[float]):
    """Lags that stop before the last one, for a test to act in between."""

    def __init__(self, lags: list[float]) -> None:
        super().__init__(lags)
        self.reached, self.go_on = threading.Event(), threading.Event()

    def __iter__(self) -> Iterator[float]:
        """Stop before the last one."""
        yield from self[:-1]
        self.reached.set()
        assert self.go_on.wait(5.0)
        yield self[-1]


def test_a_report_in_the_middle_of_a_batch_has_all_of_it(clock: Clock) -> None:
    """A batch is recorded whole or not at all: a report waits for its end."""
    fresh, lags = Freshness(clock), Interrupted([0.1, 0.2, 0.3])
    with ThreadPoolExecutor(2) as threads:
        noted = threads.submit(fresh.record, ADA, lags)
        assert lags.reached.wait(5.0)
        asked = threads.submit(fresh.unreported)
        with pytest.raises(TimeoutError):
            asked.result(timeout=0.05)
        lags.go_on.set()
        noted.result()
        assert counted(asked.result()) == {ADA: 3, None: 3}


@pytest.fixture
def hasty() -> Iterator[None]:
    """Switch threads as often as Python can, so that races show."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_people_read_milliseconds() -> None:
    """Status and the UI show milliseconds."""
    shown = Lags(3, 0.0456, 0.1, 0.25, 1.0).milliseconds()
    assert shown == {"p50": 45.6, "p95": 100.0, "p99": 250.0, "max": 1000.0}


def test_any_thread_may_record_and_report(hasty: None, clock: Clock) -> None:
    """Turns record while the heartbeat reports: no lag is reported twice or never."""
    fresh, over = Freshness(clock), threading.Event()
    tenants = [TenantId(f"t{n}") for n in range(8)]
    reported: list[TenantId | None] = []

    def note(tenant: TenantId) -> None:
        for _ in range(300):
            fresh.record(tenant, [0.1, 0.2])

    def ask() -> None:
        while not over.is_set():
            reported.extend(fresh.unreported())

    with ThreadPoolExecutor(9) as threads:
        asked = threads.submit(ask)
        for noted in [threads.submit(note, tenant) for tenant in tenants]:
            noted.result()
        over.set()
        asked.result()
    reported.extend(fresh.unreported())
    assert set(reported) == {*tenants, None}
    assert {len(lags) for lags in fresh._tenants.values()} == {LAGS_A_TENANT}
    assert len(fresh._all) == LAGS_IN_ALL
    assert fresh.unreported() == {}
