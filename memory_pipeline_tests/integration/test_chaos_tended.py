"""The stack's Chroma is kept alive as people keep theirs; a fault that holds it decides alone.

What breaks: it ends by itself, or answers and takes no write any more. What must not change: what
a fault has killed stays dead until the fault is over, and each help is counted.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from memory_pipeline.chaos.tended import CLOSED, ENDED, TendedChroma
from memory_pipeline.local.chroma import probe_chroma, start_chroma


class Server:
    """A real server, and whether it is to say that it takes writes."""

    def __init__(self, folder: Path) -> None:
        self.writes = True
        chroma = start_chroma(folder / "chroma", folder / "chroma.log")
        self.tended = TendedChroma(chroma, lambda: self.writes, Counter(), closed_seconds=0.0)

    @property
    def up(self) -> bool:
        """Whether it answers."""
        return probe_chroma(self.tended.chroma.url) == "up"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Lend a server of its own."""
    server = Server(tmp_path)
    yield server
    server.tended.chroma.stop()


def test_one_that_ended_by_itself_is_started_again(server: Server) -> None:
    """At the same address."""
    pid = server.tended.chroma.pid
    server.tended.tend()
    assert (server.tended.chroma.pid, server.tended.helped) == (pid, {})
    server.tended.kill()
    server.tended.tend()
    assert server.up
    assert server.tended.helped == {ENDED: 1}


def test_one_that_takes_no_write_is_restarted_once_it_has_had_its_time(server: Server) -> None:
    """And not before."""
    pid = server.tended.chroma.pid
    server.writes = False
    server.tended.closed_seconds = 3600.0
    server.tended.tend()
    assert server.tended.chroma.pid == pid
    server.tended.closed_seconds = 0.0
    server.tended.tend()
    assert server.tended.chroma.pid != pid
    assert server.up
    assert server.tended.helped == {CLOSED: 1}


def test_what_a_fault_holds_is_left_to_it(server: Server) -> None:
    """Until it is over."""
    with server.tended.held():
        server.tended.kill()
        server.tended.tend()
        assert not server.up
        server.tended.start()
    server.tended.tend()
    assert server.up
    assert server.tended.helped == {}
