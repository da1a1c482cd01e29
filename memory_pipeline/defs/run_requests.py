"""Which runs to ask for, given who has changes and what is under way. Pure; no cursor, no run keys.

What is dirty is asked of Postgres at every tick, so nothing can be forgotten by a tick that failed.
"""

from collections.abc import Collection, Sequence

import dagster as dg

from memory_pipeline.defs.partitions import SCOPE_PENDING, SCOPE_TAG

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"
TENANTS_A_RUN = 200
# A run notes each of its checks for each tenant before it begins, and each note names every tenant
# of the run: the square of this, and 100 are 2 MB.
VERIFIED_A_RUN = 100


def under_way(runs: Sequence[dg.DagsterRun], keys: Sequence[str]) -> set[str]:
    """Return the partitions that queued or running runs will still look at."""
    place = {key: at for at, key in enumerate(keys)}
    covered: set[str] = set()
    for run in runs:
        key = run.tags.get("dagster/partition")
        first, last = run.tags.get(RANGE_START, ""), run.tags.get(RANGE_END, "")
        if key is not None:
            covered.add(key)
        elif first in place and last in place:
            covered.update(keys[place[first] : place[last] + 1])
    return covered


def run_requests(
    dirty: Collection[str], keys: Sequence[str], covered: Collection[str] = ()
) -> list[dg.RunRequest]:
    """Ask for the dirty partitions in few runs: ranges over their order, 200 at most each.

    A range passes over clean tenants at the price of one query, a run of its own costs seconds.
    """
    missing = set(dirty) - set(covered)
    asked = [key for key in keys if key in missing]
    return [_request(part) for part in _parts(asked, TENANTS_A_RUN)]


def verify_requests(keys: Sequence[str]) -> list[dg.RunRequest]:
    """Ask for a verify of all these partitions, which are neighbours, in ranges of 100."""
    return [
        dg.RunRequest(tags={RANGE_START: part[0], RANGE_END: part[-1]})
        for part in _parts(keys, VERIFIED_A_RUN)
    ]


def _request(part: Sequence[str]) -> dg.RunRequest:
    tags = {SCOPE_TAG: SCOPE_PENDING}
    if len(part) == 1:
        return dg.RunRequest(partition_key=part[0], tags=tags)
    return dg.RunRequest(tags={**tags, RANGE_START: part[0], RANGE_END: part[-1]})


def _parts(keys: Sequence[str], size: int) -> list[Sequence[str]]:
    return [keys[at : at + size] for at in range(0, len(keys), size)]
