"""The servers of the contract tests are of the versions that their names say."""

import psycopg
import pytest

from memory_pipeline_tests.words import one


@pytest.mark.servers
@pytest.mark.parametrize(
    ("side", "postgres", "pgvector"),
    [("postgres16-pgvector0.8", 16, "0.8."), ("postgres16-pgvector0.6", 16, "0.6.")],
    indirect=["side"],
)
def test_a_server_is_of_its_versions(
    side: str, postgres: int, pgvector: str, db: psycopg.Connection
) -> None:
    """Otherwise the promise of older versions is tested on the newest alone."""
    extension = "SELECT extversion FROM pg_extension WHERE extname = 'vector'"

    assert db.info.server_version // 10_000 == postgres
    assert one(db, extension).startswith(pgvector)
