"""Capture of partitioned tables, and of tenants of every kind."""

from collections.abc import Iterator

import psycopg
import pytest

from memory_pipeline.errors import ContractError
from memory_pipeline.postgres.database import Database
from memory_pipeline.postgres.migrate import migrate
from memory_pipeline.postgres.status import PostgresStatus
from memory_pipeline.settings import Settings, TenantBy
from memory_pipeline_tests.integration.capture.words import changes, create_table, truncations
from memory_pipeline_tests.words import remember


def test_a_table_partitioned_by_tenant_is_refused_for_its_key(empty_database: str) -> None:
    """The contract: id alone has to be a key, and such a table cannot have one."""
    create_table(
        empty_database,
        tail="PARTITION BY LIST (user_id)",
        id="bigint NOT NULL",
    )

    with pytest.raises(ContractError, match=r"memory_logs\.id is no primary key"):
        migrate(Settings.load(database_url=empty_database))


@pytest.fixture
def partitioned(empty_database: str) -> Iterator[psycopg.Connection]:
    """Connect to a memory_logs that is partitioned by id, with one partition at attach time."""
    create_table(empty_database, tail="PARTITION BY RANGE (id)")
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE first PARTITION OF memory_logs FOR VALUES FROM (1) TO (100)"
        )
        migrate(Settings.load(database_url=empty_database))
        connection.execute(
            "CREATE TABLE second PARTITION OF memory_logs FOR VALUES FROM (100) TO (200)"
        )
        yield connection


def test_every_partition_is_captured_also_when_written_directly(
    partitioned: psycopg.Connection,
) -> None:
    """P1: partitions are written by name too, and made after the attach."""
    for table, memory_id in (
        ("memory_logs", 1),
        ("first", 2),
        ("memory_logs", 100),
        ("second", 101),
    ):
        partitioned.execute(
            f"INSERT INTO {table} (id, user_id, raw_data) VALUES (%s, 'ada', '{{}}')", (memory_id,)
        )

    assert changes(partitioned) == [("ada", 1), ("ada", 2), ("ada", 100), ("ada", 101)]


def test_a_row_that_changes_its_partition_is_captured_under_both_ids(
    partitioned: psycopg.Connection,
) -> None:
    """P4: Postgres makes this update a delete and an insert."""
    partitioned.execute("INSERT INTO memory_logs (id, user_id, raw_data) VALUES (1, 'ada', '{}')")
    partitioned.execute("DELETE FROM memory_pipeline.change")
    partitioned.execute("UPDATE memory_logs SET id = 150")

    assert sorted(changes(partitioned)) == [("ada", 1), ("ada", 150)]


@pytest.mark.parametrize("table", ["memory_logs", "first", "second"])
def test_partitions_are_captured_under_the_replica_role(
    partitioned: psycopg.Connection, table: str
) -> None:
    """P1: the triggers of every partition, old and new, are ALWAYS as well."""
    partitioned.execute("SET session_replication_role = replica")
    memory_id = 150 if table == "second" else 1
    partitioned.execute(
        f"INSERT INTO {table} (id, user_id, raw_data) VALUES (%s, 'ada', '{{}}')", (memory_id,)
    )

    assert changes(partitioned) == [("ada", memory_id)]


def test_a_truncate_of_a_partitioned_table_is_captured(partitioned: psycopg.Connection) -> None:
    """P4: as of any other table; a TRUNCATE of one partition alone is left to verify."""
    partitioned.execute("TRUNCATE memory_logs")

    assert truncations(partitioned) == 1


def test_a_partition_whose_capture_was_weakened_is_reported(
    partitioned: psycopg.Connection, empty_database: str
) -> None:
    """P8: DISABLE and ENABLE TRIGGER USER on one partition ends ALWAYS there."""
    partitioned.execute("ALTER TABLE first DISABLE TRIGGER USER")
    partitioned.execute("ALTER TABLE first ENABLE TRIGGER USER")
    database = Database(empty_database)
    try:
        assert PostgresStatus(database).broken_capture() != []
    finally:
        database.close()


