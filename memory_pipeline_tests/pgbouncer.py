"""A PgBouncer in transaction mode in front of a Postgres, as many companies run one.

Debian's program with a configuration of its own. Each transaction may get another connection to
the server, and a connection goes from one client to the next as it is: with its prepared
statements and its session settings.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

from memory_pipeline.local.child_process import Service
from memory_pipeline.local.postgres_binaries import server_user
from memory_pipeline.settings import Settings
from memory_pipeline_tests.needs import unavailable

# Set, the pipeline of each test reaches its database through a pooler.
POOLED = "TEST_POOLED"

CONSOLE = "pgbouncer"
# As Postgres': an address then needs no port.
PORT = 5432
# Below the limit of a test, so that a pool that is used up says so.
WAIT_SECONDS = 30
# Each test has a database, and each database a pool: Postgres has 200 connections for all of them.
IDLE_SECONDS = 2
MAX_CLIENTS = 500

# What psycopg and others would call their own first statements.
NEIGHBOUR = "PREPARE {name} AS SELECT 'the row of a neighbour'"
NEIGHBOURS_NAMES = tuple(f"_pg3_{number}" for number in range(10))

LEFT_BEHIND = """
-- PgBouncer itself sets what every client may have chosen at its connect.
SELECT format('setting %s = %s', name, setting) FROM pg_settings
WHERE source = 'session' AND lower(name) NOT IN
    ('application_name', 'client_encoding', 'datestyle', 'standard_conforming_strings', 'timezone')
UNION ALL SELECT 'prepared statement ' || name FROM pg_prepared_statements
          WHERE statement NOT LIKE '%the row of a neighbour%'
UNION ALL SELECT 'channel ' || channel FROM pg_listening_channels() AS channel
UNION ALL SELECT 'advisory lock' FROM pg_locks
          WHERE locktype = 'advisory' AND pid = pg_backend_pid()
UNION ALL SELECT 'cursor ' || name FROM pg_cursors WHERE name <> ''
UNION ALL SELECT 'table ' || relname FROM pg_class WHERE relnamespace = pg_my_temp_schema()
"""


@dataclass(frozen=True, slots=True)
class PgBouncer:
    """A pooler that runs; ``folder`` has its configuration, its socket and its log."""

    folder: Path
    server: str
    service: Service
    pool_size: int

    def url(self, database: str) -> str:
        """Return the address of a database of the server behind, through the pooler."""
        return _address(self.folder, user=_user(self.server), database=database)

    def through(self, url: str) -> str:
        """Return the way through the pooler to what ``url`` names on the server behind."""
        return _address(self.folder, user=_user(url), database=str(conninfo_to_dict(url)["dbname"]))

    def seed(self, url: str) -> None:
        """Open every session to a database, and leave in each what a neighbour has prepared.

        Transactions take turns at them from now on: one client does not find its own again.
        """
        with self._every_session(url) as sessions:
            for session in sessions:
                for name in NEIGHBOURS_NAMES:
                    session.execute(NEIGHBOUR.format(name=name).encode())

    def left_behind(self, url: str) -> set[str]:
        """Return the state that the next clients would find in the sessions to a database."""
        with self._every_session(url) as sessions:
            return {str(row[0]) for session in sessions for row in session.execute(LEFT_BEHIND)}

    @contextmanager
    def _every_session(self, url: str) -> Iterator[list[psycopg.Connection]]:
        """Hold all sessions of a pool at once: each client is in a transaction."""
        with ExitStack() as stack:
            clients = [
                stack.enter_context(psycopg.connect(self.through(url), prepare_threshold=None))
                for _ in range(self.pool_size)
            ]
            for client in clients:
                client.execute("SELECT 1")
            yield clients

    def show(self, what: str) -> list[dict[str, object]]:
        """Ask the pooler's console: pools, servers, clients, ...; a row is a mapping."""
        with psycopg.connect(self.url(CONSOLE), autocommit=True) as console:
            cursor = psycopg.ClientCursor(console).execute(f"SHOW {what}".encode())
            names = [column.name for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor]


