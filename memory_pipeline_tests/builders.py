"""Arrange a test in a word: what an application would have done."""

import psycopg
from psycopg.types.json import Jsonb

from memory_pipeline.domain.dead_letters import Cause
from memory_pipeline.pipeline import Pipeline


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


def tried(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """Say of all dead letters that they were refused under what is in force now."""
    cause = Cause.of_now(pipeline.embedder.model, pipeline.recipe.config_hash).word
    db.execute(
        "UPDATE memory_pipeline.failure SET cause = %(cause)s, tried_under = ARRAY[%(cause)s]",
        {"cause": cause},
    )
