"""The pooler of the tests is one: what it mixes up here is what the pipeline has to stand."""

import psycopg
import pytest

from memory_pipeline_tests.pgbouncer import PgBouncer, pgbouncer
from memory_pipeline_tests.words import one


def test_what_one_client_sets_another_finds(database_url: str, pooler: PgBouncer) -> None:
    """Clients share connections to the server, and nothing is reset between them."""
    address = pooler.through(database_url)
    with (
        psycopg.connect(address, autocommit=True) as ours,
        psycopg.connect(address, autocommit=True) as theirs,
    ):
        ours.execute("SET statement_timeout = '62s'")

        assert one(theirs, "SHOW statement_timeout") == "62s"


def test_a_pool_is_as_small_as_it_was_asked_to_be(database_url: str) -> None:
    """Four open transactions need four connections: of two, the third client has to wait."""
    with pgbouncer(database_url, pool_size=2, query_wait_timeout=1) as pooler:
        clients = [psycopg.connect(pooler.through(database_url)) for _ in range(3)]
        for client in clients[:2]:
            client.execute("SELECT 1")

        with pytest.raises(psycopg.OperationalError, match="query_wait_timeout"):
            clients[2].execute("SELECT 1")

        assert {server["state"] for server in pooler.show("SERVERS")} == {"active"}
        assert {pool["pool_mode"] for pool in pooler.show("POOLS")} == {"transaction", "statement"}
        for client in clients:
            client.close()


def test_a_role_of_its_own_comes_through(
    database_url: str, pooler: PgBouncer, db: psycopg.Connection
) -> None:
    """A test may ask as a role that has few rights; the pooler finds it in Postgres."""
    db.execute("CREATE ROLE pooled_reader LOGIN")
    address = pooler.through(database_url.replace("postgres@", "pooled_reader@"))

    with psycopg.connect(address, autocommit=True) as reader:
        assert one(reader, "SELECT current_user") == "pooled_reader"

    db.execute("DROP ROLE pooled_reader")
