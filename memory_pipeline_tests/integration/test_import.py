"""An import into a real Postgres: all of a file or none of it, and the triggers see it."""

import json
from pathlib import Path

import psycopg
import pytest

from memory_pipeline.admin.import_jsonl import import_file
from memory_pipeline.domain.types import TenantId
from memory_pipeline.errors import InvalidMemory
from memory_pipeline.pipeline import Pipeline

ADA = TenantId("ada")


def lines(path: Path, *contents: object) -> Path:
    """Write a file with a memory of ada for each content."""
    path.write_text("".join(json.dumps({"user_id": "ada", "raw_data": c}) + "\n" for c in contents))
    return path


def test_imported_memories_are_stored_and_captured(
    pipeline: Pipeline, db: psycopg.Connection, tmp_path: Path
) -> None:
    """By the same triggers as any other write."""
    path = lines(tmp_path / "f.jsonl", *({"text": f"memory {n}"} for n in range(7)))
    told: list[int] = []
    done = import_file(pipeline.memories, path, limit=5, progress=lambda done, _: told.append(done))
    assert (done, told) == (5, [5])
    assert pipeline.memories.count(ADA) == 5
    assert len(db.execute("SELECT FROM memory_pipeline.change").fetchall()) == 5


@pytest.mark.parametrize("bad", ["a NUL \x00", "a lone surrogate \ud800"], ids=["nul", "surrogate"])
def test_one_memory_that_postgres_refuses_imports_none(
    pipeline: Pipeline, tmp_path: Path, bad: str
) -> None:
    """The file is named, and where Postgres says it the line; the memory's text is not."""
    path = lines(tmp_path / "f.jsonl", {"text": "good"}, {"text": bad}, {"text": "good"})
    with pytest.raises(InvalidMemory) as refused:
        import_file(pipeline.memories, path)
    message = str(refused.value)
    assert message.startswith(f"{path}, ")
    assert message.endswith("; nothing was imported")
    assert bad not in message
    assert pipeline.memories.count(ADA) == 0
