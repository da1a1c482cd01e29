"""Processes of this machine: name one for good, wait with a deadline, stop. Knows no service.

A pid alone identifies nothing, for the system uses it again: a process is its pid and the moment it
was created.
"""

import os
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from memory_pipeline.clock import SYSTEM_CLOCK, Clock
from memory_pipeline.errors import Transient

POLL_SECONDS = 0.05
# psutil derives the moment from the wall clock, which may be corrected while a process lives.
CLOCK_TOLERANCE_SECONDS = 2.0
KILL_SECONDS = 10.0
# Every process of a stack carries its home under this name: also a run whose parent has ended.
MARK = "MEMORY_PIPELINE_STACK"


class ServiceFailed(Transient):
    """A local service could not be started or does not answer; nothing was sent to it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=False)


@dataclass(frozen=True, slots=True)
class Identity:
    """One process, for as long as it lives; unlike psutil.Process it can be written to a file."""

    pid: int
    created: float

    def process(self) -> psutil.Process | None:
        """Return the process while it lives; None when it has ended, also when it is a zombie."""
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
        """Return the fields as they are written to a file."""
        return {"pid": self.pid, "created": self.created}


def identify(pid: int) -> Identity | None:
    """Return the identity of a living process; None where there is none."""
    try:
        identity = Identity(pid, psutil.Process(pid).create_time())
    except psutil.Error:
        return None
    return identity if identity.alive() else None


def own_identity() -> Identity:
    """Return the identity of this process."""
    return Identity(os.getpid(), psutil.Process().create_time())


def wait_until(
    condition: Callable[[], bool], *, within: float, clock: Clock = SYSTEM_CLOCK
) -> bool:
    """Poll a condition until it holds; False when ``within`` seconds are over."""
    deadline = clock.monotonic() + within
    while not condition():
        if clock.monotonic() > deadline:
            return False
        clock.sleep(POLL_SECONDS)
    return True


def wait_for_end(identities: Iterable[Identity], *, within: float) -> bool:
    """Wait for processes to end; False when one still runs after ``within`` seconds.

    Not psutil.wait_procs: it counts a zombie as running until its parent reaps it, which a paused
    parent never does, and it reaps our own children, whose exit codes subprocess then lacks.
    """
    waiting = list(identities)
    return wait_until(lambda: not any(identity.alive() for identity in waiting), within=within)


def stop_all(
    identities: Iterable[Identity], *, within: float, with_signal: signal.Signals = signal.SIGTERM
) -> None:
    """Signal processes and wait for their end; kill those that still run after ``within``."""
    waiting = list(identities)
    for step, seconds in ((with_signal, within), (signal.SIGKILL, KILL_SECONDS)):
        for identity in waiting:
            process = identity.process()
            if process is not None:
                with suppress(psutil.Error):
                    process.send_signal(step)
                    # A paused process receives the signal only when it is resumed.
                    process.send_signal(signal.SIGCONT)
        if wait_for_end(waiting, within=seconds):
            return


def marked_processes(home: Path) -> list[Identity]:
    """Return every process of the stack in ``home``, without this one and its ancestors."""
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid not in own and process.environ().get(MARK) == str(home):
                identity = identify(process.pid)
                if identity is not None:
                    found.append(identity)
    return found


def tail(log_file: Path, lines: int = 15) -> str:
    """Return the last lines of a log, for an error message."""
    try:
        text = log_file.read_text(errors="replace")
    except OSError:
        return "(no log)"
    return "\n".join(text.splitlines()[-lines:]) or "(the log is empty)"
