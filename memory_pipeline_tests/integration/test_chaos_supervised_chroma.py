"""The stack's Chroma is restarted as `up` restarts its own, unless a fault holds it.

What breaks: it ends by itself, or is stuck. What must not change: a server that a fault has killed
stays dead until the fault is over, and each restart is counted.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memory_pipeline.local.chroma import start_chroma
from memory_pipeline.local.probes import probe_chroma
from memory_pipeline.testing.chaos.supervised_chroma import SupervisedChroma


class Server:
    """A real server, and whether it counts as stuck."""

    def __init__(self, folder: Path) -> None:
        self.stuck = False
        chroma = start_chroma(folder / "chroma", folder / "chroma.log")
        chroma.service.stuck = lambda: self.stuck
        self.chroma = SupervisedChroma(chroma)

    def back(self) -> bool:
        """Restart it if needed; return whether it answers."""
        self.chroma.restart_if_needed()
        self.stuck = False
        return probe_chroma(self.chroma.server.url) == "up"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Yield a server of the test's own."""
    server = Server(tmp_path)
    yield server
    server.chroma.server.stop()


def test_a_server_that_ended_by_itself_is_restarted(
    server: Server, wait_until: Callable[..., None]
) -> None:
    """At the same address."""
    pid = server.chroma.server.pid
    assert server.back()
    assert (server.chroma.server.pid, server.chroma.restarts) == (pid, 0)
    server.chroma.kill()
    wait_until(server.back)
    assert server.chroma.restarts == 1


def test_a_stuck_server_is_killed_and_restarted(
    server: Server, wait_until: Callable[..., None]
) -> None:
    """At the same address."""
    pid = server.chroma.server.pid
    server.stuck = True
    wait_until(lambda: server.back() and server.chroma.server.pid != pid)
    assert server.chroma.restarts == 1


def test_a_server_that_a_fault_holds_is_not_restarted(server: Server) -> None:
    """Until it is over."""
    with server.chroma.held():
        server.chroma.kill()
        assert not server.back()
        server.chroma.start()
    assert server.back()
    assert server.chroma.restarts == 0
