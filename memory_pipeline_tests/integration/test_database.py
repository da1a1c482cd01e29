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


def test_an_error_of_the_commit_is_what_it_is(database_url: str, db: psycopg.Connection) -> None:
    """What broke: a constraint that is checked at the commit was taken for an outage."""
    db.execute("CREATE TABLE parent (id int PRIMARY KEY)")
    db.execute("CREATE TABLE child (id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED, n int)")
    with closing(Database(database_url)) as database:
        for _ in range(8):  # psycopg prepares a statement after some uses
            with pytest.raises(psycopg.errors.ForeignKeyViolation), database.statement() as ours:
                ours.execute("INSERT INTO child VALUES (1, 2)")
            with pytest.raises(psycopg.errors.DivisionByZero), database.statement() as ours:
                ours.execute("INSERT INTO child VALUES (1, 2 / 0)")
        db.execute("INSERT INTO parent VALUES (1)")
        with database.statement() as ours:
            ours.execute("INSERT INTO child VALUES (1, 2)")

    assert db.execute("SELECT count(*) FROM child").fetchone() == (1,)
