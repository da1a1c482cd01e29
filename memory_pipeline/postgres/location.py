"""Where this database is, as far as this role and this server let it be read."""

from collections.abc import Callable
from typing import Any

import psycopg

from memory_pipeline.domain.database_identity import DatabaseId
from memory_pipeline.domain.epoch import DatabaseLocation
from memory_pipeline.postgres.database import Connection, queries

# How a server refuses a function: Aurora those of the WAL unless wal_level is logical, a standby
# the same.
REFUSALS = (
    psycopg.errors.ObjectNotInPrerequisiteState,
    psycopg.errors.FeatureNotSupported,
    psycopg.errors.InsufficientPrivilege,
)


def read_location(connection: Connection) -> DatabaseLocation:
    """Return where this database is; what cannot be read is left open, and stops nothing."""
    place = queries().database_place(connection)
    system = _read(connection, queries().system_identifier) if place.may_read_system else None
    timeline = _read(connection, queries().timeline) if place.may_read_timeline else None
    here = DatabaseId(str(system or ""), place.oid, place.name)
    return DatabaseLocation(here.written, int(timeline or 0), place.outbox)


def _read(connection: Connection, query: Callable[[Connection], Any]) -> Any:
    try:
        with connection.transaction():  # a savepoint: the caller's transaction goes on
            return query(connection)
    except REFUSALS:
        return None
