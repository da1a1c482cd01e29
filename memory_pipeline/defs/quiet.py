"""How often Dagster touches the Postgres of the memories by itself, where that one shall sleep."""

import math

from memory_pipeline.settings import Settings

SWEEP_MINUTES = 10
# Steps that divide the hour, and those that divide the day: cron begins anew with each of them.
MINUTES = (10, 12, 15, 20, 30)
HOURS = (1, 2, 3, 4, 6, 8, 12)


def at_least(seconds: int) -> int:
    """Return the interval of a sensor: these seconds, or QUIET_SECONDS where they are more."""
    return max(seconds, math.ceil(Settings.load().quiet_seconds))


def sweep_cron(quiet_seconds: float) -> str:
    """Return when the sweep runs: every ten minutes, or as rarely as QUIET_SECONDS says."""
    minutes = max(SWEEP_MINUTES, math.ceil(quiet_seconds / 60))
    for step in MINUTES:
        if step >= minutes:
            return f"*/{step} * * * *"
    hours = next((step for step in HOURS if step * 60 >= minutes), HOURS[-1])
    return f"0 */{hours} * * *"
