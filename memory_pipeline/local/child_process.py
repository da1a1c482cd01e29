"""One service as a child process: its command, its log, its health. Restarts nothing by itself."""

import os
import resource
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from memory_pipeline.local.processes import (
    Identity,
    ServiceFailed,
    all_end,
    identify,
    stop_all,
    tail,
    wait_until,
)

START_SECONDS = 120.0
# At each start a log that has grown beyond this makes room; the one before it is kept.
LOG_BYTES = 10_000_000


def never() -> bool:
    """Say no."""
    return False


def nothing() -> None:
    """Do nothing."""


@dataclass(slots=True)
class Service:
    """A command that shall run, and how to tell that it does.

    ``healthy`` is a quick probe that returns False instead of raising. ``open_files`` is the limit
    of file descriptors that the child gets, up to what the machine allows. ``tidy`` is done before
    each start. ``stuck`` tells, at a glance, that the child lives and will never work again.
    """

    name: str
    command: tuple[str, ...]
    log_file: Path
    healthy: Callable[["Service"], bool]
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    port: int | None = None
    stop_seconds: float = 15.0
    open_files: int | None = None
    tidy: Callable[[], None] = nothing
    stuck: Callable[[], bool] = never
    _child: subprocess.Popen[bytes] | None = None
    _identity: Identity | None = None

    @property
    def identity(self) -> Identity | None:
        """Who the child is, dead or alive; None before the first start."""
        return self._identity

    def start(self) -> None:
        """Start the child, in a session of its own: Ctrl-C in the terminal is not meant for it.

        Raises:
            ServiceFailed: the machine refuses a file or the process; no child is left.

        """
        try:
            _make_room(self.log_file)
            self.tidy()
            with self.log_file.open("ab") as log:
                self._child = subprocess.Popen(
                    self.command,
                    env=dict(self.environment),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self._identity = identify(self._child.pid)
            if self.open_files is not None:
                _raise_open_files(self._child.pid, self.open_files)
        except OSError as error:
            self.stop()
            raise ServiceFailed(f"{self.name} cannot be started: {error}") from error

    def alive(self) -> bool:
        """Whether the child runs; also takes note of its end, so that it does not stay a zombie."""
        return self._child is not None and self._child.poll() is None

    def end_if_stuck(self) -> bool:
        """Kill the child where it will never work again; True: it was killed.

        Told to end, it would first finish what can never be finished.
        """
        if self._child is None or not self.stuck():
            return False
        self._child.kill()
        self._child.wait()
        return True

    def wait_until_healthy(
        self, *, within: float = START_SECONDS, give_up: Callable[[], bool] = never
    ) -> None:
        """Wait for the first sign of health.

        Raises:
            ServiceFailed: the child ended or the time is over; the message has the log's end.

        """

        def settled() -> bool:
            return not self.alive() or give_up() or (self._listens() and self.healthy(self))

        in_time = wait_until(settled, within=within)
        if give_up():
            return
        if not self.alive() or not in_time:
            why = "is not healthy" if self.alive() else "ended while starting"
            raise ServiceFailed(
                f"{self.name} {why}; the end of {self.log_file}:\n{tail(self.log_file)}"
            )

    def _listens(self) -> bool:
        """Whether the port is this very child's: another process there may look healthy."""
        if self.port is None or self._identity is None:
            return True
        try:
            sockets = psutil.Process(self._identity.pid).net_connections(kind="tcp")
        except psutil.Error:
            return False
        return any(s.status == psutil.CONN_LISTEN and s.laddr.port == self.port for s in sockets)

    def ask_to_stop(self) -> None:
        """Send SIGTERM and do not wait, so that several can stop at once."""
        if self.alive() and self._child is not None:
            self._child.send_signal(signal.SIGTERM)
            # A child that somebody has paused hears nothing until it goes on.
            self._child.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Stop the child and wait for its end; kill it when it takes longer than it may."""
        self.ask_to_stop()
        if self._child is None:
            return
        try:
            self._child.wait(self.stop_seconds)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def stop_workers(self, *, grace_seconds: float) -> None:
        """End what the child has spawned: wait a little, then tell it, then kill it."""
        if self._identity is None or (process := self._identity.process()) is None:
            return
        try:
            workers = [identify(p.pid) for p in process.children(recursive=True)]
        except psutil.Error:
            return
        living = [worker for worker in workers if worker is not None]
        working = [worker for worker in living if not _is_helper(worker)]
        all_end(working, within=grace_seconds)
        stop_all([w for w in working if w.alive()], within=self.stop_seconds)


def script(name: str) -> tuple[str, str]:
    """Name a command that is installed beside this Python.

    Not ``python -m``: Dagster takes the first folder of the module path for its command's own and
    hides it from the definitions; after -m that is somebody else's folder.
    """
    return sys.executable, str(Path(sysconfig.get_path("scripts")) / name)


def _make_room(log_file: Path) -> None:
    log_file.parent.mkdir(parents=True, exist_ok=True)
    if log_file.exists() and log_file.stat().st_size > LOG_BYTES:
        log_file.replace(log_file.with_name(f"{log_file.name}.1"))


def _is_helper(identity: Identity) -> bool:
    """Whether this is multiprocessing's own tracker, which lives as long as its parent."""
    process = identity.process()
    try:
        return process is not None and any("resource_tracker" in a for a in process.cmdline())
    except psutil.Error:
        return False


def _raise_open_files(pid: int, wanted: int) -> None:
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
