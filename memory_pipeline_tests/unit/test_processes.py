"""Processes are stopped by identity: no reused pid, no zombie, and no lost exit code."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import psutil
import pytest

from memory_pipeline.local.process_identity import Identity, identify, own_identity
from memory_pipeline.local.processes import stop_all, wait_for_end, wait_until
from memory_pipeline_tests.manual_clock import ManualClock

# The name keeps the Popen, which would reap the child at its deletion.
PARENT = """
import subprocess, sys, time
child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
print(child.pid, flush=True)
sys.stdin.readline()
child.stdin.close()
time.sleep(60)
"""


def started(*command: str) -> subprocess.Popen[str]:
    """Start a process."""
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[str]]:
    """Start a process that runs for a minute."""
    with started("sleep", "60") as process:
        yield process
        process.kill()


@pytest.fixture
def zombie() -> Iterator[Identity]:
    """Start a process that ends at once and is not reaped by its parent."""
    with started(sys.executable, "-c", PARENT) as parent:
        try:
            assert parent.stdout is not None
            assert parent.stdin is not None
            child = psutil.Process(int(parent.stdout.readline()))
            identity = identify(child.pid)
            assert identity is not None
            print("end", file=parent.stdin, flush=True)
            assert wait_until(lambda: child.status() == psutil.STATUS_ZOMBIE, within=10.0)
            yield identity
        finally:
            parent.kill()


def test_a_zombie_has_ended_although_its_parent_does_not_reap_it(zombie: Identity) -> None:
    """What would break with psutil.wait_procs: `down` waits its whole time for each of them."""
    before = time.monotonic()
    assert wait_for_end([zombie], within=60.0)
    stop_all([zombie], within=60.0)
    assert time.monotonic() - before < 30.0
    assert not zombie.alive()


def test_the_exit_code_of_a_child_that_was_stopped_is_kept(
    sleeper: subprocess.Popen[str],
) -> None:
    """What would break with psutil.wait_procs: it reaps the child, and subprocess returns 0."""
    identity = identify(sleeper.pid)
    assert identity is not None
    stop_all([identity], within=10.0)
    assert sleeper.wait(10.0) == -signal.SIGTERM


def test_a_process_with_a_reused_pid_is_left_alone(sleeper: subprocess.Popen[str]) -> None:
    """The pid alone is in a file of an earlier start."""
    other = replace(own_identity(), pid=sleeper.pid)
    stop_all([other], within=10.0)
    assert sleeper.poll() is None


def test_a_paused_process_is_stopped_by_sigterm(sleeper: subprocess.Popen[str]) -> None:
    """It receives the signal only when it is resumed."""
    identity = identify(sleeper.pid)
    assert identity is not None
    os.kill(sleeper.pid, signal.SIGSTOP)
    stop_all([identity], within=10.0)
    assert sleeper.wait(10.0) == -signal.SIGTERM


def test_a_wait_ends_with_its_time() -> None:
    """By the clock that it was handed."""
    clock = ManualClock()
    before = clock.now
    assert not wait_until(lambda: False, within=5.0, clock=clock)
    assert 5.0 < clock.now - before < 5.2
    assert wait_until(lambda: clock.now > before + 6.0, within=5.0, clock=clock)
