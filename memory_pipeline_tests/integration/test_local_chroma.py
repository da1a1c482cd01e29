"""The Chroma server of a home: private, restarted where it was, and restarted when it is stuck."""

import os
import resource
import signal
import sqlite3
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from itertools import repeat
from pathlib import Path
from threading import Event, Thread
from typing import Any

import chromadb
import httpx
import numpy as np
import psutil
import pytest
import yaml
from chromadb.errors import InternalError

from memory_pipeline.local.chroma import (
    ChromaProcess,
    chroma_service,
    remove_orphan_folders,
    start_chroma,
)
from memory_pipeline.local.chroma_stuck import WriteLockWatch
from memory_pipeline.local.probes import probe_chroma
from memory_pipeline.local.processes import ServiceFailed
from memory_pipeline.local.restarts import WatchedService
from memory_pipeline.testing.chaos.disk import Disk, small_disk
from memory_pipeline_tests.manual_clock import ManualClock


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaProcess]:
    """Start a server that these tests may stop."""
    folder = tmp_path_factory.mktemp("own-chroma")
    server = start_chroma(folder / "data", folder / "logs" / "chroma.log")
    yield server
    server.stop()


def test_it_listens_on_this_machine_alone(server: ChromaProcess) -> None:
    """Chroma has no login: no other machine may reach it."""
    sockets = psutil.Process(server.pid).net_connections(kind="tcp")
    assert {s.laddr.ip for s in sockets if s.status == psutil.CONN_LISTEN} == {"127.0.0.1"}


def test_it_may_open_as_many_files_as_the_machine_allows(server: ChromaProcess) -> None:
    """A collection takes four files, and the usual limit is reached with about 250 tenants."""
    soft, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    assert soft == (65_536 if hard == resource.RLIM_INFINITY else min(65_536, hard))


@pytest.mark.parametrize("existed", [False, True])
def test_its_data_is_its_owners_alone(tmp_path: Path, *, existed: bool) -> None:
    """What broke: every user of the machine could read all memories in ``chroma.sqlite3``."""
    data = tmp_path / "home" / "chroma"
    before = os.umask(0o022)
    try:
        if existed:
            data.mkdir(parents=True)
        chroma_service(data, tmp_path / "chroma.log")
    finally:
        os.umask(before)
    assert stat.S_IMODE(data.stat().st_mode) == 0o700


def test_no_request_resets_it(server: ChromaProcess) -> None:
    """One request must not be able to delete every collection."""
    assert not httpx.post(f"{server.url}/api/v2/reset").is_success


def test_it_logs_no_line_per_request(server: ChromaProcess) -> None:
    """Four lines for each request would fill the disk."""
    before = server.service.log_file.stat().st_size
    for _ in range(5):
        httpx.get(f"{server.url}/api/v2/heartbeat").raise_for_status()
    assert server.service.log_file.stat().st_size == before


def test_a_paused_server_hangs_and_can_still_be_stopped(server: ChromaProcess) -> None:
    """A process that takes connections and does not answer differs from no process."""
    os.kill(server.pid, signal.SIGSTOP)
    assert probe_chroma(server.url) == "hangs"
    server.stop()
    assert probe_chroma(server.url) == "down"


def test_it_comes_back_at_its_address_with_its_collections(server: ChromaProcess) -> None:
    """A client that has the address finds the same server after a restart."""
    collections = "/api/v2/tenants/default_tenant/databases/default_database/collections"
    server.restart()
    httpx.post(server.url + collections, json={"name": "kept"}).raise_for_status()
    server.restart()
    assert [c["name"] for c in httpx.get(server.url + collections).json()] == ["kept"]


def test_a_start_removes_what_deleted_collections_have_left(server: ChromaProcess) -> None:
    """What broke: each rebuild left a folder for ever, until the disk was full."""
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
    """No segment is known then, so no folder is an orphan."""
    folder = tmp_path / "0f7a4f0e-6c2d-4f0a-9a53-3a1f4e0f5b1c"
    folder.mkdir()
    remove_orphan_folders(tmp_path)
    (tmp_path / "chroma.sqlite3").write_bytes(b"no database" * 100)
    remove_orphan_folders(tmp_path)
    assert folder.exists()


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Disk]:
    """Mount a disk of its own that can be full."""
    with small_disk(tmp_path / "disk") as disk:
        if disk is None:
            pytest.skip("no disk of its own can be mounted here: only root may")
        yield disk


