"""The stack's Chroma is kept alive as `up` keeps its own; a fault that holds it decides alone.

What breaks: it ends by itself, or is stuck. What must not change: what a fault has killed stays
dead until the fault is over, and each restart is counted.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memory_pipeline.local.chroma import start_chroma
from memory_pipeline.local.probes import probe_chroma
from memory_pipeline.testing.chaos.supervised_chroma import TendedChroma


class Server:
    """A real server, and whether it is to count as stuck."""

    def __init__(self, folder: Path) -> None:
        self.stuck = False
        chroma = start_chroma(folder / "chroma", folder / "chroma.log")
        chroma.service.stuck = lambda: self.stuck
        self.tended = TendedChroma(chroma)

    def back(self) -> bool:
        """Tend; whether it answers."""
        self.tended.tend()
        self.stuck = False
        return probe_chroma(self.tended.chroma.url) == "up"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Lend a server of its own."""
    server = Server(tmp_path)
    yield server
    server.tended.chroma.stop()


def test_one_that_ended_by_itself_is_started_again(
    server: Server, wait_until: Callable[..., None]
) -> None:
    """At the same address."""
    pid = server.tended.chroma.pid
    assert server.back()
    assert (server.tended.chroma.pid, server.tended.restarts) == (pid, 0)
    server.tended.kill()
    wait_until(server.back)
    assert server.tended.restarts == 1


def test_one_that_is_stuck_is_killed_and_started_again(
    server: Server, wait_until: Callable[..., None]
) -> None:
    """At the same address."""
    pid = server.tended.chroma.pid
    server.stuck = True
    wait_until(lambda: server.back() and server.tended.chroma.pid != pid)
    assert server.tended.restarts == 1


def test_what_a_fault_holds_is_left_to_it(server: Server) -> None:
    """Until it is over."""
    with server.tended.held():
        server.tended.kill()
        assert not server.back()
        server.tended.start()
    assert server.back()
    assert server.tended.restarts == 0
