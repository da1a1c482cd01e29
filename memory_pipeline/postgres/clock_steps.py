"""Postgres' clock may be set back: then what was to end in seconds would end after the step.

Leases, back-offs, confirms and the ownership of rebuild parts end at a time by that clock. Set
forward, it ends them early: a lease that is lost early is a takeover like any other, and the
confirm of the next claim covers it. Set back by an hour, it would leave the tenants of a worker
that has died meanwhile to nobody for an hour.

Nothing that a process writes by the present clock ends later than ``TOO_FAR_SECONDS`` from now.
What does was written before the step, and gets as much time as it would get now. Never less: a
confirm whose request may still arrive waits anew, and a living holder of a lease renews it as
before.
"""

from memory_pipeline.clock import SYSTEM_CLOCK, Clock, StepWatch
from memory_pipeline.logs import get_logger
from memory_pipeline.postgres.database import Database, queries
from memory_pipeline.settings import Settings

# The longest lease that a setting allows. Processes of an installation may differ in their
# settings: none may shorten what another has just written.
TOO_FAR_SECONDS = 600.0
# The clocks of two machines drift apart by less than this between two calls.
STEP_SECONDS = 1.0
# A back-off is up to a quarter longer than the setting.
JITTER = 1.25

log = get_logger("memory_pipeline.postgres.clock_steps")


class ClockSteps:
    """Notices that Postgres' clock was set back, and ends waits for a time that is far away now."""

    def __init__(self, database: Database, settings: Settings, clock: Clock = SYSTEM_CLOCK) -> None:
        self._database = database
        self._lease_seconds = settings.lease_seconds
        self._wait_seconds = max(
            settings.lease_seconds,
            settings.request_seconds + settings.grace_seconds,
            settings.retry_max_seconds * JITTER,
        )
        self._watch = StepWatch(STEP_SECONDS, clock)
        self._is_first = True

    def shorten_waits(self) -> None:
        """Shorten what ends too late, if the clock was set back since the last call.

        The first call does so in any case: the step may have been before this process.
        """
        with self._database.transaction() as connection:
            stepped = self._watch.set_back(lambda: float(queries().postgres_time(connection)))
            if not (stepped or self._is_first):
                return
            far = max(TOO_FAR_SECONDS, self._wait_seconds)
            waits = {"wait_seconds": self._wait_seconds, "too_far_seconds": far}
            shortened = {
                "leases": queries().shorten_leases(
                    connection, lease_seconds=self._lease_seconds, too_far_seconds=TOO_FAR_SECONDS
                ),
                "pauses": queries().shorten_pauses(connection, **waits),
                "rebuilds": queries().shorten_ownerships(connection, **waits),
                "changes": queries().shorten_waits(connection, **waits),
            }
        self._is_first = False
        if stepped or any(shortened.values()):
            log.info("clock_step_noticed", **shortened)
