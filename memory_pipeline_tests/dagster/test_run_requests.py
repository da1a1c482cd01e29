"""Which runs the sensor asks for, decided without any service."""

import dagster as dg

from memory_pipeline.defs.partitions import SCOPE_PENDING, SCOPE_TAG
from memory_pipeline.defs.run_requests import (
    RANGE_END,
    RANGE_START,
    TENANTS_A_RUN,
    VERIFIED_A_RUN,
    run_requests,
    under_way,
    verify_requests,
)

KEYS = [f"tenant-{n:03}" for n in range(500)]


def a_run(**tags: str) -> dg.DagsterRun:
    """Return a run with these tags."""
    return dg.DagsterRun(
        job_name="incremental_sync",
        tags={name.replace("__", "/"): value for name, value in tags.items()},
    )


def test_one_dirty_tenant_gets_a_run_of_its_own_partition() -> None:
    """A single tenant's run shows as that tenant's in the UI."""
    requests = run_requests({"tenant-007"}, KEYS)
    assert [r.partition_key for r in requests] == ["tenant-007"]


def test_many_dirty_tenants_share_range_runs() -> None:
    """Four hundred tenants never become four hundred runs."""
    requests = run_requests(KEYS[:400], KEYS)
    assert len(requests) == 400 / TENANTS_A_RUN
    assert requests[0].tags[RANGE_START] == "tenant-000"
    assert requests[0].tags[RANGE_END] == "tenant-199"
    assert requests[1].tags[RANGE_START] == "tenant-200"


def test_a_range_follows_the_order_of_the_partitions() -> None:
    """Dagster's ranges are positional, whatever order the changes came in."""
    keys = ["zoe", "adam", "mia"]
    (request,) = run_requests({"mia", "zoe"}, keys)
    assert (request.tags[RANGE_START], request.tags[RANGE_END]) == ("zoe", "mia")


def test_requests_carry_no_run_key() -> None:
    """A run key would silently drop a tenant that is dirty again."""
    assert all(r.run_key is None for r in run_requests(KEYS[:3], KEYS))


def test_requested_runs_pass_over_clean_tenants() -> None:
    """The tag tells the body that only tenants with changes are meant."""
    assert all(r.tags[SCOPE_TAG] == SCOPE_PENDING for r in run_requests(KEYS[:3], KEYS))


def test_a_tenant_that_a_run_is_on_its_way_to_is_not_asked_for_again() -> None:
    """Neither for a single partition nor inside a range."""
    runs = [
        a_run(dagster__partition="tenant-001"),
        a_run(
            dagster__asset_partition_range_start="tenant-003",
            dagster__asset_partition_range_end="tenant-005",
        ),
    ]
    covered = under_way(runs, KEYS)
    assert covered == {"tenant-001", "tenant-003", "tenant-004", "tenant-005"}
    (request,) = run_requests({"tenant-002", "tenant-004"}, KEYS, covered)
    assert request.partition_key == "tenant-002"


def test_a_run_over_partitions_that_are_gone_covers_nothing() -> None:
    """A range whose end was deleted says nothing about who it would sync."""
    run = a_run(
        dagster__asset_partition_range_start="gone", dagster__asset_partition_range_end="tenant-005"
    )
    assert under_way([run], KEYS) == set()


def test_a_verify_of_all_is_cut_into_ranges_that_miss_nobody() -> None:
    """Each range begins with the neighbour of the one before."""
    requests = verify_requests(KEYS[:250])
    ends = [(KEYS.index(r.tags[RANGE_START]), KEYS.index(r.tags[RANGE_END])) for r in requests]
    assert ends == [(0, VERIFIED_A_RUN - 1), (100, 199), (200, 249)]
    assert verify_requests([]) == []
    assert all(r.run_key is None for r in requests)
