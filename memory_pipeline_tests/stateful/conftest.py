"""One Chroma for all stateful runs; a database each."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from memory_pipeline.local.chroma import ChromaProcess, start_chroma
from memory_pipeline.postgres import outbox
from memory_pipeline_tests.conftest import unmark
from memory_pipeline_tests.databases import new_database
from memory_pipeline_tests.servers import PostgresServer
from memory_pipeline_tests.stateful.world import World, open_world

NewWorld = Callable[[], AbstractContextManager[World]]


@pytest.fixture(scope="session")
def own_chroma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaProcess]:
    """Start a server that may be restarted, and whose deleted collections burden nobody else."""
    place = tmp_path_factory.mktemp("stateful")
    server = start_chroma(place / "data", place / "chroma.log")
    yield server
    server.stop()


@pytest.fixture
def new_world(
    postgres: PostgresServer,
    own_chroma: ChromaProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> NewWorld:
    """Return what opens the pipeline on a database of its own, one after the other.

    Nothing in it depends on threads or on time.
    """
    monkeypatch.setattr(outbox, "MISSED_PAUSE_SECONDS", 300.0)

    def opened() -> AbstractContextManager[World]:
        unmark(own_chroma)
        return open_world(new_database(postgres), own_chroma, tmp_path)

    return opened


@pytest.fixture
def world(new_world: NewWorld) -> Iterator[World]:
    """Open one."""
    with new_world() as opened:
        yield opened
