"""Arrange a test in a word: what an application would have done."""

import psycopg
from psycopg.types.json import Jsonb


def remember(
    db: psycopg.Connection, user_id: str = "ada", summary: str = "a memory", **more: object
) -> int:
    """Insert a memory as an application would; return its id."""
    row = db.execute(
        "INSERT INTO memory_logs (user_id, project_id, raw_data) VALUES (%s, %s, %s) RETURNING id",
        (user_id, "apollo", Jsonb({"summary": summary, **more})),
    ).fetchone()
    assert row is not None
    return int(row[0])
