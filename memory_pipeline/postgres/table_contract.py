"""Whether the table of the memories is as the pipeline needs it. Reads the catalog alone.

Each problem is a sentence that says what is wrong and what would work.
"""

import re
from collections.abc import Iterator
from typing import Any

from memory_pipeline.domain.table import Table
from memory_pipeline.domain.types import DIMENSION
from memory_pipeline.postgres.database import Connection, queries

TEXTS = ("text", "character varying", "character", "uuid", "bigint", "integer")
TIMES = ("timestamp with time zone", "timestamp without time zone")
COLUMNS: dict[str, tuple[str, ...]] = {
    "id": ("bigint",),
    "user_id": TEXTS,
    "project_id": TEXTS,
    "raw_data": ("jsonb",),
    "embedding": (f"vector({DIMENSION})",),
    "created_at": TIMES,
    "updated_at": TIMES,
}
TENANT_COLUMNS = ("user_id", "project_id")
# pg_class.relkind of what has rows of its own that a trigger sees.
TABLE, PARTITIONED = "r", "p"
NO_TABLES = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}


def table_problems(connection: Connection, table: Table) -> list[str]:
    """Return what keeps the pipeline from attaching to the table; nothing where there is none."""
    sql = queries()
    relations = list(sql.relations(connection))
    if not relations:
        return []
    if (kind := relations[0].kind) not in {TABLE, PARTITIONED}:
        what = NO_TABLES.get(kind, "no table")
        hidden = (
            f"{table} is {what}, and no trigger sees its rows change: set MEMORY_PIPELINE_TABLE to "
            "the table that has them"
        )
        return [hidden]
    wrong = [
        *_column_problems(connection, table),
        *storage_problems(connection, table),
    ]
    captured = sql.schema_exists(connection) and not broken_triggers(connection)
    if not captured and not sql.owned(connection):
        wrong.append(
            f"this role does not own {table}, and only its owner may set the capture triggers: "
            "run migrate as the owner, or let a DBA run what `memory-pipeline migrate --sql` prints"
        )
    return wrong


def broken_triggers(connection: Connection) -> list[str]:
    """Return every capture trigger that is missing or would not always fire."""
    return [f"{row.name}: {row.state}" for row in queries().broken_triggers(connection)]


def storage_problems(connection: Connection, table: Table) -> list[str]:
    """Return where rows of the table can come or go without a trigger, now or after a crash."""
    return [
        problem
        for relation in queries().relations(connection)
        for problem in _relation_problems(relation, table)
    ]


def _relation_problems(relation: Any, table: Table) -> Iterator[str]:
    name, kind, partition = relation.name, relation.kind, relation.top or relation.partition
    if relation.persistence == "u":
        yield (
            f"{name} is UNLOGGED, and a crash of Postgres empties it without a trigger: "
            f"ALTER TABLE {name} SET LOGGED"
        )
    if relation.persistence == "t":
        yield f"{name} is a temporary table, which no other session sees: use a permanent one"
    if not partition:
        yield (
            f"{name} inherits from {table}, whose triggers do not see its rows: make it a "
            f"partition, or ALTER TABLE {name} NO INHERIT {table}"
        )
    elif not relation.top and kind in NO_TABLES:
        yield (
            f"the partition {name} is {NO_TABLES[kind]}, and no trigger sees its rows change "
            f"elsewhere: ALTER TABLE {table} DETACH PARTITION {name}"
        )


def _column_problems(connection: Connection, table: Table) -> Iterator[str]:
    sql = queries()
    found = {row.name: row.type for row in sql.columns(connection)}
    for name, allowed in COLUMNS.items():
        if name not in found:
            yield f"{table} has no column {name} ({allowed[0]}){_substitute(table, name)}"
        elif re.sub(r"(?<!vector)\(\d+\)", "", found[name]) not in allowed:
            is_key = f"; {_KEY_ADVICE}" if name == "id" else ""
            yield f"{table}.{name} is {found[name]}; it has to be {allowed[0]}{is_key}"
    if "id" in found and not sql.unique_id(connection):
        yield (
            f"{table}.id is no primary key: it needs a unique index of its own, because a document "
            "is known by it; a table that is partitioned by a time can be partitioned by RANGE (id)"
        )
    for column in sql.columns_that_mislead(connection, names=list(COLUMNS)):
        if column.virtual:
            yield (
                f"{table}.{column.name} is a virtual generated column, whose value triggers do not "
                "see: generate it STORED"
            )
        elif column.name in TENANT_COLUMNS:
            yield (
                f"{table}.{column.name} has a collation by which two spellings are one value, and "
                f"two tenants: ALTER TABLE {table} ALTER COLUMN {column.name} TYPE text "
                'COLLATE "C"'
            )


_KEY_ADVICE = (
    "keep that key under another name, and add id bigint GENERATED ALWAYS AS IDENTITY with a "
    "unique index"
)


def _substitute(table: Table, name: str) -> str:
    """Return how a column of another name takes the place of a missing one."""
    if name in TENANT_COLUMNS:
        return (
            f"; a column of another name takes its place: ALTER TABLE {table} ADD COLUMN {name} "
            "text GENERATED ALWAYS AS (…) STORED"
        )
    if name == "id":
        return f"; {_KEY_ADVICE}"
    return f"; add it: ALTER TABLE {table} ADD COLUMN {name} …, or rename the column that has it"
