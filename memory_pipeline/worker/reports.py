"""Which synced tenants Dagster is told of, and when: coalesced, capped in rate, kept until told.

Dagster is for people to look at. Nothing here delays a sync, and what fails here is shown by
`status` and by the metrics.
"""

import math
import threading
from dataclasses import dataclass, field

from memory_pipeline.clock import Clock
from memory_pipeline.domain.outcomes import Outcome
from memory_pipeline.domain.status import FailingReports
from memory_pipeline.domain.types import TenantId
from memory_pipeline.errors import ReportFailed
from memory_pipeline.logs import get_logger
from memory_pipeline.worker.ports import Meter, Reporter

log = get_logger("memory_pipeline.worker.reports")

REPORT_TENANTS = 25  # in one report; the others follow in the next
# A report of so many tenants takes seconds. Nothing limits a request to Dagster's storage, so one
# that is never answered has to be noticed from outside.
SLOW_SECONDS = 120.0


@dataclass(eq=False, kw_only=True)
class Reports:
    """The outcomes of one worker that are to be reported. Outcomes are added by any thread.

    An outcome waits here until its tenant is due, together with those that follow it. The reporter
    keeps what it could not tell; outcomes of such a tenant wait here until it could.

    Attributes:
        reporter: Dagster, or none.
        metrics: the figures for Prometheus.
        tenant_seconds: one tenant is reported no more often.
        retry_seconds: after a failure, nothing is reported for so long.
        clock: measures both.

    """

    reporter: Reporter
    metrics: Meter
    tenant_seconds: float
    retry_seconds: float
    clock: Clock
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)
    _unreported: dict[TenantId, Outcome] = field(init=False, default_factory=dict)
    _reported_at: dict[TenantId, float] = field(init=False, default_factory=dict)
    _retry_at: float = field(init=False, default=-math.inf)
    _failing: FailingReports | None = field(init=False, default=None)
    _began: float | None = field(init=False, default=None)

    @property
    def failing(self) -> FailingReports | None:
        """What cannot be reported: the last report failed, or the current one does not end."""
        began, now = self._began, self.clock.monotonic()
        if began is None or now - began < SLOW_SECONDS:
            return self._failing
        return FailingReports(
            len(self.reporter.waiting),
            f"a report has not ended for {now - began:.0f} s: Dagster's database hangs; see "
            "pg_stat_activity there for what it waits for",
        )

    @property
    def any_left(self) -> bool:
        """Whether a synced tenant is not reported yet."""
        with self._lock:
            return bool(self._unreported or self.reporter.waiting)

    def add(self, outcome: Outcome) -> None:
        """Report a synced tenant when it is due."""
        with self._lock:
            before = self._unreported.get(outcome.tenant)
            self._unreported[outcome.tenant] = before.plus(outcome) if before else outcome

    def tell(self) -> None:
        """Report the tenants that are due, and those whose report failed.

        Raises PostgresUnavailable; then they wait for the next call.
        """
        now = self.clock.monotonic()
        if now < self._retry_at:
            return
        due = self._due(now)
        if due or self.reporter.waiting:
            self._tell(due)

    def tell_everything(self) -> None:
        """Report all that waits, once: the worker ends. Raises PostgresUnavailable."""
        # Outcomes of a tenant whose report waits follow in the second round.
        while self._unreported or self.reporter.waiting:
            with self._lock:
                waiting = self.reporter.waiting
                rest = [o for o in self._unreported.values() if o.tenant not in waiting]
                self._unreported = {t: o for t, o in self._unreported.items() if t in waiting}
            if not self._tell(rest):
                return

    def _tell(self, outcomes: list[Outcome]) -> bool:
        """Report; return whether nothing is left waiting."""
        self._began = self.clock.monotonic()
        try:
            self.reporter.report(outcomes)
            self._failing = None
        except ReportFailed as error:
            self._retry_at = self.clock.monotonic() + self.retry_seconds
            self._failing = FailingReports(len(self.reporter.waiting), str(error))
            self.metrics.count_failed_report()
            log.warning(
                "dagster_report_failed",
                tenants=self._failing.tenants,
                reason=self._failing.reason,
                next="syncing continues; the worker reports them later, as long as it runs",
            )
        finally:
            self._began = None
        return self._failing is None

    def _due(self, now: float) -> list[Outcome]:
        """Take the outcomes of the tenants whose last report is old enough."""
        with self._lock:
            waiting = self.reporter.waiting
            due = [
                tenant
                for tenant in self._unreported
                if tenant not in waiting
                and now - self._reported_at.get(tenant, -math.inf) >= self.tenant_seconds
            ][:REPORT_TENANTS]
            self._reported_at |= dict.fromkeys(due, now)
            return [self._unreported.pop(tenant) for tenant in due]
