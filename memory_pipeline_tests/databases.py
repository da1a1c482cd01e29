"""The databases of the tests: a fresh one each, copied from one that is migrated once a server."""

import itertools
from collections.abc import Sequence
from uuid import uuid4

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from memory_pipeline.postgres.migrate import migrate
from memory_pipeline.settings import Settings
from memory_pipeline_tests.servers import GivenPostgres, PostgresServer

# A server that was given may serve several processes of the tests, and has served others.
RUN = f"test_{uuid4().hex[:8]}"

_numbers = itertools.count(1)
# The migrated database of each server, by the server's address.
_templates: dict[str, str] = {}


def create_database(server: PostgresServer, *, template: str = "template1") -> str:
    """Create a database; return its address."""
    name = f"{RUN}_{next(_numbers)}"
    create = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(create.format(sql.Identifier(name), sql.Identifier(template)))
    return server.url(name)


def new_database(server: PostgresServer) -> str:
    """Create a migrated database; return its address."""
    url = create_database(server, template=_migrated_template(server))
    # An installation of its own: what stands in the session's Chroma is another's.
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE memory_pipeline.installation SET id = gen_random_uuid()")
    return url


def discard(server: PostgresServer, url: str) -> None:
    """Drop a database of a server that was given: a server of the tests takes its own along."""
    if isinstance(server, GivenPostgres):
        _drop(server, [str(conninfo_to_dict(url)["dbname"])])


def drop_databases(server: PostgresServer) -> None:
    """Drop every database of this process that is left."""
    with psycopg.connect(server.url("postgres")) as connection:
        ours = "SELECT datname FROM pg_database WHERE starts_with(datname, %s)"
        names = [str(row[0]) for row in connection.execute(ours, (RUN,))]
    _drop(server, names)


def _drop(server: PostgresServer, names: Sequence[str]) -> None:
    """Drop databases, whoever is still connected."""
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        for name in names:
            drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
            connection.execute(drop.format(sql.Identifier(name)))


def _migrated_template(server: PostgresServer) -> str:
    place = server.url("postgres")
    if place not in _templates:
        url = create_database(server)
        migrate(Settings.load(database_url=url))
        _templates[place] = str(conninfo_to_dict(url)["dbname"])
    return _templates[place]
