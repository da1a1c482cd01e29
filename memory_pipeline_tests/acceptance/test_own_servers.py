"""The command with servers of the user's own: attach, outages, and two stores that agree."""

import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from memory_pipeline.content.document import recipe_from, searchable_text
from memory_pipeline.content.json_text import parse
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.local.chroma import ChromaProcess, start_chroma
from memory_pipeline.settings import Settings
from memory_pipeline_tests.acceptance.conftest import Cli

ROWS = 500

CONTRACT = """
CREATE EXTENSION vector;
CREATE TABLE memory_logs (
    id bigint PRIMARY KEY, user_id text NOT NULL, project_id text, raw_data jsonb NOT NULL,
    embedding vector(768), created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL
)
"""


@pytest.fixture
def own_chroma(tmp_path: Path) -> Iterator[ChromaProcess]:
    """Start a Chroma that a test may stop."""
    server = start_chroma(tmp_path / "chroma", tmp_path / "chroma.log")
    yield server
    server.stop()


@pytest.fixture
def cli(tmp_path: Path, empty_database: str, own_chroma: ChromaProcess) -> Cli:
    """Return the command, pointed at the user's own servers."""
    return Cli(
        tmp_path / "home",
        {
            "DATABASE_URL": empty_database,
            "CHROMA_URL": own_chroma.url,
            "RETRY_SECONDS": "0.1",
            "GRACE_SECONDS": "0.1",
        },
    )


def fill(url: str) -> None:
    """Fill a memory_logs that was there before, each row with the vector of its text."""
    recipe = recipe_from(Settings.load(embedder="hashing"))
    embedder = HashingEmbedder()
    with psycopg.connect(url) as connection:
        connection.execute(CONTRACT)
        for number in range(ROWS):
            raw = json.dumps({"summary": f"memory number {number} of the old days"})
            text = searchable_text(parse(raw), recipe)
            vector = "[" + ",".join(map(str, embedder.embed([text])[0].tolist())) + "]"
            connection.execute(
                "INSERT INTO memory_logs VALUES (%s, %s, 'p', %s, %s, now(), now())",
                (number, f"user-{number % 7}", raw, vector),
            )


@pytest.mark.parametrize(("vectors", "embedded"), [("trust", 0), ("recompute", ROWS)])
def test_a_filled_table_is_searchable_after_migrate_and_one_sync(
    cli: Cli, empty_database: str, vectors: str, embedded: int
) -> None:
    """Trusted vectors are used as they are; others are computed once and never again."""
    fill(empty_database)
    cli("migrate", "--vectors", vectors)
    figures = cli.json("sync")
    assert figures["written"] == ROWS
    assert figures["embedded"] == embedded
    assert figures["pending_changes"] == 0
    status = cli.json("status")
    assert status["documents"] == status["memories"] == ROWS
    hits = cli.json("search", "--tenant", "user-3", "memory number 101 of the old days")
    assert hits[0]["memory"]["summary"] == "memory number 101 of the old days"
    assert cli.json("sync") == {**dict.fromkeys(figures, 0)}


def test_with_chroma_stopped_nothing_fails_and_afterwards_nothing_is_missing(
    cli: Cli, own_chroma: ChromaProcess
) -> None:
    """P6, P1: remember works at once, status names what is down and how many changes wait."""
    cli("migrate")
    cli("remember", "--user", "ada", "before the outage")
    cli("sync")
    own_chroma.stop()

    cli("remember", "--user", "ada", "during the outage")
    status = cli.json("status")
    assert status["services"]["chroma"] == "external down"
    assert status["pending_changes"] == 1
    assert status["documents"] is None
    assert any("Chroma" in problem for problem in status["problems"])
    assert "Chroma" in cli("search", "--tenant", "ada", "outage", code=3).stderr
    assert "postponed" in cli("sync", code=3).stderr

    own_chroma.restart()
    cli("sync")
    status = cli.json("status")
    assert status["pending_changes"] == status["dead_letters"] == status["retrying"] == 0
    assert status["documents"] == status["memories"] == 2
    assert len(cli.json("search", "--tenant", "ada", "outage")) == 2


def test_a_move_never_shows_a_memory_to_the_wrong_tenant(cli: Cli, empty_database: str) -> None:
    """P3: also between the move and its sync."""
    cli("migrate")
    memory_id = cli.json("remember", "--user", "ada", "the secret recipe")["memory_id"]
    cli("sync")
    with psycopg.connect(empty_database) as connection:
        connection.execute("UPDATE memory_logs SET user_id = 'ben' WHERE id = %s", (memory_id,))

    assert cli.json("search", "--tenant", "ada", "the secret recipe") == []
    assert cli.json("search", "--tenant", "ben", "the secret recipe") == []
    cli("sync")
    assert cli.json("search", "--tenant", "ada", "the secret recipe") == []
    assert len(cli.json("search", "--tenant", "ben", "the secret recipe")) == 1
    documents = {t["tenant"]: t["documents"] for t in cli.json("tenants")}
    assert documents == {"ada": 0, "ben": 1}


def test_a_table_that_does_not_match_is_refused_and_not_changed(
    cli: Cli, empty_database: str
) -> None:
    """All problems are listed at once; nothing is changed."""
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute("CREATE TABLE memory_logs (id integer, user_id text, raw_data json)")
        printed = cli("migrate", code=2).stderr
        for expected in ("memory_logs.id is integer", "raw_data is json", "no column embedding"):
            assert expected in printed
        found = connection.execute("SELECT to_regnamespace('memory_pipeline')").fetchone()
    assert found == (None,)
