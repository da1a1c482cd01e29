"""What a user gets from `up`: changes are searchable at once and shown in Dagster, without runs."""

from collections.abc import Callable, Iterator

import pytest

from memory_pipeline_tests.acceptance.conftest import Cli, partitions, started

WaitUntil = Callable[..., None]


@pytest.fixture(scope="module")
def live() -> Iterator[Cli]:
    """Start all services; the sensor is evaluated too rarely to be what syncs."""
    with started(SENSOR_SECONDS="3600") as cli:
        yield cli


def test_a_change_is_searchable_without_a_run(live: Cli, wait_until: WaitUntil) -> None:
    """The worker syncs it, status reports how soon, Dagster shows the new tenant."""
    live("remember", "--user", "ada", "the cat sleeps on the router")

    def found() -> bool:
        return len(live.json("search", "--tenant", "ada", "cat router")) == 1

    wait_until(found, within=30)
    wait_until(lambda: live.json("status")["freshness_ms"] is not None, within=30)
    status = live.json("status")
    assert status["workers"] == 1
    assert status["services"]["live"] == "up"
    assert status["pending_changes"] == 0
    assert status["problems"] == []
    (ada,) = live.json("tenants")
    assert 0 < ada["freshness_ms"]["p50"] <= ada["freshness_ms"]["max"]
    wait_until(lambda: partitions(live)["numMaterialized"] == 1, within=60)


def test_down_leaves_no_lease_and_up_goes_on(live: Cli, wait_until: WaitUntil) -> None:
    """The next start syncs what was written while nothing ran."""
    live("down")
    live("up", "--detach", "--no-live")
    live("remember", "--user", "ben", "the dog sleeps on the stairs")
    status = live.json("status")
    assert status["workers"] == 0
    assert status["pending_changes"] == 1
    live("down")
    live("up", "--detach")
    wait_until(lambda: live.json("status")["pending_changes"] == 0, within=60)
    assert len(live.json("search", "--tenant", "ben", "dog stairs")) == 1
