"""Writes to memory_logs as an application sends them, in every form that SQL has."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from memory_pipeline.domain.types import MemoryId, TenantId
from memory_pipeline.testing.chaos.history import Sort

INSERT = """
INSERT INTO public.memory_logs (id, user_id, project_id, raw_data, embedding)
VALUES (%s, %s, %s, %s::jsonb, %s)
"""
UPDATE = "UPDATE public.memory_logs SET raw_data = %s::jsonb, updated_at = now() WHERE id = %s"
MOVE = "UPDATE public.memory_logs SET user_id = %s, updated_at = now() WHERE id = %s"
DELETE = "DELETE FROM public.memory_logs WHERE id = %s"
COPY = "COPY public.memory_logs (id, user_id, raw_data) FROM STDIN"
NEW_IDS = """
SELECT nextval(pg_get_serial_sequence('public.memory_logs', 'id')) FROM generate_series(1, %s)
"""


@dataclass(slots=True)
class PlannedWrite:
    """One memory's part in a statement or transaction; ``kept`` False: it is rolled back.

    ``tenant`` None deletes the memory; ``changed`` False leaves its content.
    """

    memory_id: MemoryId
    tenant: TenantId | None
    value: Any = None
    changed: bool = True
    kept: bool = True


def write(
    connection: psycopg.Connection, sort: Sort, plans: Sequence[PlannedWrite], vector: Any = None
) -> None:
    """Execute the statement or transaction of a sort; ``vector``: the application's own."""
    if sort in {"insert", "poison"}:
        _insert(connection, plans[0], vector)
    elif sort == "copy":
        with connection.cursor() as cursor, cursor.copy(COPY) as copy:
            for one in plans:
                copy.write_row((one.memory_id, one.tenant, _json(one.value)))
    elif sort == "savepoint":
        with connection.transaction():
            _insert(connection, plans[0])
            with connection.transaction() as inner:
                _insert(connection, plans[1])
                raise psycopg.Rollback(inner)
    else:
        with connection.transaction() as outer:
            for one in plans:
                _alter(connection, one)
            if sort == "rollback":
                raise psycopg.Rollback(outer)


def _insert(connection: psycopg.Connection, one: PlannedWrite, vector: Any = None) -> None:
    """Insert a memory."""
    values = (one.memory_id, one.tenant, "chaos", _json(one.value), vector)
    connection.execute(INSERT, values)


def new_ids(connection: psycopg.Connection, count: int) -> list[MemoryId]:
    """Reserve ids for later inserts."""
    return [MemoryId(row[0]) for row in connection.execute(NEW_IDS, (count,)).fetchall()]


def _alter(connection: psycopg.Connection, one: PlannedWrite) -> None:
    if one.tenant is None:
        connection.execute(DELETE, (one.memory_id,))
    elif one.changed:
        connection.execute(UPDATE, (_json(one.value), one.memory_id))
    else:
        connection.execute(MOVE, (one.tenant, one.memory_id))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
