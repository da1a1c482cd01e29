"""Name one process of this machine for good. Signals and starts nothing.

A pid alone identifies nothing, for the system uses it again: a process is its pid, the boot of the
machine, and the clock ticks from that boot to its start. The kernel writes those once. The moment
that psutil and ps print for them is computed from the wall clock and moves whenever that is set: by
NTP, after a suspend, in a virtual machine that is resumed.

Where there is no /proc, both are replaced by the moment that psutil returns. If the clock steps
there, the services of `up` are taken for ended, and have to be stopped by their pids.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

PROC = Path("/proc")
# Files of earlier versions hold the moment of the start by the wall clock, as psutil computes it.
CREATED_TOLERANCE_SECONDS = 2.0
# Identifies no process: the one that a file of an earlier version names has ended.
NEVER = -1


@dataclass(frozen=True, slots=True)
class Identity:
    """One process, for as long as it lives; unlike psutil.Process it can be written to a file.

    Attributes:
        pid: its number.
        started: the clock ticks between the boot and its start.
        boot: the id that the kernel drew at that boot; empty where it draws none.

    """

    pid: int
    started: int
    boot: str

    def process(self) -> psutil.Process | None:
        """Return the process while it lives; None when it has ended, also when it is a zombie."""
        if not self.alive():
            return None
        try:
            return psutil.Process(self.pid)
        except psutil.Error:
            return None

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return identify(self.pid) == self

    def as_json(self) -> dict[str, Any]:
        """Return the fields as they are written to a file."""
        return {"pid": self.pid, "started": self.started, "boot": self.boot}


def identify(pid: int) -> Identity | None:
    """Return the identity of a living process; None where there is none, or a zombie."""
    started = _start_in_proc(pid) if PROC.joinpath("self/stat").exists() else _start_by_psutil(pid)
    return None if started is None else Identity(pid, started, _boot_id())


def own_identity() -> Identity:
    """Return the identity of this process."""
    own = identify(os.getpid())
    if own is None:
        raise RuntimeError("the system does not list this very process")
    return own


def read_identity(content: Mapping[str, Any]) -> Identity:
    """Return the identity that the fields of a file name.

    The fields of an earlier version identify a process as that version did: by its pid and the
    moment of its start, within two seconds.

    Raises:
        KeyError, TypeError, ValueError: a field is missing or has another type.

    """
    pid = int(content["pid"])
    if "created" not in content:
        return Identity(pid, int(content["started"]), str(content["boot"]))
    identity = identify(pid)
    try:
        moved = abs(psutil.Process(pid).create_time() - float(content["created"]))
    except psutil.Error:
        return Identity(pid, NEVER, "")
    same = identity is not None and moved < CREATED_TOLERANCE_SECONDS
    return identity if identity is not None and same else Identity(pid, NEVER, "")


def _start_in_proc(pid: int) -> int | None:
    """Return the clock ticks from the boot to the process's start; None: it has ended."""
    try:
        stat = (PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # The second field is the program's name in brackets, which may itself hold spaces and brackets.
    fields = stat[stat.rindex(b")") + 1 :].split()
    state, started = fields[0], int(fields[19])
    return None if state in {b"Z", b"X"} else started


def _start_by_psutil(pid: int) -> int | None:
    try:
        process = psutil.Process(pid)
        ended = process.status() == psutil.STATUS_ZOMBIE
        return None if ended else round(process.create_time() * 100)
    except psutil.Error:
        return None


def _boot_id() -> str:
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
