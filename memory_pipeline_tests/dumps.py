"""Dumps and their loading, by the programs that a person uses: pg_dump and psql."""

import subprocess

from memory_pipeline.local.postgres_binaries import server_programs


def dump(url: str, *options: str) -> str:
    """Dump a database as SQL."""
    return _run("pg_dump", *options, "--dbname", url)


def load(url: str, sql: str, *, errors: bool = False) -> None:
    """Load a dump with psql; with ``errors`` it may say that something does not exist."""
    stop = () if errors else ("--set", "ON_ERROR_STOP=1")
    _run("psql", "--no-psqlrc", "--quiet", *stop, "--dbname", url, sql=sql)


def _run(program: str, *arguments: str, sql: str = "") -> str:
    done = subprocess.run(
        [str(server_programs() / program), *arguments],
        input=sql,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
