"""Which runs to request, given the dirty partitions and the unfinished runs. Pure.

There is no cursor and no run key: every tick queries Postgres, so a failed tick loses nothing.
"""

from collections.abc import Collection, Sequence

import dagster as dg

from memory_pipeline.defs.partitions import SCOPE_PENDING, SCOPE_TAG

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"
TENANTS_A_RUN = 200
# Before a run starts, Dagster stores a planned evaluation for each check and tenant, and each names
# every tenant of the run: the size is the square of this, 2 MB for 100.
VERIFIED_A_RUN = 100


def under_way(runs: Sequence[dg.DagsterRun], keys: Sequence[str]) -> set[str]:
    """Return the partitions that queued or running runs will sync."""
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
    """Request the dirty partitions in few runs: ranges over their order, 200 dirty ones each.

    Skipping the clean tenants of a range costs one query; a run of its own costs seconds.
    """
    missing = set(dirty) - set(covered)
    wanted = [key for key in keys if key in missing]
    return [_request(chunk) for chunk in _chunks(wanted, TENANTS_A_RUN)]


def verify_requests(keys: Sequence[str]) -> list[dg.RunRequest]:
    """Request a verify of all these partitions, which are neighbours, in ranges of 100."""
    return [
        dg.RunRequest(tags={RANGE_START: chunk[0], RANGE_END: chunk[-1]})
        for chunk in _chunks(keys, VERIFIED_A_RUN)
    ]


def _request(chunk: Sequence[str]) -> dg.RunRequest:
    tags = {SCOPE_TAG: SCOPE_PENDING}
    if len(chunk) == 1:
        return dg.RunRequest(partition_key=chunk[0], tags=tags)
    return dg.RunRequest(tags={**tags, RANGE_START: chunk[0], RANGE_END: chunk[-1]})


def _chunks(keys: Sequence[str], size: int) -> list[Sequence[str]]:
    return [keys[at : at + size] for at in range(0, len(keys), size)]
