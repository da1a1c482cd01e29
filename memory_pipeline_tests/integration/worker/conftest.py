"""Servers that a test may stop."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memory_pipeline.local.chroma import ChromaProcess, start_chroma


@pytest.fixture
def own_chroma(tmp_path: Path) -> Iterator[Callable[[], ChromaProcess]]:
    """Return a function that starts a Chroma server that the test may stop."""
    servers: list[ChromaProcess] = []

    def start() -> ChromaProcess:
        place = tmp_path / f"chroma-{len(servers)}"
        servers.append(start_chroma(place, place.with_suffix(".log")))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
