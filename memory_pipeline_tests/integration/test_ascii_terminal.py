"""A terminal that shows ASCII alone: every command prints, whatever a memory holds."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from memory_pipeline.settings import Settings
from memory_pipeline_tests.words import remember

COMMAND = Path(sys.executable).with_name("memory-pipeline")
TENANT = "Zoë 🐈"
SUMMARY = "naïve café — “quoted” … 日本語 🐈"
# In the first, Python takes the bytes of the command line for UTF-8; in the second for ASCII.
TERMINALS = {
    "posix": {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
    "ascii": {
        "LC_ALL": "C",
        "PYTHONIOENCODING": "ascii",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
    },
    "latin-1": {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "latin-1"},
}
Run = Callable[..., subprocess.CompletedProcess[bytes]]
posix = pytest.mark.parametrize("run", ["posix"], indirect=True)


@pytest.fixture(params=TERMINALS)
def run(request: pytest.FixtureRequest, settings: Settings, unmarked_chroma: None) -> Run:
    """Return a function that runs a command in such a terminal and expects an exit code."""
    assert settings.database_url is not None
    assert settings.chroma_url is not None
    environment = {
        **os.environ,
        **TERMINALS[request.param],
        "MEMORY_PIPELINE_HOME": str(settings.home),
        "MEMORY_PIPELINE_DATABASE_URL": settings.database_url.get_secret_value(),
        "MEMORY_PIPELINE_CHROMA_URL": settings.chroma_url,
        "MEMORY_PIPELINE_EMBEDDER": "hashing",
    }

    def command(*words: str | bytes, code: int = 0) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [COMMAND, *words], env=environment, capture_output=True, timeout=100, check=False
        )
        assert b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
        assert done.returncode == code, done.stderr.decode(errors="replace")
        return done

    return command


def test_every_command_shows_any_memory(run: Run, db: psycopg.Connection) -> None:
    """What broke: a traceback in the middle of a table, for a character of a memory."""
    run("remember", "--user", TENANT, json.dumps({"summary": SUMMARY}, ensure_ascii=False))
    stored = db.execute("SELECT user_id, raw_data->>'summary' FROM memory_logs").fetchone()
    assert stored == (TENANT, SUMMARY)
    remember(db, "broken", "x" * 10)
    run("sync")
    found = run("search", "--tenant", TENANT, SUMMARY).stdout
    spelled = {rb'na\xefve caf\xe9 - "quoted" ...', 'naïve café - "quoted" ...'.encode("latin-1")}
    assert any(words in found for words in spelled)
    hits = json.loads(run("search", "--tenant", TENANT, SUMMARY, "--json").stdout)
    assert hits[0]["memory"]["summary"] == SUMMARY
    run("tenants")


@posix
def test_every_other_command_shows_any_tenant(run: Run, db: psycopg.Connection) -> None:
    """In the terminal that most people mean: a container without a locale."""
    remember(db, TENANT, SUMMARY)
    run("sync")
    run("rebuild", "--tenant", TENANT)
    run("verify")
    run("dead-letters", "list")
    run("migrate", "--sql")


@posix
def test_help_is_shown(run: Run) -> None:
    """Dashes and dots of our own are spelled in ASCII."""
    assert b"rebuild" in run("--help").stdout
    for name in ("up", "search", "rebuild", "detach"):
        assert run(name, "--help").stdout.isascii()


@posix
def test_an_argument_that_is_no_text_is_refused(run: Run) -> None:
    """One sentence instead of an error of the database's driver."""
    printed = run("search", "--tenant", b"\xff\xfe", "words", code=2).stderr
    assert b"is not UTF-8" in printed
    assert len(printed.splitlines()) == 1
