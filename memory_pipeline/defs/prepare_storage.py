"""Prepares Dagster's storage once, before its daemon and webserver start; run as a program.

Two processes that create the tables at the same time collide, and one of them ends. Without
arguments the program creates or upgrades the tables and forgets ticks that lie in the future; with
``--fail-unfinished`` it also fails the unfinished runs of a stack that was killed.
"""

import sys
import time

import dagster as dg
from dagster._core.scheduler.instigation import SensorInstigatorData

from memory_pipeline.defs.instances import open_instance

HAS_PROCESS = [
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def prepare(*, fail_unfinished: bool) -> None:
    """Create or upgrade the tables of the instance in DAGSTER_HOME.

    The default launcher does not detect that a run's process is gone once its code server is gone
    too: such a run would hold its slot for hours, and the sensor would wait for it. With
    ``fail_unfinished`` the caller guarantees that no run's process is alive, and every unfinished
    run is failed; the changes that it should have synced are still pending.
    """
    # The code server may open the instance, and create the tables, at the same moment.
    with open_instance() as instance:
        instance.upgrade()
        forget_future_ticks(instance)
        if fail_unfinished:
            for run in instance.get_runs(dg.RunsFilter(statuses=HAS_PROCESS)):
                instance.report_run_failed(run, "The services were stopped while it ran.")


def forget_future_ticks(instance: dg.DagsterInstance) -> None:
    """Let every sensor tick that would wait for a moment which the clock was set back from.

    Dagster ticks a sensor no sooner than its interval after the last tick, by the wall clock: after
    a step of an hour it would not be asked for an hour. Its cursor stays as it is.
    """
    now = time.time()
    for state in instance.all_instigator_state():
        ticks = state.instigator_data
        if isinstance(ticks, SensorInstigatorData) and now < max(
            ticks.last_tick_timestamp or 0.0, ticks.last_tick_start_timestamp or 0.0
        ):
            forgotten = ticks._replace(last_tick_timestamp=None, last_tick_start_timestamp=None)
            instance.update_instigator_state(state.with_data(forgotten))


if __name__ == "__main__":
    prepare(fail_unfinished="--fail-unfinished" in sys.argv[1:])
