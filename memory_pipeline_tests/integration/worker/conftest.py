"""Servers that a test may stop, and a worker that is in a hurry."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memory_pipeline.local.chroma import ChromaProcess, start_chroma
from memory_pipeline.postgres import listener as listener_module
from memory_pipeline.worker import background as background_module


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the intervals of the background tasks."""
    monkeypatch.setattr(listener_module, "TURN_SECONDS", 0.1)
    monkeypatch.setattr(background_module, "PROBE_SECONDS", 0.3)
    monkeypatch.setattr(background_module, "REPAIR_SECONDS", 0.3)
    monkeypatch.setattr(background_module, "REPORT_SECONDS", 0.1)
    monkeypatch.setattr(background_module, "REPORT_PER_TENANT_SECONDS", 0.3)


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
