"""The embedded Postgres: private, restarted after a crash, and its data is never replaced."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy

from memory_pipeline.local.postgres import EmbeddedPostgres, embedded_postgres, start_postgres
from memory_pipeline.local.postgres_binaries import server_programs, server_user
from memory_pipeline.local.postgres_location import choose_data_location, closed_above
from memory_pipeline.local.processes import ServiceFailed

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root's folders can be in the way")


@pytest.fixture(scope="module")
def open_folder() -> Iterator[Path]:
    """Make a folder that every user may pass through; pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="memory-pipeline-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def server(open_folder: Path) -> Iterator[EmbeddedPostgres]:
    """Start a server that these tests may kill."""
    server = start_postgres(open_folder / "home" / "postgres", durable=False)
    yield server
    server.remove()


def modes(path: Path) -> dict[Path, int]:
    """Return the permissions of a folder and of all above it."""
    return {p: stat.S_IMODE(p.stat().st_mode) for p in (path, *path.parents)}


def setting(server: EmbeddedPostgres, name: str) -> str:
    """Return one of the server's settings."""
    with psycopg.connect(server.url("postgres")) as connection:
        return str(connection.execute("SELECT current_setting(%s)", (name,)).fetchone()[0])  # type: ignore[index]


def test_the_address_serves_psycopg_and_dagsters_driver(server: EmbeddedPostgres) -> None:
    """One address works for every library in use, also with a name that has to be quoted."""
    server.create_database("a b+c")
    server.create_database("a b+c")
    url = server.url("a b+c")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
    server.create_database("plain")
    engine = sqlalchemy.create_engine(
        server.url("plain").replace("postgresql:", "postgresql+psycopg2:")
    )
    with engine.connect() as alchemy:
        assert alchemy.exec_driver_sql("SELECT current_database()").scalar() == "plain"
    engine.dispose()


def test_the_server_is_small_and_listens_on_its_socket_alone(server: EmbeddedPostgres) -> None:
    """No network reaches it, and tests do not wait for the disk."""
    assert setting(server, "listen_addresses") == ""
    assert setting(server, "max_connections") == "200"
    assert setting(server, "shared_buffers") == "128MB"
    assert setting(server, "fsync") == "off"
    assert stat.S_IMODE(server.data.stat().st_mode) == 0o700


def test_a_second_start_finds_the_server_that_runs(server: EmbeddedPostgres) -> None:
    """Starting twice is starting once."""
    assert start_postgres(server.wanted, durable=False).identity() == server.identity()


def test_it_starts_again_after_kill_9(server: EmbeddedPostgres) -> None:
    """Committed data is there, whatever files the dead server has left."""
    server.create_database("kept")
    before = server.identity()
    assert before is not None
    os.kill(before.pid, signal.SIGKILL)
    server.ensure_running()
    assert server.identity() != before
    psycopg.connect(server.url("kept")).close()


def test_a_stale_pid_file_that_names_a_living_process_is_no_server(
    server: EmbeddedPostgres,
) -> None:
    """A pid that is used again is not taken for the server and does not keep it from starting."""
    server.stop()
    stale = f"{os.getpid()}\n{server.data}\n1\n5432\n\n\n\n\n"
    for file in (server.data / "postmaster.pid", server.sockets / ".s.PGSQL.5432.lock"):
        file.write_text(stale)
        if server.user is not None:
            shutil.chown(file, server.user)
    assert not server.alive()
    server.ensure_running()
    assert server.alive()


def test_a_killed_initdb_leaves_no_data_folder(open_folder: Path) -> None:
    """An unfinished data folder is made again, not started."""
    data = open_folder / "half" / "postgres"
    (data.parent / "postgres.part").mkdir(parents=True)
    (data.parent / "postgres.part" / "PG_VERSION").write_text("18\n")
    server = start_postgres(data, durable=False)
    assert server.alive()
    server.remove()


def test_it_outlives_the_process_that_started_it(open_folder: Path) -> None:
    """`up --detach` ends; its Postgres does not."""
    data = open_folder / "outlives" / "postgres"
    program = (
        "import sys; from pathlib import Path; from memory_pipeline.local.postgres import "
        "start_postgres; start_postgres(Path(sys.argv[1]), durable=False)"
    )
    subprocess.run([sys.executable, "-c", program, str(data)], check=True)
    server = embedded_postgres(data)
    assert server.alive()
    server.remove()
    assert not server.alive()


def test_a_long_path_gets_a_socket_elsewhere(open_folder: Path) -> None:
    """The path of a Unix socket has at most 107 bytes; a home may be longer."""
    data = open_folder / ("long-" * 24) / "postgres"
    server = start_postgres(data, durable=False)
    assert len(str(server.sockets)) < 90
    assert stat.S_IMODE(server.sockets.stat().st_mode) == 0o700
    psycopg.connect(server.url("postgres")).close()
    server.remove()
    assert not server.sockets.exists() or not any(server.sockets.iterdir())


@as_root
def test_a_closed_home_stays_closed_and_the_data_goes_elsewhere(
    open_folder: Path, wait_until: Callable[..., None]
) -> None:
    """What broke: the wheel opened root's 0700 home (and all above it) to reach its data.

    Not enough: opening only o+x. What must not change: the mode of any folder that is not ours.
    """
    home = open_folder / "closed"
    home.mkdir(mode=0o700)
    before = modes(home)
    programs = modes(server_programs())
    server = start_postgres(home / "postgres", durable=False)
    try:
        assert modes(home) == before
        assert modes(server_programs()) == programs
        assert closed_above(server.data) is None
        assert str(server.data) in server.note
        psycopg.connect(server.url("postgres")).close()
        assert embedded_postgres(home / "postgres").location == server.location
        home.chmod(0o755)
        assert embedded_postgres(home / "postgres").location == server.location
    finally:
        server.remove()
    assert not server.data.exists()


@as_root
def test_data_that_a_folder_was_closed_over_is_named_not_replaced(open_folder: Path) -> None:
    """An empty database in another place would look like the loss of every memory."""
    home = open_folder / "closed-later"
    (home / "postgres").mkdir(parents=True)
    (home / "postgres" / "PG_VERSION").write_text("18\n")
    home.chmod(0o700)
    with pytest.raises(ServiceFailed, match="closed to others"):
        choose_data_location(home / "postgres")


@as_root
def test_programs_below_a_closed_folder_are_copied_once(open_folder: Path) -> None:
    """A venv in root's home stays closed too: the server runs from a copy."""
    package = server_programs().parents[1]
    closed = open_folder / "closed-venv"
    closed.mkdir()
    for folder in (package / "pginstall18", package.with_name(f"{package.name}.libs")):
        target = closed / folder.relative_to(package.parent)
        shutil.copytree(folder, target, symlinks=True, ignore=shutil.ignore_patterns("include"))
    closed.chmod(0o700)
    shared = open_folder / "shared"
    programs = server_programs(closed / package.name, shared)
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert programs.is_relative_to(shared)
    for program in ("postgres", "initdb", "pg_ctl"):
        version = subprocess.run(
            [programs / program, "--version"],
            user=server_user(),
            cwd="/",
            capture_output=True,
            text=True,
            check=True,
        )
        assert "18" in version.stdout
    assert list(programs.parent.glob("share/**/vector.control"))
    copied = programs.stat().st_ino
    assert server_programs(closed / package.name, shared).stat().st_ino == copied
