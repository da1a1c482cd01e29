"""Whether a database meets the requirements of the pipeline. Reads the catalog; changes nothing."""

from memory_pipeline.domain.table import MEMORY_LOGS, Table
from memory_pipeline.errors import ContractError
from memory_pipeline.postgres.database import Connection, queries
from memory_pipeline.postgres.table_contract import table_problems

OLDEST_SERVER = 150000


def check_contract(connection: Connection, table: Table = MEMORY_LOGS) -> None:
    """Refuse a database that does not meet the requirements, naming all of them at once.

    Raises:
        ContractError: the message says what, where and what to do.

    """
    wrong = [
        *_server_problems(connection),
        *_name_problems(connection, table),
        *table_problems(connection, table),
    ]
    if wrong:
        raise ContractError("this database does not fit:\n" + "\n".join(f"- {w}" for w in wrong))


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
    if (encoding := sql.encoding(connection)) != "UTF8":
        wrong.append(
            f"the encoding of the database is {encoding}, which cannot hold every memory: create a "
            "database with ENCODING 'UTF8' and load a dump of this one into it"
        )
    return [*wrong, *publication_problems(connection)]


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
