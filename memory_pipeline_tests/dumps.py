"""Dumps and their loading, by the programs that a person uses: pg_dump and psql."""

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import psycopg

from memory_pipeline.local.postgres_binaries import server_programs
from memory_pipeline_tests.needs import unavailable


def dump(url: str, *options: str) -> str:
    """Dump a database as SQL."""
    return _run("pg_dump", *options, url=url)


def load(url: str, sql: str, *, errors: bool = False) -> None:
    """Load a dump with psql; with ``errors`` it may say that something does not exist."""
    stop = () if errors else ("--set", "ON_ERROR_STOP=1")
    _run("psql", "--no-psqlrc", "--quiet", *stop, url=url, sql=sql)


def _run(program: str, *arguments: str, url: str, sql: str = "") -> str:
    with psycopg.connect(url) as connection:
        programs = _programs(connection.info.server_version // 10_000)
    done = subprocess.run(
        [str(programs / program), *arguments, "--dbname", url],
        input=sql,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def _programs(major: int) -> Path:
    """Return the folder of a version's programs: a newer dump sets what an older server lacks."""
    on_path = shutil.which("pg_dump")
    for folder in (
        server_programs(),
        Path(f"/usr/lib/postgresql/{major}/bin"),
        *([Path(on_path).parent] if on_path else []),
    ):
        if (folder / "pg_dump").exists() and _major(folder / "pg_dump") == major:
            return folder
    return unavailable(
        f"no pg_dump of Postgres {major} here, and no other's dump is sure to load there",
        install=f"apt-get install postgresql-client-{major}",
    )


def _major(program: Path) -> int:
    said = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"\) (\d+)", said.stdout)
    assert found is not None, said.stdout
    return int(found[1])
