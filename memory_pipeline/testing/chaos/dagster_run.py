"""Run a Dagster job once in this process, over every tenant, on an instance that ends with it.

    python -m memory_pipeline.testing.chaos.dagster_run incremental_sync

It needs neither daemon nor storage, and leaves nothing in the UI.
"""

import sys

import dagster as dg

from memory_pipeline.definitions import defs
from memory_pipeline.defs.run_requests import RANGE_END, RANGE_START
from memory_pipeline.local.discovery import discover
from memory_pipeline.pipeline import opened
from memory_pipeline.settings import Settings


def run_once(job: str) -> bool:
    """Run a job; return whether it succeeded, as it does where there is no tenant."""
    with opened(discover(Settings.load())) as pipeline:
        keys = sorted(pipeline.registry.keys().values())
    if not keys:
        return True
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("tenants", keys)
        result = defs.resolve_job_def(job).execute_in_process(
            instance=instance,
            tags={RANGE_START: keys[0], RANGE_END: keys[-1]},
            raise_on_error=False,
        )
        return bool(result.success)


def main() -> None:
    """Run the job that the command line names; exit code 1: it failed."""
    sys.exit(0 if run_once(sys.argv[1]) else 1)


if __name__ == "__main__":
    main()
