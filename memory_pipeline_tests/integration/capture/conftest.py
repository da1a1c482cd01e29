"""A database with capture, and what reads it."""

from collections.abc import Iterator

import psycopg
import pytest

from memory_pipeline.postgres.database import Database
from memory_pipeline.postgres.outbox import PostgresOutbox
from memory_pipeline.settings import Settings


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """Connect as the pipeline does."""
    opened = Database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def outbox(database: Database, database_url: str) -> PostgresOutbox:
    """Return the outbox of the test's database."""
    return PostgresOutbox(database, Settings.load(database_url=database_url))


@pytest.fixture
def memory(db: psycopg.Connection) -> int:
    """Return memory 1 of ada, with a vector of the application's, already indexed."""
    db.execute(
        "INSERT INTO memory_logs (user_id, project_id, raw_data, embedding) VALUES"
        " ('ada', 'apollo', '{\"n\": 1.0}', array_fill(1, ARRAY[768])::vector)"
    )
    db.execute("DELETE FROM memory_pipeline.change")
    return 1
