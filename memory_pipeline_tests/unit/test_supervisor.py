"""The supervisor: one per home, and it goes on when the disk is full."""

import errno
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from filelock import FileLock

from memory_pipeline.errors import Transient
from memory_pipeline.local import child_process, daemonize
from memory_pipeline.local import supervisor as supervisor_module
from memory_pipeline.local.child_process import Service
from memory_pipeline.local.daemonize import down, main, up
from memory_pipeline.local.home import Stack, read_stack
from memory_pipeline.local.process_identity import Identity, own_identity
from memory_pipeline.local.processes import ServiceFailed
from memory_pipeline.local.restarts import WatchedService
from memory_pipeline.local.supervisor import Supervisor
from memory_pipeline.settings import Settings
from memory_pipeline_tests.manual_clock import ManualClock, nothing


def full(*_: object) -> None:
    """Fail as every write to a full disk does."""
    raise OSError(errno.ENOSPC, "No space left on device")


@dataclass
class FakeService:
    """A service without a process."""

    name: str = "chroma"
    starts: Callable[[], None] = nothing
    lives: bool = False
    stopped: bool = False
    port: int | None = 9101
    log_file: Path = Path("chroma.log")
    identity: Identity | None = field(default_factory=own_identity)

    def start(self) -> None:
        """Run, unless the start fails."""
        self.starts()
        self.lives = True

    def alive(self) -> bool:
        """Whether it runs."""
        return self.lives

    def kill_if_stuck(self) -> bool:
        """Return False: it never is."""
        return False

    def stop(self) -> None:
        """Record the stop."""
        self.stopped = True


@pytest.mark.parametrize("starts", [full, Path("no", "such", "folder").touch])
def test_a_start_that_the_machine_refuses_is_tried_again(
    starts: Callable[[], None],
) -> None:
    """What broke: the supervisor ended with a traceback, and the whole stack with it."""
    clock = ManualClock()
    service = FakeService(starts=starts)
    watched = WatchedService(service, clock)
    assert not watched.restart_if_ended()
    pauses = []
    for _ in range(3):
        assert watched.start_again_at is not None
        clock.now = watched.start_again_at
        assert not watched.restart_if_ended()
        pauses.append(watched.start_again_at - clock.now)
    assert pauses == [1.0, 2.0, 4.0]
    service.starts = nothing
    clock.now = watched.start_again_at or 0.0
    assert watched.restart_if_ended()
    assert service.lives


def test_a_services_file_that_cannot_be_written_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What broke: Chroma was back, and because of one file all services were stopped."""
    settings = Settings.load(
        home=tmp_path, database_url="postgresql:///m", dagster_database_url="postgresql:///d"
    )
    clock = ManualClock()
    supervisor = Supervisor(settings, definitions="", migrate="", clock=clock)
    services = [FakeService("chroma", lives=True), FakeService("webserver", lives=True)]
    writes, sleeps = [0], [0]

    def begin() -> None:
        supervisor._watched = [WatchedService(service, clock) for service in services]

    def write(stack: Stack, home: Path) -> None:
        writes[0] += 1
        if writes[0] in {2, 3}:
            full()
        really(stack, home)

    def on_sleep() -> None:
        sleeps[0] += 1
        assert not any(service.stopped for service in services)
        if sleeps[0] == 1:
            services[0].lives = False
            (tmp_path / "services.json").unlink()
        if sleeps[0] == 8:
            assert read_stack(tmp_path) is not None
            supervisor.request_stop()

    really = Stack.write
    monkeypatch.setattr(supervisor, "_start", begin)
    monkeypatch.setattr(Stack, "write", write)
    monkeypatch.setattr(supervisor_module, "stop_marked", lambda *_, **__: False)
    clock.on_sleep = on_sleep
    supervisor.run(lambda _: None)
    assert writes[0] == 4
    assert all(service.stopped for service in services)


def test_a_service_whose_log_cannot_be_opened_has_failed(tmp_path: Path) -> None:
    """A folder has its name."""
    service = Service("thing", (sys.executable, "-c", ""), tmp_path, healthy=lambda _: True)
    with pytest.raises(ServiceFailed, match="thing cannot be started"):
        service.start()


def test_a_child_that_is_refused_its_files_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next attempt would start a second process next to it."""
    monkeypatch.setattr(child_process, "_raise_open_files", full)
    service = Service(
        "thing",
        (sys.executable, "-c", "import time; time.sleep(600)"),
        tmp_path / "thing.log",
        healthy=lambda _: True,
        open_files=1024,
    )
    with pytest.raises(ServiceFailed, match="thing cannot be started"):
        service.start()
    assert service.identity is not None
    assert not service.alive()


@pytest.mark.parametrize("command", [up, down])
def test_a_command_that_finds_the_lock_taken_has_failed(
    command: Callable[[Settings], None], tmp_path: Path
) -> None:
    """What broke: exit code 0 for a stack that was neither started nor stopped."""
    with FileLock(tmp_path / "up.lock"), pytest.raises(Transient, match="another `up`"):
        command(Settings.load(home=tmp_path))


def test_the_daemon_of_a_second_up_leaves_it_to_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 0 lets `up --detach` wait for the services of the first one."""
    monkeypatch.setenv("MEMORY_PIPELINE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["daemonize"])
    monkeypatch.setattr(daemonize, "configure_logging", nothing)
    with FileLock(tmp_path / "up.lock"):
        assert main() == 0


def test_the_pause_before_a_restart_grows_and_is_short_again_after_a_settled_run() -> None:
    """Each end within a minute of the start doubles it, up to 30 s."""
    clock = ManualClock()
    service = FakeService()
    watched = WatchedService(service, clock)

    def pause() -> float:
        service.lives = False
        assert not watched.restart_if_ended()
        assert watched.start_again_at is not None
        seconds = watched.start_again_at - clock.now
        clock.now = watched.start_again_at - 0.01
        assert not watched.restart_if_ended()
        clock.now = watched.start_again_at
        assert watched.restart_if_ended()
        return seconds

    assert [pause() for _ in range(8)] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    clock.now += 60.1
    assert not watched.restart_if_ended()
    assert pause() == 0.5