def through_pooler(settings: Settings, pooler: PgBouncer) -> Settings:
    """Return settings of the same installation whose address is that of the pooler."""
    assert settings.database_url is not None
    address = pooler.through(settings.database_url.get_secret_value())
    return settings.model_copy(update={"database_url": SecretStr(address)})


@contextmanager
def pgbouncer(server: str, *, pool_size: int = 3, **settings: str | int) -> Iterator[PgBouncer]:
    """Start a pooler in front of a server; stop it at the end. Skips the test where there is none.

    Args:
        server: the address of any database of the server. All of them are served, to its user with
            its password; to other roles only where the server asks no password.
        pool_size: how many connections to the server each pair of a role and a database shares.
        settings: more of pgbouncer.ini, which win; ``pool_mode="session"`` for example.

    """
    program = _program()
    user = server_user()
    folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
    try:
        chosen: dict[str, str | int] = {
            "unix_socket_dir": str(folder),
            "listen_port": PORT,
            "pool_mode": "transaction",
            "default_pool_size": pool_size,
            # Not the one that was used last, which a client alone would always get again.
            "server_round_robin": 1,
            "query_wait_timeout": WAIT_SECONDS,
            "server_idle_timeout": IDLE_SECONDS,
            "max_client_conn": MAX_CLIENTS,
            # Whoever reaches the socket is let in, as the role that they say they are.
            "auth_type": "trust",
            "auth_file": str(folder / "users.txt"),
            "auth_query": "SELECT usename, passwd FROM pg_catalog.pg_shadow WHERE usename = $1",
            "admin_users": _user(server),
        }
        if _version(program) >= (1, 21):
            # Unless told so, newer ones know the prepared statements of their clients.
            chosen["max_prepared_statements"] = 0
        _write_configuration(folder, server, chosen | settings)
        for path in (folder, *folder.iterdir()):
            if user is not None:
                shutil.chown(path, user)
        bouncer = PgBouncer(
            folder, server, _service(program, folder, user, _user(server)), pool_size
        )
        bouncer.service.start()
        try:
            bouncer.service.wait_until_healthy(within=20)
            yield bouncer
        finally:
            bouncer.service.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _service(program: str, folder: Path, user: str | None, admin: str) -> Service:
    def answers(_: Service) -> bool:
        try:
            psycopg.connect(_address(folder, user=admin, database=CONSOLE), autocommit=True).close()
        except psycopg.OperationalError:
            return False
        return True

    # As root it runs for nobody, but becomes another user that is named.
    as_user = () if user is None else ("-u", user)
    return Service(
        name="pgbouncer",
        command=(program, *as_user, str(folder / "pgbouncer.ini")),
        log_file=folder / "pgbouncer.log",
        healthy=answers,
        stop_seconds=2.0,
    )


def _write_configuration(folder: Path, server: str, settings: dict[str, str | int]) -> None:
    given = conninfo_to_dict(server)
    target = {name: str(given[name]) for name in ("host", "port") if given.get(name)}
    lines = [
        "[databases]",
        f"* = {make_conninfo(**target)} auth_user={_user(server)}",
        "[pgbouncer]",
        *(f"{name} = {value}" for name, value in settings.items()),
    ]
    (folder / "pgbouncer.ini").write_text("\n".join(lines) + "\n")
    password = str(given.get("password") or "").replace('"', '""')
    (folder / "users.txt").write_text(f'"{_user(server)}" "{password}"\n')


def _address(folder: Path, *, user: str, database: str) -> str:
    return f"postgresql://{quote(user)}@/{quote(database)}?host={quote(str(folder))}"


def _user(url: str) -> str:
    return str(conninfo_to_dict(url).get("user") or "postgres")


@cache
def _version(program: str) -> tuple[int, ...]:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"PgBouncer (\d+)\.(\d+)", said.stdout)
    assert found is not None, said.stdout
    return tuple(int(part) for part in found.groups())


def _program() -> str:
    # A user that is not root has no sbin on the path.
    found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    return found or unavailable("no PgBouncer here", install="apt-get install pgbouncer")
