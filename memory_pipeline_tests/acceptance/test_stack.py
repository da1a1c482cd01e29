"""The main job end to end, by the installed command; only Dagster's sensor syncs."""

import json
import subprocess
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import httpx
import numpy as np
import psycopg
import pytest
from pgvector.psycopg import register_vector

from memory_pipeline_tests.acceptance.conftest import Cli, partitions

SAMPLE = files("memory_pipeline.local") / "sample.jsonl"
WaitUntil = Callable[..., None]


def exports(cli: Cli) -> dict[str, str]:
    """Return what `eval "$(memory-pipeline env)"` sets in a shell."""
    script = f"{cli('env').stdout}\nenv -0"
    shell = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return dict(line.partition("=")[::2] for line in shell.stdout.split("\0") if line)


def in_sync(cli: Cli) -> bool:
    """Whether no change is pending and Chroma has as many documents as Postgres has memories."""
    status = cli.json("status")
    return bool(status["pending_changes"] == 0 and status["documents"] == status["memories"])


@pytest.fixture(scope="module")
def filled(stack: Cli) -> Cli:
    """Import the sample; the sensor does the rest."""
    assert stack.json("import", str(SAMPLE))["imported"] == 150
    return stack


def test_the_sensor_syncs_what_was_imported(filled: Cli, wait_until: WaitUntil) -> None:
    """Import → outbox → sensor → run → Chroma, without a command."""
    wait_until(lambda: in_sync(filled), within=180)
    status = filled.json("status")
    assert status["memories"] == status["documents"] >= 150
    assert status["dead_letters"] == 0
    assert status["oldest_pending_seconds"] == 0
    assert status["tenants"] >= 5
    assert status["embedder"] == "hashing"
    assert status["problems"] == []
    assert set(status["services"].values()) == {"up"}


def test_dagster_shows_every_tenant_as_materialized(filled: Cli, wait_until: WaitUntil) -> None:
    """One partition per tenant, in every asset that a sync writes."""
    wait_until(lambda: in_sync(filled), within=180)
    tenants = filled.json("status")["tenants"]
    wait_until(lambda: partitions(filled)["numMaterialized"] == tenants, within=60)
    wanted = {"numMaterialized": tenants, "numPartitions": tenants, "numFailed": 0}
    assert partitions(filled) == wanted


def test_documents_equal_memories(filled: Cli, wait_until: WaitUntil) -> None:
    """Text, metadata and vector in Chroma are those of Postgres, read by other programs."""
    wait_until(lambda: in_sync(filled), within=180)
    shell = exports(filled)
    (ada,) = [t for t in filled.json("tenants") if t["tenant"] == "ada"]
    assert ada["memories"] == ada["documents"] >= 30
    database = "api/v2/tenants/default_tenant/databases/default_database"
    held = httpx.post(
        f"{shell['MEMORY_PIPELINE_CHROMA_URL']}/{database}/collections/{ada['collection_id']}/get",
        json={"include": ["documents", "metadatas", "embeddings"]},
    ).json()
    documents = {
        name: (text, metadata, vector)
        for name, text, metadata, vector in zip(
            held["ids"], held["documents"], held["metadatas"], held["embeddings"], strict=True
        )
    }
    with psycopg.connect(shell["MEMORY_PIPELINE_DATABASE_URL"]) as connection:
        register_vector(connection)
        rows = connection.execute(
            "SELECT id, raw_data::text, raw_data, project_id, created_at, embedding"
            " FROM memory_logs WHERE user_id = 'ada'"
        ).fetchall()
    assert {f"memory_log_{row[0]}" for row in rows} == set(documents)
    for memory_id, raw, data, project_id, created_at, embedding in rows:
        text, metadata, vector = documents[f"memory_log_{memory_id}"]
        assert text == raw
        assert metadata["project_id"] == (project_id or "")
        assert metadata["ts"] == int(created_at.timestamp())
        for field in ("date", "task", "component"):
            assert metadata[field] == data.get(field, "")
        stored = embedding.to_numpy() if hasattr(embedding, "to_numpy") else embedding
        np.testing.assert_allclose(vector, stored, atol=1e-5)


def test_search_returns_the_tenants_own_memories_best_first(
    filled: Cli, wait_until: WaitUntil
) -> None:
    """And filters by metadata."""
    wait_until(lambda: in_sync(filled), within=180)
    hits = filled.json("search", "--tenant", "ada", "duplicate invoices after gateway timeouts")
    assert hits
    assert "duplicate invoices" in hits[0]["memory"]["summary"]
    distances = [hit["distance"] for hit in hits]
    assert distances == sorted(distances)
    component = hits[0]["metadata"]["component"]
    filtered = filled.json(
        "search", "--tenant", "ada", "anything", "--where", json.dumps({"component": component})
    )
    assert {hit["metadata"]["component"] for hit in filtered} == {component}
    assert filled.json("search", "--tenant", "nobody", "duplicate invoices") == []


def test_a_memory_can_be_remembered_found_and_forgotten(filled: Cli, wait_until: WaitUntil) -> None:
    """The whole life of a memory, by command."""
    text = "the cat sleeps on the router"
    memory_id = filled.json("remember", "--user", "zoe", text)["memory_id"]

    def found() -> list[int]:
        return [hit["memory_id"] for hit in filled.json("search", "--tenant", "zoe", text)]

    wait_until(lambda: found() == [memory_id], within=120)
    filled("forget", "--tenant", "ada", str(memory_id), code=1)
    filled("forget", "--tenant", "zoe", str(memory_id))
    assert found() == []
    wait_until(lambda: in_sync(filled), within=120)


def test_bad_input_is_named_and_nothing_is_half_done(filled: Cli, tmp_path: Path) -> None:
    """A file with one bad line imports nothing, and the message names the line."""
    before = filled.json("status")["memories"]
    file = tmp_path / "bad.jsonl"
    file.write_text('{"user_id": "x", "raw_data": {}}\n{"user_id": "x"}\n')
    printed = filled("import", str(file), code=2).stderr
    assert "line 2" in printed
    assert "raw_data is missing" in printed
    assert filled.json("status")["memories"] == before
    printed = filled(
        "search", "--tenant", "ada", "x", "--where", '{"colour": "red"}', code=2
    ).stderr
    assert "colour" in printed
    assert "component" in printed


def test_a_second_up_in_the_same_home_prints_that_it_runs(filled: Cli) -> None:
    """It starts nothing."""
    printed = filled("up", "--detach").stdout
    assert "already running" in printed
