"""A number is stored as it was given, by every way in, and comes out so by every way out.

What broke: `12345678901234567890.125` arrived as `12345678901234567000`, `1e400` was refused, and a
memory that was read and written back had its large numbers as texts.
"""

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from memory_pipeline.cli import app
from memory_pipeline.domain.types import TenantId
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.settings import Settings
from memory_pipeline.store import MemoryStore
from memory_pipeline_tests.words import drained

GIVEN = (
    '{"text": "price", "a": 0.1234567890123456789012345, "b": 12345678901234567890.125, '
    '"c": 1.10, "d": 1e400, "e": 100000000000000000000000001, "f": -0.0}'
)


@pytest.fixture
def store(settings: Settings) -> Iterator[MemoryStore]:
    """Return a store on a test's own database."""
    with MemoryStore(settings) as store:
        yield store


def raw(db: psycopg.Connection) -> str:
    """Return what the one memory says."""
    [row] = db.execute("SELECT raw_data::text FROM memory_logs").fetchall()
    return str(row[0])


def as_jsonb(db: psycopg.Connection, text: str) -> str:
    """Return how Postgres prints a text as jsonb."""
    [row] = db.execute("SELECT %s::jsonb::text", (text,)).fetchall()
    return str(row[0])


@pytest.mark.parametrize("content", [GIVEN, "1e400", "[" * 2000 + "]" * 2000, "1" + "0" * 6000])
def test_json_on_the_command_line_is_stored_as_it_is_written(
    *,
    db: psycopg.Connection,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: str,
) -> None:
    """B13: `remember` does not read it."""
    monkeypatch.setenv("MEMORY_PIPELINE_DATABASE_URL", database_url)
    monkeypatch.setenv("MEMORY_PIPELINE_HOME", str(tmp_path))
    done = CliRunner().invoke(app, ["remember", "--user", "ada", content])
    assert done.exit_code == 0, done.output
    assert raw(db) == as_jsonb(db, content)


@pytest.mark.parametrize(
    ("content", "stored"),
    [("a price", '{"text": "a price"}'), ('{"a" 1}', '{"text": "{\\"a\\" 1}"}')],
)
def test_what_is_no_json_is_a_text(
    *,
    db: psycopg.Connection,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: str,
    stored: str,
) -> None:
    """As before."""
    monkeypatch.setenv("MEMORY_PIPELINE_DATABASE_URL", database_url)
    monkeypatch.setenv("MEMORY_PIPELINE_HOME", str(tmp_path))
    assert CliRunner().invoke(app, ["remember", "--user", "ada", content]).exit_code == 0
    assert raw(db) == stored


def test_nan_on_the_command_line_is_refused(
    db: psycopg.Connection, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is neither JSON nor meant as a text."""
    monkeypatch.setenv("MEMORY_PIPELINE_DATABASE_URL", database_url)
    monkeypatch.setenv("MEMORY_PIPELINE_HOME", str(tmp_path))
    done = CliRunner().invoke(app, ["remember", "--user", "ada", '{"a": NaN}'])
    assert (done.exit_code, done.output) == (2, "memory-pipeline: NaN is no JSON; write null\n")
    assert db.execute("SELECT FROM memory_logs").fetchall() == []


@pytest.mark.parametrize(
    ("content", "stored"),
    [
        (Decimal("12345678901234567890.125"), "12345678901234567890.125"),
        ({"n": [Decimal("1.10"), Decimal("1E+400")]}, '{"n": [1.10, 1' + "0" * 400 + "]}"),
        (10**6000, "1" + "0" * 6000),
    ],
    ids=["decimal", "nested", "long"],
)
def test_a_number_of_python_is_stored_as_it_is(
    store: MemoryStore, db: psycopg.Connection, content: Any, stored: str
) -> None:
    """B13: whatever its length."""
    memory = store.remember("ada", content)
    assert raw(db) == stored
    assert store.update("ada", memory, [content])
    assert raw(db) == f"[{stored}]"


def test_a_memory_that_is_read_and_written_back_is_the_same(
    store: MemoryStore, db: psycopg.Connection
) -> None:
    """What 64 bits cannot hold was written back as a text."""
    content = '{"d": 1e400, "e": 100000000000000000000000001, "n": [1, 2.5]}'
    db.execute("INSERT INTO memory_logs (user_id, raw_data) VALUES ('ada', %s)", (content,))
    [memory] = db.execute("SELECT id FROM memory_logs").fetchone() or ()
    before = raw(db)
    assert store.update("ada", memory, store.get("ada", memory))
    assert raw(db) == before


def test_a_search_prints_a_number_as_one(
    pipeline: Pipeline, settings: Settings, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`search --json` printed what 64 bits cannot hold as a text."""
    db.execute("INSERT INTO memory_logs (user_id, raw_data) VALUES ('ada', %s)", (GIVEN,))
    drained(pipeline)
    assert pipeline.memories.count(TenantId("ada")) == 1
    monkeypatch.setenv("MEMORY_PIPELINE_DATABASE_URL", settings.database_url.get_secret_value())  # type: ignore[union-attr]
    monkeypatch.setenv("MEMORY_PIPELINE_CHROMA_URL", str(settings.chroma_url))
    monkeypatch.setenv("MEMORY_PIPELINE_EMBEDDER", "hashing")
    monkeypatch.setenv("MEMORY_PIPELINE_HOME", str(settings.home))
    done = CliRunner().invoke(app, ["search", "--tenant", "ada", "price", "--json"])
    assert done.exit_code == 0, done.output
    [hit] = json.loads(done.stdout, parse_int=str)
    assert hit["memory"]["e"] == "100000000000000000000000001"
    assert '"e": 100000000000000000000000001' in done.stdout
