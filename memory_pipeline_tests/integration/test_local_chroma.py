import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chromadb
import httpx
import numpy as np
import psutil
import pytest
import yaml

from memory_pipeline.local.chroma import (
    ChromaProcess,
    probe_chroma,
    remove_orphans,
    start_chroma,
)
from memory_pipeline.local.processes import ServiceFailed


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaProcess]:
    """Start a server that these tests may stop."""
    place = tmp_path_factory.mktemp("own-chroma")
    server = start_chroma(place / "data", place / "logs" / "chroma.log")
    yield server
    server.stop()


def test_it_listens_on_this_machine_alone(server: ChromaProcess) -> None:
    """Chroma has no login: no other machine may reach it."""
    sockets = psutil.Process(server.pid).net_connections(kind="tcp")
    assert {s.laddr.ip for s in sockets if s.status == psutil.CONN_LISTEN} == {"127.0.0.1"}


def test_it_may_open_as_many_files_as_the_machine_allows(server: ChromaProcess) -> None:
    """A collection takes four files, and the usual limit ends at some 250 tenants."""
    soft, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    assert soft == (65_536 if hard == resource.RLIM_INFINITY else min(65_536, hard))


def test_nobody_can_reset_it(server: ChromaProcess) -> None:
    """One request must not be able to delete every collection."""
    assert not httpx.post(f"{server.url}/api/v2/reset").is_success


def test_it_logs_no_line_a_request(server: ChromaProcess) -> None:
    """Four lines for each request would fill the disk."""
    before = server.service.log_file.stat().st_size
    for _ in range(5):
        httpx.get(f"{server.url}/api/v2/heartbeat").raise_for_status()
    assert server.service.log_file.stat().st_size == before


def test_a_paused_server_hangs_and_can_still_be_stopped(server: ChromaProcess) -> None:
    """A process that takes connections and answers nothing is not the same as none."""
    os.kill(server.pid, signal.SIGSTOP)
    assert probe_chroma(server.url) == "hangs"
    server.stop()
    assert probe_chroma(server.url) == "down"


def test_it_comes_back_at_its_address_with_its_collections(server: ChromaProcess) -> None:
    """Who holds the address finds the same server after a restart."""
    collections = "/api/v2/tenants/default_tenant/databases/default_database/collections"
    server.restart()
    httpx.post(server.url + collections, json={"name": "kept"}).raise_for_status()
    server.restart()
    assert [c["name"] for c in httpx.get(server.url + collections).json()] == ["kept"]


def test_a_start_removes_what_deleted_collections_have_left(server: ChromaProcess) -> None:
    """What broke: each rebuild left a folder behind for ever, until the disk was full."""
    client = chromadb.HttpClient(port=server.service.port or 0)
    kept, gone = (client.create_collection(name) for name in ("whole", "deleted"))
    vectors = np.random.default_rng(0).standard_normal((1200, 8), dtype=np.float32)
    for collection in (kept, gone):
        collection.add(ids=[str(n) for n in range(len(vectors))], embeddings=vectors)
    client.delete_collection("deleted")
    data = Path(yaml.safe_load(Path(server.service.command[-1]).read_text())["persist_path"])
    before = {folder.name for folder in data.iterdir() if folder.is_dir()}
    server.restart()
    after = {folder.name for folder in data.iterdir() if folder.is_dir()}
    assert len(before - after) == 1
    assert after < before
    again = chromadb.HttpClient(port=server.service.port or 0).get_collection("whole")
    found: Any = again.query(query_embeddings=vectors[:1], n_results=len(vectors), include=[])
    assert len(found["ids"][0]) == len(vectors)


def test_a_database_that_cannot_be_read_loses_no_folder(tmp_path: Path) -> None:
    """Nothing is known then, so nothing is an orphan."""
    folder = tmp_path / "0f7a4f0e-6c2d-4f0a-9a53-3a1f4e0f5b1c"
    folder.mkdir()
    remove_orphans(tmp_path)
    (tmp_path / "chroma.sqlite3").write_bytes(b"no database" * 100)
    remove_orphans(tmp_path)
    assert folder.exists()


def test_the_shells_chroma_settings_do_not_reach_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chroma prefers CHROMA_* of the environment to its own file."""
    monkeypatch.setenv("CHROMA_LISTEN_ADDRESS", "0.0.0.0")  # noqa: S104 - this is the danger
    monkeypatch.setenv("CHROMA_PORT", "1")
    server = start_chroma(tmp_path / "data", tmp_path / "chroma.log")
    try:
        test_it_listens_on_this_machine_alone(server)
    finally:
        server.stop()


def test_a_taken_port_is_an_error_that_shows_the_log(server: ChromaProcess, tmp_path: Path) -> None:
    """Whoever starts it reads why it did not start, without looking for a file."""
    if not server.alive():
        server.restart()
    with pytest.raises(ServiceFailed, match=r"chroma ended while starting(?s:.)*ddress"):
        start_chroma(tmp_path / "data", tmp_path / "log", port=server.service.port or 0)


def test_ctrl_c_in_the_terminal_is_not_meant_for_it(
    server: ChromaProcess, wait_until: Callable[..., None]
) -> None:
    """It has a session of its own, so the supervisor alone decides when it stops."""
    if not server.alive():
        server.restart()
    assert os.getsid(server.pid) == server.pid != os.getsid(0)
