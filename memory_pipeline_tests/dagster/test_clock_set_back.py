"""The wall clock is set back: Dagster's daemon and its sensors do not wait for the former time."""

import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
    SensorInstigatorData,
)
from dagster._daemon.sensor import get_elapsed

from memory_pipeline.defs.prepare_storage import forget_future_ticks
from memory_pipeline.local.dagster_services import daemon

HOUR = 3600.0


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """Return an instance with a storage of schedules, which one in memory lacks."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


def ticked(instance: dg.DagsterInstance, name: str, at: float) -> None:
    """Record that a sensor ticked at a moment."""
    place = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("here"), "__repository__")
    ticks = SensorInstigatorData(at, None, 5, "the cursor", at)
    origin = RemoteInstigatorOrigin(place, name)
    instance.add_instigator_state(
        InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING, ticks)
    )


def test_a_sensor_that_ticked_in_the_future_ticks_now(stored: dg.DagsterInstance) -> None:
    """What broke: without a worker nothing was synced for an hour. Its cursor is kept."""
    ticked(stored, "changes", time.time() + HOUR)
    ticked(stored, "alerts", time.time() - 1.0)
    schedule = RemoteInstigatorOrigin(
        RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("here"), "__repository__"), "nightly"
    )
    times = ScheduleInstigatorData("0 3 * * *", start_timestamp=time.time() + HOUR)
    stored.add_instigator_state(
        InstigatorState(schedule, InstigatorType.SCHEDULE, InstigatorStatus.RUNNING, times)
    )
    before = {state.instigator_name: state for state in stored.all_instigator_state()}
    assert (get_elapsed(before["changes"]) or 0.0) < 0.0
    forget_future_ticks(stored)
    after = {state.instigator_name: state for state in stored.all_instigator_state()}
    assert get_elapsed(after["changes"]) is None
    assert isinstance(after["changes"].instigator_data, SensorInstigatorData)
    assert after["changes"].instigator_data.cursor == "the cursor"
    assert after["alerts"] == before["alerts"]
    assert after["nightly"] == before["nightly"]


@pytest.mark.parametrize(("seconds", "is_stuck"), [(-HOUR, True), (HOUR, False), (-5.0, False)])
def test_the_daemon_is_started_again_when_the_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, *, is_stuck: bool
) -> None:
    """Its threads wait by the wall clock, and listen to no SIGTERM meanwhile: it is killed."""
    service = daemon(tmp_path / "workspace.yaml", {}, tmp_path / "log", database_url="")
    assert not service.stuck()
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + seconds)
    assert service.stuck() is is_stuck
    assert not service.stuck()  # its successor is not
