"""Processes and ports: who is who, waiting with a deadline, stopping. Knows no service by name.

A pid alone names nobody: it is used again. A process is its pid and the moment it was created.
"""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from memory_pipeline.errors import Transient

POLL_SECONDS = 0.05
# psutil derives the moment from the wall clock, which may be corrected while a process lives.
CLOCK_TOLERANCE_SECONDS = 2.0
KILL_SECONDS = 10.0
# Every process of a stack carries its home under this name: also a worker whose parent is gone.
MARK = "MEMORY_PIPELINE_STACK"


class ServiceFailed(Transient):
    """A local service could not be started or does not answer; nothing was sent to it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=False)


@dataclass(frozen=True, slots=True)
class Identity:
    """One process, for as long as it lives: its pid and when it was created."""

    pid: int
    created: float

    def process(self) -> psutil.Process | None:
        """Return the process while it lives; a zombie does not."""
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            same = abs(process.create_time() - self.created) < CLOCK_TOLERANCE_SECONDS
        except psutil.Error:
            return None
        return process if same else None

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return self.process() is not None

    def as_json(self) -> dict[str, float]:
        """Return it as it is written to a file."""
        return {"pid": self.pid, "created": self.created}


def identify(pid: int) -> Identity | None:
    """Name a living process; None where there is none."""
    try:
        identity = Identity(pid, psutil.Process(pid).create_time())
    except psutil.Error:
        return None
    return identity if identity.alive() else None


def own_identity() -> Identity:
    """Name this process."""
    return Identity(os.getpid(), psutil.Process().create_time())


def wait_until(condition: Callable[[], bool], *, within: float) -> bool:
    """Poll a condition until it holds; False when the time is over."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def all_end(identities: Iterable[Identity], *, within: float) -> bool:
    """Wait for the end of processes; False when one of them outstays the time."""
    waiting = list(identities)
    return wait_until(lambda: not any(identity.alive() for identity in waiting), within=within)


def stop_all(
    identities: Iterable[Identity], *, within: float, with_signal: signal.Signals = signal.SIGTERM
) -> None:
    """Signal processes and wait for their end; those that outstay it are killed."""
    waiting = list(identities)
    for step, seconds in ((with_signal, within), (signal.SIGKILL, KILL_SECONDS)):
        for identity in waiting:
            process = identity.process()
            if process is not None:
                with suppress(psutil.Error):
                    process.send_signal(step)
                    # A process that somebody has paused hears no signal until it goes on.
                    process.send_signal(signal.SIGCONT)
        if all_end(waiting, within=seconds):
            return


def marked(home: Path) -> list[Identity]:
    """Find every process of the stack in ``home``, this one and its ancestors left out."""
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid not in own and process.environ().get(MARK) == str(home):
                identity = identify(process.pid)
                if identity is not None:
                    found.append(identity)
    return found


def free_port() -> int:
    """Pick a port of the loopback interface that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def is_free(port: int) -> bool:
    """Whether a service could listen on a port of the loopback interface now."""
    with socket.socket() as listener:
        # As servers do: connections that have just ended do not hold the port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def tail(log_file: Path, lines: int = 15) -> str:
    """Return the last lines of a log, for an error message."""
    try:
        text = log_file.read_text(errors="replace")
    except OSError:
        return "(no log)"
    return "\n".join(text.splitlines()[-lines:]) or "(the log is empty)"