@pytest.mark.parametrize(
    ("tenant_by", "before", "after"),
    [
        pytest.param("project_id", "apollo", "zeus", id="project_id"),
        pytest.param("both", '["ada", "apollo"]', '["ada", "zeus"]', id="both"),
    ],
)
def test_a_tenant_may_be_a_project_or_a_user_within_a_project(
    empty_database: str, tenant_by: TenantBy, before: str, after: str
) -> None:
    """P3: moves are recognised by whatever tells tenants apart."""
    migrate(Settings.load(database_url=empty_database, tenant_by=tenant_by))
    with psycopg.connect(empty_database, autocommit=True) as connection:
        memory_id = remember(connection, "ada")
        connection.execute("UPDATE memory_logs SET project_id = 'zeus'")

        assert changes(connection) == [
            (before, memory_id),
            (before, memory_id),
            (after, memory_id),
        ]


def test_pairs_of_user_and_project_never_meet_in_one_tenant(empty_database: str) -> None:
    """P3: no choice of quotes, commas or NULLs makes two pairs equal."""
    migrate(Settings.load(database_url=empty_database, tenant_by="both"))
    pairs = [("a", "b,c"), ("a,b", "c"), ('a", "b', "c"), ("a", 'b", "c'), ("a", ""), ("a", None)]
    pairs += [("a", "null"), ("", "a"), ("a\\", "b"), ("a", "\\b")]
    with psycopg.connect(empty_database, autocommit=True) as connection:
        for user_id, project_id in pairs:
            connection.execute(
                "INSERT INTO memory_logs (user_id, project_id, raw_data) VALUES (%s, %s, '{}')",
                (user_id, project_id),
            )

        assert len({tenant for tenant, _ in changes(connection)}) == len(pairs)


def test_a_memory_of_no_tenant_is_captured_by_nobody_and_breaks_nothing(
    empty_database: str,
) -> None:
    """A NULL tenant is defined: no collection has the memory, and no write fails."""
    create_table(empty_database, user_id="text")
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute("INSERT INTO memory_logs (user_id, raw_data) VALUES (NULL, '{}')")
        migrate(Settings.load(database_url=empty_database))
        connection.execute("UPDATE memory_logs SET raw_data = '{\"n\": 1}'")
        connection.execute("INSERT INTO memory_logs (user_id, raw_data) VALUES (NULL, '{}')")
        connection.execute("DELETE FROM memory_logs WHERE id = 2")
        assert changes(connection) == []

        connection.execute("UPDATE memory_logs SET user_id = 'ada'")
        connection.execute("UPDATE memory_logs SET user_id = NULL")
        assert changes(connection) == [("ada", 1), ("ada", 1)]
    database = Database(empty_database)
    try:
        assert PostgresStatus(database).totals().memories_without_tenant == 1
    finally:
        database.close()


@pytest.mark.parametrize(
    ("type_", "value", "tenant"),
    [
        pytest.param(
            "uuid",
            "6F9619FF-8B86-D011-B42D-00C04FC964FF",
            "6f9619ff-8b86-d011-b42d-00c04fc964ff",
            id="uuid",
        ),
        pytest.param("bigint", "-7", "-7", id="bigint"),
        pytest.param("varchar(20)", "ada", "ada", id="varchar"),
        pytest.param("char(8)", "ada", "ada", id="char"),
    ],
)
def test_a_tenant_may_be_of_any_type_of_the_contract(
    empty_database: str, type_: str, value: str, tenant: str
) -> None:
    """The contract: user_id need not be text, and one value has one spelling."""
    create_table(empty_database, user_id=f"{type_} NOT NULL")
    migrate(Settings.load(database_url=empty_database))
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(
            f"INSERT INTO memory_logs (user_id, raw_data) VALUES ('{value}'::{type_}, '{{}}')"
        )

        assert changes(connection) == [(tenant, 1)]
