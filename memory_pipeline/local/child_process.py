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

from memory_pipeline.local.process_identity import Identity, identify
from memory_pipeline.local.processes import (
    ServiceFailed,
    stop_all,
    tail,
    wait_for_end,
    wait_until,
)

START_SECONDS = 120.0
# A log that is larger than this at a start is moved aside; the one before it is kept.
LOG_BYTES = 10_000_000


def never() -> bool:
    """Return False."""
    return False


def nothing() -> None:
    """Do nothing."""


@dataclass(slots=True)
class Service:
    """A command to run, and how to find out whether it works.

    Attributes:
        name: what people call it.
        command: the program and its arguments.
        log_file: where its output is appended.
        healthy: a quick probe that returns False instead of raising.
        environment: its environment variables, all of them.
        port: the TCP port that it listens on; None: none.
        stop_seconds: how long it may take after SIGTERM before it is killed.
        open_files: the limit of file descriptors that the child gets, up to what the machine
            allows; None leaves the limit as it is.
        before_start: called before each start.
        stuck: a cheap check, called several times a second: whether the child lives and will never
            work again.

    """

    name: str
    command: tuple[str, ...]
    log_file: Path
    healthy: Callable[["Service"], bool]
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    port: int | None = None
    stop_seconds: float = 15.0
    open_files: int | None = None
    before_start: Callable[[], None] = nothing
    stuck: Callable[[], bool] = never
    _child: subprocess.Popen[bytes] | None = None
    _identity: Identity | None = None

    @property
    def identity(self) -> Identity | None:
        """The child's process, dead or alive; None before the first start."""
        return self._identity

    def start(self) -> None:
        """Start the child, in a session of its own: Ctrl-C in the terminal does not reach it.

        Raises:
            ServiceFailed: the machine refuses a file or the process; no child is left.

        """
        try:
            _rotate(self.log_file)
            self.before_start()
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
        """Whether the child runs; reaps it when it has ended."""
        return self._child is not None and self._child.poll() is None

    def kill_if_stuck(self) -> bool:
        """Kill the child if it will never work again; return whether it was killed.

        No SIGTERM: the child would first wait for requests that cannot end.
        """
        if self._child is None or not self.stuck():
            return False
        self._child.kill()
        self._child.wait()
        return True

    def wait_until_healthy(
        self, *, within: float = START_SECONDS, cancelled: Callable[[], bool] = never
    ) -> None:
        """Wait for the first sign of health; return at once when ``cancelled`` becomes true.

        Raises:
            ServiceFailed: the child ended or the time is over; the message has the log's end.

        """

        def settled() -> bool:
            return not self.alive() or cancelled() or (self._listens() and self.healthy(self))

        in_time = wait_until(settled, within=within)
        if cancelled():
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

    def terminate(self) -> None:
        """Send SIGTERM and do not wait, so that several services can stop at once."""
        if self.alive() and self._child is not None:
            self._child.send_signal(signal.SIGTERM)
            # A paused child receives the signal only when it is resumed.
            self._child.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Stop the child and wait for its end; kill it after ``stop_seconds``."""
        self.terminate()
        if self._child is None:
            return
        try:
            self._child.wait(self.stop_seconds)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def stop_descendants(self, *, grace_seconds: float) -> None:
        """End what the child has spawned: wait for ``grace_seconds``, send SIGTERM, then kill."""
        if self._identity is None or (process := self._identity.process()) is None:
            return
        try:
            found = [identify(child.pid) for child in process.children(recursive=True)]
        except psutil.Error:
            return
        living = [identity for identity in found if identity is not None]
        working = [identity for identity in living if not _is_resource_tracker(identity)]
        wait_for_end(working, within=grace_seconds)
        stop_all([i for i in working if i.alive()], within=self.stop_seconds)


def script(name: str) -> tuple[str, str]:
    """Return the command line of a program that is installed in the folder of this Python.

    Not ``python -m``: Dagster takes the first folder of the module path for its command's own and
    hides it from the definitions; after -m that is another folder.
    """
    return sys.executable, str(Path(sysconfig.get_path("scripts")) / name)


def _rotate(log_file: Path) -> None:
    log_file.parent.mkdir(parents=True, exist_ok=True)
    if log_file.exists() and log_file.stat().st_size > LOG_BYTES:
        log_file.replace(log_file.with_name(f"{log_file.name}.1"))


def _is_resource_tracker(identity: Identity) -> bool:
    """Whether a process is multiprocessing's own tracker, which lives as long as its parent."""
    process = identity.process()
    try:
        return process is not None and any("resource_tracker" in a for a in process.cmdline())
    except psutil.Error:
        return False


def _raise_open_files(pid: int, wanted: int) -> None:
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
