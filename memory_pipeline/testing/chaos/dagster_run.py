"""Run a Dagster job once in this process, over every tenant, on an instance that ends with it.

    python -m memory_pipeline.testing.chaos.dagster_run incremental_sync

It needs neither daemon nor storage, and leaves nothing in the UI.
"""

import sys

from memory_pipeline.definitions import defs
from memory_pipeline.defs.in_process import run_in_process
from memory_pipeline.local.discovery import discover
from memory_pipeline.pipeline import opened
from memory_pipeline.settings import Settings


def run_once(job: str) -> bool:
    """Run a job; return whether it succeeded, as it does where there is no tenant."""
    with opened(discover(Settings.load())) as pipeline:
        keys = sorted(pipeline.registry.keys().values())
    return not keys or run_in_process(defs, job, keys)


def main() -> None:
    """Run the job that the command line names; exit code 1: it failed."""
    sys.exit(0 if run_once(sys.argv[1]) else 1)


if __name__ == "__main__":
    main()
