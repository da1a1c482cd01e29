"""Why Dagster could not be told, in a sentence that names the command that mends it.

An error of SQLAlchemy quotes the event with its figures, so only the first line of what the
database says is taken over.
"""

from dagster_postgres.utils import DagsterPostgresException
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError

from memory_pipeline.errors import ReportFailed

MIGRATE = 'eval "$(memory-pipeline env)"; dagster instance migrate'
MESSAGE_LENGTH = 200


def as_report_failed(error: Exception) -> ReportFailed:
    """Return the error that a worker records: what failed, and what to do."""
    if isinstance(error, OperationalError | DagsterPostgresException):
        return ReportFailed(
            f"Dagster's database does not answer ({_said(error)}): start it, with "
            "`memory-pipeline up` if it is one of its services"
        )
    if isinstance(error, ProgrammingError):
        return ReportFailed(
            f"Dagster's tables do not fit the installed version ({_said(error)}): `{MIGRATE}`"
        )
    return ReportFailed(
        f"Dagster refuses the report ({_said(error)}): `{MIGRATE}`, or correct dagster.yaml in "
        "DAGSTER_HOME and restart the worker"
    )


def _said(error: Exception) -> str:
    cause = error.__cause__ if isinstance(error, DagsterPostgresException) else error
    said = cause.orig if isinstance(cause, DBAPIError) else cause
    lines = str(said).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:MESSAGE_LENGTH]}" if lines else type(error).__name__
