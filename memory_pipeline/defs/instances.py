"""Opens the Dagster instance of DAGSTER_HOME, also while another process creates its tables."""

import dagster as dg
from sqlalchemy.exc import IntegrityError, ProgrammingError
from tenacity import retry, retry_if_exception_type, stop_after_attempt

# Several processes may open an empty storage, and create the tables, at the same moment.
COLLISIONS = 3


@retry(
    retry=retry_if_exception_type((ProgrammingError, IntegrityError)),
    stop=stop_after_attempt(COLLISIONS),
    reraise=True,
)
def open_instance() -> dg.DagsterInstance:
    """Open the instance; retry where another process creates a table first."""
    return dg.DagsterInstance.get()


@retry(
    retry=retry_if_exception_type(IntegrityError), stop=stop_after_attempt(COLLISIONS), reraise=True
)
def add_partitions(instance: dg.DagsterInstance, partitions: str, keys: list[str]) -> None:
    """Add these partition keys; those that exist, or that another process adds now, are left alone.

    Only the storage on Postgres leaves them to the database. The others ask first and then insert.
    """
    instance.add_dynamic_partitions(partitions, keys)
