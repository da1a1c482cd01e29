"""Prepares Dagster's storage once, before its daemon and webserver start; run as a program.

Two processes that make the tables at the same time collide, and one of them ends. Run without
arguments it makes or upgrades the tables; with ``--fail-unfinished`` it also closes the runs of a
stack that was killed. Nothing imports it.
"""

import sys

import dagster as dg
from sqlalchemy.exc import IntegrityError, ProgrammingError

# The code server may open the instance at the same moment, and makes the tables, too.
COLLISIONS = 3

HAS_WORKER = [
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def prepare(*, fail_unfinished: bool) -> None:
    """Make or upgrade the tables of the instance in DAGSTER_HOME.

    The default launcher never notices that a worker is gone once its code server is gone too: such
    a run would hold its slot for hours, and the sensor would wait for it. So the caller says that
    no worker is alive, and every run under way is failed; the changes it was to sync still wait.
    """
    with _opened() as instance:
        instance.upgrade()
        if fail_unfinished:
            for run in instance.get_runs(dg.RunsFilter(statuses=HAS_WORKER)):
                instance.report_run_failed(run, "The services were stopped while it ran.")


def _opened() -> dg.DagsterInstance:
    """Open the instance; where another makes a table first, it is there the next time."""
    for left in reversed(range(COLLISIONS)):
        try:
            return dg.DagsterInstance.get()
        except (ProgrammingError, IntegrityError):
            if not left:
                raise
    raise AssertionError


if __name__ == "__main__":
    prepare(fail_unfinished="--fail-unfinished" in sys.argv[1:])
