"""Which outcomes Dagster is told of, and when, while it answers and while it does not."""

from collections.abc import Sequence

from memory_pipeline.domain.outcomes import Outcome
from memory_pipeline.domain.status import FailingReports
from memory_pipeline.domain.types import TenantId
from memory_pipeline.sync.freshness import Freshness
from memory_pipeline.worker.metrics import Metrics
from memory_pipeline.worker.reports import REPORT_TENANTS, SLOW_SECONDS, Reports
from memory_pipeline_tests.integration.worker.words import Told
from memory_pipeline_tests.manual_clock import ManualClock

ADA, BEN = TenantId("ada"), TenantId("ben")
PAUSE, RETRY = 60.0, 30.0


def reports(told: Told, clock: ManualClock) -> Reports:
    """Return the queue of a worker whose clock a test moves."""
    return Reports(
        reporter=told,
        metrics=Metrics(Freshness()),
        tenant_seconds=PAUSE,
        retry_seconds=RETRY,
        clock=clock,
    )


def after(clock: ManualClock, seconds: float, queue: Reports) -> None:
    """Let time pass, and report what is due then."""
    clock.now += seconds
    queue.tell()


def test_what_follows_within_the_pause_is_one_report() -> None:
    """Of a busy tenant: the first sync at once, those that follow together."""
    told, clock = Told(), ManualClock()
    queue = reports(told, clock)
    for number in range(1, 4):
        queue.add(Outcome(ADA, written=1, newest_change=number))
        after(clock, 1, queue)
    after(clock, PAUSE, queue)
    assert [(o.written, o.newest_change) for o in told.outcomes] == [(1, 1), (2, 3)]


def test_many_tenants_are_told_in_several_reports() -> None:
    """One report takes seconds, and at most so many tenants."""
    told, clock = Told(), ManualClock()
    queue = reports(told, clock)
    for number in range(REPORT_TENANTS + 1):
        queue.add(Outcome(TenantId(f"user {number}"), newest_change=1))
    queue.tell()
    assert len(told.outcomes) == REPORT_TENANTS
    queue.tell()
    assert len(told.outcomes) == REPORT_TENANTS + 1


def test_a_failure_is_known_and_repeated_after_a_pause_until_it_is_told() -> None:
    """The reporter keeps what it could not tell; what follows is never mixed into it."""
    told, clock = Told(failures=2), ManualClock()
    queue = reports(told, clock)
    queue.add(Outcome(ADA, written=1, newest_change=1))
    queue.tell()
    assert queue.failing == FailingReports(1, "nobody is there to be told")
    queue.add(Outcome(ADA, written=1, newest_change=2))
    queue.add(Outcome(BEN, written=1, newest_change=3))
    after(clock, RETRY - 1, queue)
    assert told.raised == 1
    after(clock, 1, queue)
    assert queue.failing == FailingReports(2, "nobody is there to be told")
    after(clock, RETRY, queue)
    assert queue.failing is None
    assert [(o.tenant, o.newest_change) for o in told.outcomes] == [(ADA, 1), (BEN, 3)]
    after(clock, PAUSE, queue)
    assert [(o.tenant, o.newest_change) for o in told.outcomes][2:] == [(ADA, 2)]


def test_the_end_of_the_worker_tells_all_of_it_also_what_follows_a_failure() -> None:
    """No pause holds then: neither a tenant's nor that after a failure."""
    told, clock = Told(failures=1), ManualClock()
    queue = reports(told, clock)
    queue.add(Outcome(ADA, written=1, newest_change=1))
    queue.tell()
    queue.add(Outcome(ADA, written=1, newest_change=2))
    queue.add(Outcome(BEN, written=1, newest_change=3))
    queue.tell_everything()
    assert {(o.tenant, o.newest_change) for o in told.outcomes} == {(ADA, 1), (ADA, 2), (BEN, 3)}


def test_a_dagster_that_is_down_does_not_keep_the_worker_from_ending() -> None:
    """One attempt, whatever waits."""
    told = Told(failures=100)
    queue = reports(told, ManualClock())
    for tenant in (ADA, BEN):
        queue.add(Outcome(tenant, newest_change=1))
    queue.tell_everything()
    assert told.raised == 1
    assert queue.failing is not None


def test_a_report_that_is_never_answered_is_known_while_it_hangs() -> None:
    """Nothing has failed then, and nothing else would say so."""
    clock = ManualClock()
    seen: list[FailingReports | None] = []

    class Hangs(Told):
        def report(self, outcomes: Sequence[Outcome]) -> None:
            seen.append(queue.failing)
            clock.now += SLOW_SECONDS
            self.kept |= {o.tenant: o for o in outcomes}
            seen.append(queue.failing)
            super().report([])

    queue = reports(Hangs(), clock)
    queue.add(Outcome(ADA, newest_change=1))
    queue.tell()
    before, hanging = seen
    assert before is None
    assert hanging is not None
    assert hanging.tenants == 1
    assert "has not ended for 120 s" in hanging.reason
    assert queue.failing is None
