"""A process stays the same one when the wall clock steps, in memory and in every file."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from memory_pipeline.local.process_identity import (
    Identity,
    identify,
    own_identity,
    read_identity,
)

STEPS = [14.0, 3600.0, -3600.0]


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that runs for a minute."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


@pytest.fixture
def identity(sleeper: subprocess.Popen[bytes]) -> Identity:
    """Return its identity."""
    found = identify(sleeper.pid)
    assert found is not None
    return found


def step(patch: pytest.MonkeyPatch, seconds: float) -> None:
    """Move the moment of the boot, which the kernel computes from the wall clock."""
    booted = psutil.boot_time()
    patch.setattr("psutil._pslinux.boot_time", lambda: booted + seconds)


@pytest.mark.parametrize("seconds", STEPS)
def test_a_process_is_the_same_one_after_the_clock_stepped(
    identity: Identity, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """What broke: the clock moved by 14 s, and nothing that ran could be stopped any more."""
    before = psutil.Process(identity.pid).create_time()
    written = json.loads(json.dumps(identity.as_json()))
    step(monkeypatch, seconds)
    assert psutil.Process(identity.pid).create_time() - before == pytest.approx(seconds, abs=1)
    assert identity.alive()
    assert identify(identity.pid) == identity
    assert read_identity(written) == identity
    process = identity.process()
    assert process is not None
    assert process.pid == identity.pid


def test_a_process_of_another_boot_has_ended(identity: Identity) -> None:
    """A pid and the ticks since the boot are much the same in every boot of a small machine."""
    other = Identity(identity.pid, identity.started, "another boot")
    assert not other.alive()
    assert other.process() is None


def test_a_name_with_brackets_hides_nothing(tmp_path: Path) -> None:
    """The kernel prints the name of the program in brackets, between the pid and the rest."""
    program = tmp_path / "a) S 1 (b"
    program.symlink_to(sys.executable)
    with subprocess.Popen([program, "-c", "input()"], stdin=subprocess.PIPE) as process:
        found = identify(process.pid)
        process.kill()
    assert found is not None
    assert found.started >= own_identity().started


def test_a_file_of_an_earlier_version_is_read(sleeper: subprocess.Popen[bytes]) -> None:
    """It names the moment of the start by the wall clock; another moment is another process."""
    created = psutil.Process(sleeper.pid).create_time()
    assert read_identity({"pid": sleeper.pid, "created": created}) == identify(sleeper.pid)
    other = read_identity({"pid": sleeper.pid, "created": created - 10.0})
    assert not other.alive()
    assert other.pid == sleeper.pid
    assert not read_identity({"pid": 2**22 + 1, "created": created}).alive()


@pytest.mark.parametrize("content", [{}, {"pid": 1}, {"pid": "x", "started": 1, "boot": ""}])
def test_a_file_that_names_no_process_is_refused(content: dict[str, object]) -> None:
    """Its reader takes it for an absent one."""
    with pytest.raises((KeyError, TypeError, ValueError)):
        read_identity(content)
