"""Prepares Dagster's storage once, before its daemon and webserver start; run as a program.

Two processes that create the tables at the same time collide, and one of them ends. Without
arguments the program creates or upgrades the tables; with ``--fail-unfinished`` it also fails the
unfinished runs of a stack that was killed. No module imports it.
"""

import sys

import dagster as dg

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
        if fail_unfinished:
            for run in instance.get_runs(dg.RunsFilter(statuses=HAS_PROCESS)):
                instance.report_run_failed(run, "The services were stopped while it ran.")


if __name__ == "__main__":
    prepare(fail_unfinished="--fail-unfinished" in sys.argv[1:])
