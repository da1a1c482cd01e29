"""What holds a stack together: one a home, and it goes on when the disk is full."""

import errno
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from filelock import FileLock

from memory_pipeline.errors import Transient
from memory_pipeline.local import child_process, daemonize
from memory_pipeline.local import supervisor as supervising
from memory_pipeline.local.child_process import Service
from memory_pipeline.local.daemonize import down, main, up
from memory_pipeline.local.home import Stack, listed
from memory_pipeline.local.processes import Identity, ServiceFailed, own_identity
from memory_pipeline.local.restarts import Watched
from memory_pipeline.local.supervisor import Supervisor
from memory_pipeline.settings import Settings


def nothing() -> None:
    """Do nothing."""


def full(*_: object) -> None:
    """Fail as everything does that writes to a full disk."""
    raise OSError(errno.ENOSPC, "No space left on device")


@dataclass
class Fake:
    """A part without a process."""

    name: str = "chroma"
    starts: Callable[[], None] = nothing
    lives: bool = False
    stopped: bool = False
    port: int | None = 9101
    log_file: Path = Path("chroma.log")
    identity: Identity | None = field(default_factory=own_identity)

    def start(self) -> None:
        """Live, unless it cannot."""
        self.starts()
        self.lives = True

    def alive(self) -> bool:
        """Whether it lives."""
        return self.lives

    def end_if_stuck(self) -> bool:
        """Never."""
        return False

    def stop(self) -> None:
        """Take note of it."""
        self.stopped = True


@pytest.mark.parametrize("starts", [full, Path("no", "such", "folder").touch])
def test_a_start_that_the_machine_refuses_is_tried_again(
    starts: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What broke: the supervisor ended with a traceback, and the whole stack with it."""
    clock = [1000.0]
    monkeypatch.setattr("memory_pipeline.local.restarts.time.monotonic", lambda: clock[0])
    part = Fake(starts=starts)
    watched = Watched(part, started_at=clock[0])
    assert not watched.look()
    pauses = []
    for _ in range(3):
        assert watched.start_again_at is not None
        clock[0] = watched.start_again_at
        assert not watched.look()
        pauses.append(watched.start_again_at - clock[0])
    assert pauses == [1.0, 2.0, 4.0]
    part.starts = nothing
    clock[0] = watched.start_again_at or 0.0
    assert watched.look()
    assert part.lives


def test_a_record_that_cannot_be_written_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What broke: Chroma was back, and for the want of a file all services were stopped."""
    settings = Settings.load(
        home=tmp_path, database_url="postgresql:///m", dagster_database_url="postgresql:///d"
    )
    supervisor = Supervisor(settings, definitions="", migrate="")
    parts = [Fake("chroma", lives=True), Fake("webserver", lives=True)]
    writes, seen = [0], [0]

    def begin() -> None:
        supervisor._watched = [Watched(part) for part in parts]

    def write(stack: Stack, home: Path) -> None:
        writes[0] += 1
        if writes[0] in {2, 3}:
            full()
        really(stack, home)

    def sleep(_seconds: float) -> None:
        seen[0] += 1
        assert not any(part.stopped for part in parts)
        if seen[0] == 1:
            parts[0].lives = False
            (tmp_path / "services.json").unlink()
        if seen[0] == 8:
            assert listed(tmp_path) is not None
            supervisor._stopping = True

    really = Stack.write
    monkeypatch.setattr(supervisor, "_start", begin)
    monkeypatch.setattr(Stack, "write", write)
    monkeypatch.setattr("memory_pipeline.local.supervisor.time.sleep", sleep)
    monkeypatch.setattr("memory_pipeline.local.restarts.PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(supervising, "end_marked", lambda *_, **__: False)
    supervisor.run(lambda _: None)
    assert writes[0] == 4
    assert all(part.stopped for part in parts)


def test_a_service_whose_log_cannot_be_opened_has_failed(tmp_path: Path) -> None:
    """A folder stands in its place."""
    service = Service("thing", (sys.executable, "-c", ""), tmp_path, healthy=lambda _: True)
    with pytest.raises(ServiceFailed, match="thing cannot be started"):
        service.start()


def test_a_child_that_is_refused_its_files_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next try would start a second one beside it."""
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
def test_who_finds_another_at_work_has_not_done_it(
    command: Callable[[Settings], None], tmp_path: Path
) -> None:
    """What broke: exit code 0 for a stack that was neither started nor stopped."""
    with FileLock(tmp_path / "up.lock"), pytest.raises(Transient, match="another `up`"):
        command(Settings.load(home=tmp_path))


def test_the_daemon_of_a_second_up_leaves_it_to_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its exit code 0, `up --detach` knows that it can wait for the first one's services."""
    monkeypatch.setenv("MEMORY_PIPELINE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["daemonize"])
    monkeypatch.setattr(daemonize, "configure_logging", nothing)
    with FileLock(tmp_path / "up.lock"):
        assert main() == 0
