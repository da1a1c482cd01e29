"""When a worker that has no work may touch Postgres, by a clock that stands still."""

import pytest

from memory_pipeline.worker.quiet import Quiet
from memory_pipeline_tests.manual_clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    """Return a clock that only moves when it is moved."""
    return ManualClock()


@pytest.fixture
def quiet(clock: ManualClock) -> Quiet:
    """Return the rests of a worker: after 10 s without work, in bursts every 100 s."""
    return Quiet(seconds=100.0, after_seconds=10.0, clock=clock)


def rested(quiet: Quiet, clock: ManualClock) -> None:
    """Begin a rest."""
    clock.sleep(10.0)
    assert quiet.is_due()
    quiet.rest(quiet.idle_seconds())
    assert quiet.rests


def test_without_the_setting_it_never_rests(clock: ManualClock) -> None:
    """The default: every task runs as often as it likes."""
    quiet = Quiet(clock=clock)
    clock.sleep(1e6)
    assert not quiet.is_due()
    assert quiet.may_touch("poll")
    assert quiet.seconds_until_touch("poll") == 0.0


def test_it_rests_after_a_while_without_work(quiet: Quiet, clock: ManualClock) -> None:
    """Work begins the time anew."""
    clock.sleep(9.0)
    quiet.work()
    clock.sleep(9.0)
    assert not quiet.is_due()
    assert quiet.may_touch("poll")
    clock.sleep(1.0)
    assert quiet.is_due()
    assert not quiet.rests


def test_work_that_comes_while_a_rest_begins_ends_it(quiet: Quiet, clock: ManualClock) -> None:
    """Between the decision and the rest there are requests to Postgres and Chroma."""
    clock.sleep(10.0)
    idle = quiet.idle_seconds()
    clock.sleep(1.0)
    quiet.work()
    clock.sleep(1.0)
    quiet.rest(idle)
    assert not quiet.rests


def test_in_a_rest_each_task_runs_once_in_each_burst(quiet: Quiet, clock: ManualClock) -> None:
    """All at the same time, however late one of them is."""
    rested(quiet, clock)
    assert not quiet.may_touch("poll")
    assert quiet.seconds_until_touch("poll") == 100.0
    clock.sleep(99.0)
    assert not quiet.may_touch("poll")
    clock.sleep(1.0)
    assert quiet.seconds_until_touch("poll") == 0.0
    assert quiet.may_touch("poll")
    assert not quiet.may_touch("poll")
    clock.sleep(5.0)
    assert quiet.may_touch("heartbeat")  # later in the same burst
    assert quiet.seconds_until_touch("heartbeat") == 95.0
    clock.sleep(95.0)
    assert quiet.may_touch("heartbeat")
    assert quiet.may_touch("poll")


def test_a_task_that_missed_bursts_does_not_catch_up(quiet: Quiet, clock: ManualClock) -> None:
    """A machine that was suspended touches Postgres once when it is back."""
    rested(quiet, clock)
    clock.sleep(1234.0)
    assert quiet.may_touch("poll")
    assert not quiet.may_touch("poll")
    assert quiet.seconds_until_touch("poll") == pytest.approx(66.0)


def test_work_ends_a_rest_at_once_and_says_so(quiet: Quiet, clock: ManualClock) -> None:
    """Once: while there is work nothing has to be woken."""
    ended: list[float] = []
    quiet.watch(lambda: ended.append(clock.now))
    rested(quiet, clock)
    clock.sleep(50.0)
    quiet.work()
    quiet.work()
    assert ended == [clock.now]
    assert quiet.may_touch("poll")
    assert quiet.may_touch("poll")
    rested(quiet, clock)  # the bursts are counted anew
    assert quiet.seconds_until_touch("poll") == 100.0


def test_a_database_that_is_waking_up_is_tried_again(quiet: Quiet, clock: ManualClock) -> None:
    """Its first answer may take longer than a connection waits."""
    rested(quiet, clock)
    clock.sleep(101.0)
    assert quiet.may_touch("poll")
    quiet.missed("poll")
    assert quiet.seconds_until_touch("poll") == 0.0
    assert quiet.may_touch("poll")
    assert not quiet.may_touch("poll")
    quiet.missed("heartbeat")  # that has not run
    assert quiet.may_touch("heartbeat")
    assert not quiet.may_touch("heartbeat")
