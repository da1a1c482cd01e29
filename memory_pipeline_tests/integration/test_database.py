"""What Postgres says comes out as one of the pipeline's own errors."""

from contextlib import closing

import psycopg
import pytest

from memory_pipeline.errors import ContractError, PipelineError, PostgresUnavailable
from memory_pipeline.postgres.database import Database


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("SET TRANSACTION READ ONLY; DELETE FROM memory_pipeline.change", PostgresUnavailable),
        ("SELECT FROM memory_pipeline.nothing", ContractError),
        ("SELECT nothing FROM memory_pipeline.change", ContractError),
        ("SELECT memory_pipeline.nothing()", ContractError),
    ],
)
def test_a_standby_is_an_outage_and_an_older_schema_says_migrate(
    database_url: str, statement: str, error: type[PipelineError]
) -> None:
    """What broke: after a switchover the worker died, where it has to wait."""
    with (
        closing(Database(database_url)) as database,
        pytest.raises(error),
        database.transaction() as connection,
    ):
        psycopg.ClientCursor(connection).execute(statement.encode())
