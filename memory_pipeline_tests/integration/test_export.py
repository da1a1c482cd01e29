"""An export gives back what an import takes, as it stood at one moment."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from memory_pipeline.cli import app
from memory_pipeline.domain.types import TenantId
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.errors import SettingsError
from memory_pipeline.local.postgres import EmbeddedPostgres
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.settings import Settings
from memory_pipeline.transfer.exporting import export_file
from memory_pipeline.transfer.importing import Reading, import_file
from memory_pipeline.transfer.mapping import ByKeys, Finish
from memory_pipeline_tests.databases import new_database

ROWS = """
INSERT INTO memory_logs (user_id, project_id, raw_data, created_at) VALUES
    ('ada', NULL, '{"b": 12345678901234567890.125, "a": 1.10, "e": 1e400}', '2024-01-01 00:00+02'),
    ('ada', 'p', 'null', 'infinity'),
    ('', '', '7', '2024-01-01'),
    ('bob', '', '"a\\"b\\\\c\\nd"', '-infinity'),
    ('eve', 'ü\u2028', '[{"text": "\\u00e9\\ud83d\\ude00"}]', '0044-03-15 BC'),
    (E'a"\\n\\\\b', 'p', '1', '20000-01-01')
"""
COLUMNS = "user_id, project_id, raw_data::text, created_at::text"


@pytest.fixture
def other(postgres: EmbeddedPostgres, settings: Settings) -> Iterator[Pipeline]:
    """Return the parts, connected to another, empty database."""
    changed = {"database_url": new_database(postgres)}
    there = Settings.load(**{**settings.model_dump(), **changed})
    with opened(there, embedder=HashingEmbedder()) as parts:
        yield parts


@pytest.mark.parametrize("name", ["f.jsonl", "f.jsonl.gz"])
@pytest.mark.parametrize("column", ["timestamptz", "timestamp"])
def test_an_export_that_is_imported_is_the_same(
    *,
    pipeline: Pipeline,
    db: psycopg.Connection,
    other: Pipeline,
    tmp_path: Path,
    name: str,
    column: str,
) -> None:
    """Every number, text and time, those of Postgres alone too, in order."""
    db.execute(f"ALTER TABLE memory_logs ALTER created_at TYPE {column}")
    db.execute(ROWS)
    path = tmp_path / name
    assert export_file(pipeline.transfer, path) == 6
    assert (path.read_bytes()[:2] == b"\x1f\x8b") == name.endswith(".gz")
    assert path.stat().st_mode & 0o077 == 0
    assert os.listdir(tmp_path) == [name]  # noqa: PTH208 - hidden files too
    finish = Finish()
    import_file(other.transfer, path, Reading(ByKeys(), finish))
    with other.database.transaction() as connection:
        connection.execute(f"ALTER TABLE memory_logs ALTER created_at TYPE {column}")
        found = connection.execute(f"SELECT {COLUMNS} FROM memory_logs ORDER BY id").fetchall()
    assert [tuple(row) for row in found] == db.execute(
        f"SELECT {COLUMNS} FROM memory_logs ORDER BY id"
    ).fetchall()


def test_only_the_memories_of_the_tenants_that_are_named_are_exported(
    pipeline: Pipeline, db: psycopg.Connection, tmp_path: Path
) -> None:
    """A tenant without memories has none."""
    db.execute(ROWS)
    path = tmp_path / "f.jsonl"
    tenants = [TenantId("bob"), TenantId("ada"), TenantId("none")]
    assert export_file(pipeline.transfer, path, tenants=tenants) == 3
    users = [json.loads(line)["user_id"] for line in path.read_text().splitlines()]
    assert users == ["ada", "ada", "bob"]


def test_an_export_is_of_one_moment(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """What is written meanwhile is not in it: neither twice nor half."""
    db.execute(
        "INSERT INTO memory_logs (user_id, raw_data)"
        " SELECT 'ada', to_jsonb(n) FROM generate_series(1, 5000) AS n"
    )
    lines = pipeline.transfer.export(None)
    first = next(lines)
    db.execute("DELETE FROM memory_logs WHERE raw_data > '2'")
    db.execute("INSERT INTO memory_logs (user_id, raw_data) VALUES ('ada', '0')")
    said = [json.loads(line)["raw_data"] for line in (first, *lines)]
    assert said == list(range(1, 5001))


def test_an_export_that_fails_leaves_the_file_as_it_was(
    pipeline: Pipeline, db: psycopg.Connection, tmp_path: Path
) -> None:
    """Half an export looks like a whole one."""
    db.execute(ROWS)
    path = tmp_path / "f.jsonl"
    path.write_text("before")

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_file(pipeline.transfer, path, progress=stop)
    # The last report comes when the file is there.
    assert path.read_text() != "before"
    path.write_text("before")
    db.execute("ALTER TABLE memory_logs RENAME TO elsewhere")
    with pytest.raises(Exception, match="missing"):
        export_file(pipeline.transfer, path)
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["f.jsonl"]  # noqa: PTH208 - hidden files too
    with pytest.raises(SettingsError, match="cannot be written"):
        export_file(pipeline.transfer, tmp_path / "none" / "f.jsonl")


def test_the_command_exports_to_the_standard_output(
    db: psycopg.Connection, database_url: str, tmp_path: Path
) -> None:
    """For a pipe into another program; what belongs to no tenant is counted beside it."""
    db.execute("ALTER TABLE memory_logs ALTER user_id DROP NOT NULL")
    db.execute(ROWS)
    db.execute("INSERT INTO memory_logs (user_id, raw_data) VALUES (NULL, '1')")
    done = subprocess.run(
        [sys.executable, "-c", "from memory_pipeline.cli import main; main()", "export"],
        env={
            **os.environ,
            "MEMORY_PIPELINE_DATABASE_URL": database_url,
            "MEMORY_PIPELINE_HOME": str(tmp_path),
        },
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert len(done.stdout.splitlines()) == 6
    assert done.stderr.decode().splitlines() == [
        "exported 6 memories",
        "1 rows belong to no tenant and were left out",
    ]


def test_a_device_that_is_full_is_named(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """It is written to as it is: a device cannot be replaced by a file."""
    db.execute(ROWS)
    with pytest.raises(SettingsError, match="/dev/full cannot be written"):
        export_file(pipeline.transfer, Path("/dev/full"))
    assert Path("/dev/full").is_char_device()


def test_the_command_exports_a_file(
    db: psycopg.Connection,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of one tenant, compressed by its name."""
    monkeypatch.setenv("MEMORY_PIPELINE_DATABASE_URL", database_url)
    monkeypatch.setenv("MEMORY_PIPELINE_HOME", str(tmp_path / "home"))
    db.execute(ROWS)
    path = tmp_path / "f.jsonl.gz"
    done = CliRunner().invoke(app, ["export", str(path), "--tenant", "ada"])
    assert (done.exit_code, done.output) == (0, "exported 2 memories\n")
    with gzip.open(path) as file:
        assert len(file.readlines()) == 2