def test_one_that_a_full_disk_has_locked_is_started_again(
    full_disk: Disk, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    """What broke: with room again it still took no write, for ever."""
    data = full_disk.folder / "chroma"
    server = start_chroma(data, tmp_path / "chroma.log")
    watched = WatchedService(server.service)
    client = chromadb.HttpClient(port=server.service.port or 0)
    vectors = np.random.default_rng(0).standard_normal((20, 768), dtype=np.float32)
    ended = Event()
    try:
        first, *others = [client.create_collection(f"tenant-{n}") for n in range(30)]
        first.add(ids=[str(n) for n in range(20)], embeddings=vectors)
        full_disk.fill()
        # First writes, one after another, while another writer goes on; some are never answered.
        for collections in (others, repeat(first)):
            arguments = (collections, vectors, ended)
            Thread(target=_write_on, args=arguments, daemon=True).start()
        wait_until(lambda: _locked(data), within=60.0)
        ended.set()
        full_disk.make_room()
        assert _locked(data)
        server.service.stuck = WriteLockWatch(data, seconds=1.0).stuck
        wait_until(watched.restart_if_ended)
        server.service.wait_until_healthy()
        for one in (first, *others):
            one.upsert(ids=["after"], embeddings=vectors[:1])
        assert set(first.get(ids=["0", "after"], include=[])["ids"]) == {"0", "after"}
        assert not watched.restart_if_ended()
    finally:
        ended.set()
        server.service.stop_seconds = 1.0
        server.stop()


def _write_on(collections: Iterable[chromadb.Collection], vectors: Any, ended: Event) -> None:
    ids = [str(n) for n in range(len(vectors))]
    for collection in collections:
        if ended.is_set():
            return
        with suppress(InternalError, httpx.HTTPError):
            collection.upsert(ids=ids, embeddings=vectors)


def _locked(data: Path) -> bool:
    """Whether a writer that waits for two seconds does not get the lock."""
    with closing(sqlite3.connect(data / "chroma.sqlite3", timeout=2.0)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
    return False


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Make a database such as a server's."""
    path = tmp_path / "chroma.sqlite3"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE written (what)")
        yield connection


@pytest.mark.parametrize("journal", [True, False])
def test_a_transaction_that_stays_open_and_writes_nothing_is_stuck(
    database: sqlite3.Connection, tmp_path: Path, wait_until: Callable[..., None], *, journal: bool
) -> None:
    """After ``seconds``; and not when it has ended. A full disk may leave no journal."""
    database.execute("BEGIN IMMEDIATE")
    if journal:
        database.execute("INSERT INTO written VALUES (1)")
    assert (tmp_path / "chroma.sqlite3-journal").exists() == journal
    assert not WriteLockWatch(tmp_path, seconds=3600.0).stuck()
    lock = WriteLockWatch(tmp_path, seconds=0.5)
    wait_until(lock.stuck)
    database.execute("COMMIT")
    ends = time.monotonic() + 1.0
    wait_until(lambda: lock.stuck() or time.monotonic() > ends)
    assert not lock.stuck()


def test_a_server_that_works_is_never_stuck(database: sqlite3.Connection, tmp_path: Path) -> None:
    """One transaction after another, each check during one."""
    lock = WriteLockWatch(tmp_path, seconds=0.2)
    ends = time.monotonic() + 1.0
    while time.monotonic() < ends:
        database.execute("BEGIN IMMEDIATE")
        database.execute("INSERT INTO written VALUES (1)")
        assert not lock.stuck()
        database.execute("COMMIT")


def test_what_a_crash_has_left_is_not_stuck(
    database: sqlite3.Connection, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    """A journal without a process that holds the lock."""
    database.execute("BEGIN IMMEDIATE")
    database.execute("INSERT INTO written VALUES (1)")
    journal = tmp_path / "chroma.sqlite3-journal"
    left = journal.read_bytes()
    database.execute("ROLLBACK")
    journal.write_bytes(left)
    lock = WriteLockWatch(tmp_path, seconds=0.2)
    assert not lock.stuck()
    ends = time.monotonic() + 1.0
    wait_until(lambda: lock.stuck() or time.monotonic() > ends)
    assert not lock.stuck()


def test_a_database_that_is_damaged_is_not_stuck(tmp_path: Path) -> None:
    """What broke: the check raised, and the supervisor ended with all services."""
    (tmp_path / "chroma.sqlite3").write_bytes(b"no database" * 100)
    assert not WriteLockWatch(tmp_path)._held()


def test_after_a_pause_of_the_watcher_the_time_begins_again(
    database: sqlite3.Connection, tmp_path: Path
) -> None:
    """While a machine slept, the lock was not watched."""
    database.execute("BEGIN IMMEDIATE")
    database.execute("INSERT INTO written VALUES (1)")
    clock = ManualClock()
    lock = WriteLockWatch(tmp_path, seconds=30.0, clock=clock)
    assert not lock.stuck()
    clock.now += 3600.0
    assert not lock.stuck()
    for _ in range(9):
        clock.now += 3.0
        assert not lock.stuck()
    clock.now += 3.0
    assert lock.stuck()


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
    """The message has the reason, so no file has to be opened."""
    if not server.alive():
        server.restart()
    with pytest.raises(ServiceFailed, match=r"chroma ended while starting(?s:.)*ddress"):
        start_chroma(tmp_path / "data", tmp_path / "log", port=server.service.port or 0)


def test_ctrl_c_in_the_terminal_does_not_reach_it(
    server: ChromaProcess, wait_until: Callable[..., None]
) -> None:
    """It has a session of its own, so the supervisor alone decides when it stops."""
    if not server.alive():
        server.restart()
    assert os.getsid(server.pid) == server.pid != os.getsid(0)
