"""Whether a database meets the requirements of the pipeline. Reads the catalog; changes nothing."""

import re

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


def check_contract(connection: Connection) -> None:
    """Refuse a database that does not meet the requirements, naming all of them at once.

    Raises:
        ContractError: the message says what, where and what to do.

    """
    wrong = [*_server_problems(connection), *_table_problems(connection)]
    if wrong:
        raise ContractError("this database does not fit:\n" + "\n".join(f"- {w}" for w in wrong))


def broken_triggers(connection: Connection) -> list[str]:
    """Return every capture trigger that is missing or would not always fire."""
    return [f"{row.name}: {row.state}" for row in queries().broken_triggers(connection)]


def publication_problems(connection: Connection) -> list[str]:
    """Return a line for each publication that replicates the pipeline's own tables."""
    return [
        f"publication {row.name} is {row.tables}: it would replicate the pipeline's tables, whose "
        "rows collide with those that the subscriber's own triggers write, and replication stops; "
        "publish the application's tables by name instead"
        for row in queries().publications(connection)
    ]


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
    return [*wrong, *publication_problems(connection)]


def _table_problems(connection: Connection) -> list[str]:
    sql = queries()
    found = {row.name: row.type for row in sql.columns(connection)}
    if not found:
        return []
    wrong = []
    for name, allowed in COLUMNS.items():
        if name not in found:
            wrong.append(f"memory_logs has no column {name} ({allowed[0]})")
        elif name == "embedding" and found[name] != allowed[0]:
            wrong.append(f"memory_logs.embedding is {found[name]}; it has to be {allowed[0]}")
        elif name != "embedding" and re.sub(r"\(\d+\)", "", found[name]) not in allowed:
            wrong.append(f"memory_logs.{name} is {found[name]}; it has to be {allowed[0]}")
    if not sql.unique_id(connection):
        wrong.append("memory_logs.id is no primary key")
    captured = sql.schema_exists(connection) and not broken_triggers(connection)
    if not captured and not sql.owned(connection):
        wrong.append(
            "this role does not own memory_logs, and only its owner may set the capture triggers: "
            "run migrate as the owner, or let a DBA run what `memory-pipeline migrate --sql` prints"
        )
    return wrong
