"""Whether a database meets the requirements of the pipeline. Reads the catalog; changes nothing."""

import re

from memory_pipeline.domain.table import MEMORY_LOGS, Table
from memory_pipeline.domain.types import DIMENSION
from memory_pipeline.errors import ContractError
from memory_pipeline.postgres.database import Connection, queries

OLDEST_SERVER = 150000
TEXTS = ("text", "character varying", "character", "uuid", "bigint", "integer")

COLUMNS: dict[str, tuple[str, ...]] = {
    "id": ("bigint",),
    "user_id": TEXTS,
    "project_id": TEXTS,
    "raw_data": ("jsonb",),
    "embedding": (f"vector({DIMENSION})",),
    "created_at": ("timestamp with time zone", "timestamp without time zone"),
    "updated_at": ("timestamp with time zone", "timestamp without time zone"),
}


def check_contract(connection: Connection, table: Table = MEMORY_LOGS) -> None:
    """Refuse a database that does not meet the requirements, naming all of them at once.

    Raises:
        ContractError: the message says what, where and what to do.

    """
    wrong = [
        *_server_problems(connection),
        *_name_problems(connection, table),
        *_table_problems(connection, table),
    ]
    if wrong:
        raise ContractError("this database does not fit:\n" + "\n".join(f"- {w}" for w in wrong))


def broken_triggers(connection: Connection) -> list[str]:
    """Return every capture trigger that is missing or would not always fire."""
    return [f"{row.name}: {row.state}" for row in queries().broken_triggers(connection)]


def _server_problems(connection: Connection) -> list[str]:
    sql = queries()
    wrong = []
    if sql.server_version(connection) < OLDEST_SERVER:
        wrong.append("Postgres 15 or newer is needed")
    if not sql.vector_available(connection):
        wrong.append("the extension pgvector is not installed on the server (`vector`)")
    if not sql.schema_exists(connection) and not sql.may_create(connection):
        wrong.append(
            "this role may not create the schema memory_pipeline: GRANT CREATE ON DATABASE to it, "
            "or let a DBA run what `memory-pipeline migrate --sql` prints"
        )
    names = [row.name for row in sql.publications(connection)]
    if names:
        wrong.append(
            f"publication {', '.join(names)} is FOR ALL TABLES: it would replicate the outbox, "
            "whose rows collide with those that the subscriber's own triggers write, and "
            "replication stops; publish the application's tables by name instead"
        )
    return wrong


def _name_problems(connection: Connection, table: Table) -> list[str]:
    """Return what is wrong with the choice of the table: none is created beside another one."""
    sql = queries()
    exists = bool(list(sql.columns(connection)))
    attached = sql.attached_table(connection) if sql.schema_exists(connection) else None
    if attached == str(table):
        gone = (
            f"{table} is gone, and the index is of it; if it was renamed, run migrate with "
            "MEMORY_PIPELINE_TABLE=schema.table; if it was dropped, create it again"
        )
        return [] if exists else [gone]
    if attached and sql.table_exists(connection, name=Table.parse(attached).quoted):
        other = (
            f"the index of this database is of {attached}, which is still there; set "
            f"MEMORY_PIPELINE_TABLE={attached}, or run `memory-pipeline detach` first"
        )
        return [other]
    others = [row.name for row in sql.same_name(connection, name=table.name)]
    if exists or (table == MEMORY_LOGS and not others and not attached):
        return []
    found = f"; found {', '.join(others)}" if others else ""
    advice = f"set MEMORY_PIPELINE_TABLE={others[0]}" if others else "create it first"
    return [f"there is no table {table}{found}: {advice}"]


def _table_problems(connection: Connection, table: Table) -> list[str]:
    sql = queries()
    found = {row.name: row.type for row in sql.columns(connection)}
    if not found:
        return []
    wrong = []
    for name, allowed in COLUMNS.items():
        if name not in found:
            wrong.append(f"{table} has no column {name} ({allowed[0]})")
        elif name == "embedding" and found[name] != allowed[0]:
            wrong.append(f"{table}.embedding is {found[name]}; it has to be {allowed[0]}")
        elif name != "embedding" and re.sub(r"\(\d+\)", "", found[name]) not in allowed:
            wrong.append(f"{table}.{name} is {found[name]}; it has to be {allowed[0]}")
    if not sql.unique_id(connection):
        wrong.append(f"{table}.id is no primary key")
    captured = sql.schema_exists(connection) and not broken_triggers(connection)
    if not captured and not sql.owned(connection):
        wrong.append(
            f"this role does not own {table}, and only its owner may set the capture triggers: "
            "run migrate as the owner, or let a DBA run what `memory-pipeline migrate --sql` prints"
        )
    return wrong
