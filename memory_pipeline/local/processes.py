"""Processes of this machine: wait with a deadline, find by the mark, stop. Knows no service."""

import os
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from memory_pipeline.clock import SYSTEM_CLOCK, Clock
from memory_pipeline.errors import Transient
from memory_pipeline.local.process_identity import Identity, identify

POLL_SECONDS = 0.05
KILL_SECONDS = 10.0
# Every process of a stack carries its home under this name: also a run whose parent has ended.
MARK = "MEMORY_PIPELINE_STACK"


class ServiceFailed(Transient):
    """A local service could not be started or does not answer; nothing was sent to it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=False)


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
