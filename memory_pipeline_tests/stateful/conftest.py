"""One Chroma for all stateful runs; a database each."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from memory_pipeline import rebuild, verify
from memory_pipeline.local.chroma import ChromaProcess, start_chroma
from memory_pipeline.postgres import outbox
from memory_pipeline_tests.stateful.world import World, in_this_thread, open_world


@pytest.fixture(scope="session")
def own_chroma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaProcess]:
    """Start a server that may be restarted, and whose deleted collections burden nobody else."""
    place = tmp_path_factory.mktemp("stateful")
    server = start_chroma(place / "data", place / "chroma.log")
    yield server
    server.stop()


@pytest.fixture
def world(
    database_url: str,
    own_chroma: ChromaProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    """Open the pipeline on a database of its own; nothing in it depends on threads or on time."""
    monkeypatch.setattr(rebuild, "ahead", in_this_thread)
    monkeypatch.setattr(verify, "ahead", in_this_thread)
    monkeypatch.setattr(outbox, "MISSED_PAUSE_SECONDS", 300.0)
    with open_world(database_url, own_chroma, tmp_path) as opened:
        yield opened
