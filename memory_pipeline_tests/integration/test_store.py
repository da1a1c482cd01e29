"""What an application calls: whose a memory is, when it was made, and what is refused."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, timezone

import psycopg
import pytest
from psycopg import sql

from memory_pipeline.errors import InvalidMemory
from memory_pipeline.postgres.migrate import migrate
from memory_pipeline.settings import Settings, TenantBy
from memory_pipeline.store import MemoryStore

HOSTILE = [
    "ada",
    "",
    " ",
    'quo"te',
    "back\\slash",
    '\\"',
    "a/b",
    "null",
    '["ada", "home"]',
    "tab\tline\nreturn\rback\bfeed\f",
    "\x01\x1f\x7f\x80\x9f",
    "\N{LINE SEPARATOR}\N{PARAGRAPH SEPARATOR}\N{ZERO WIDTH NO-BREAK SPACE}",
    "\N{GREEK SMALL LETTER ALPHA}\N{CJK UNIFIED IDEOGRAPH-65E5}\N{GRINNING FACE}",
    "<script>&amp;\\u0041",
    "\ufffe\uffff\U0010ffff",
]


@pytest.fixture
def installed(empty_database: str, settings: Settings) -> Callable[[TenantBy], MemoryStore]:
    """Return a function that opens a store of an installation with the given setting."""

    def install(tenant_by: TenantBy) -> MemoryStore:
        here = Settings.load(
            database_url=empty_database, home=settings.home, tenant_by=tenant_by, embedder="hashing"
        )
        migrate(here)
        return MemoryStore(here)

    return install


@pytest.mark.parametrize("tenant_by", ["user_id", "project_id", "both"])
def test_the_tenant_is_the_one_that_postgres_derives(
    installed: Callable[[TenantBy], MemoryStore], empty_database: str, tenant_by: TenantBy
) -> None:
    """Of hostile names too; and by it the memory is found again."""
    names = [(user, project) for user in HOSTILE for project in [*HOSTILE, None]]
    if tenant_by == "project_id":
        names = [(user, project) for user, project in names if project is not None]
    with installed(tenant_by) as store:
        derived = tenants_in_postgres(empty_database, names)
        assert [store.tenant(user, project) for user, project in names] == derived
        for user, project in zip(HOSTILE, reversed(HOSTILE), strict=True):
            memory = store.remember(user, {"of": user}, project_id=project)
            assert store.get(store.tenant(user, project), memory) == {"of": user}


def test_every_character_is_printed_as_postgres_prints_it(
    installed: Callable[[TenantBy], MemoryStore], empty_database: str
) -> None:
    """All of Unicode, but for those that no text of Postgres holds."""
    characters = [chr(c) for c in range(1, 0x110000) if not 0xD800 <= c < 0xE000]
    names = [("".join(characters[at : at + 4096]), None) for at in range(0, len(characters), 4096)]
    with installed("both") as store:
        derived = tenants_in_postgres(empty_database, names)
        assert [store.tenant(user, project) for user, project in names] == derived


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "a\udfff"])
def test_a_name_that_postgres_cannot_hold_has_no_tenant(
    installed: Callable[[TenantBy], MemoryStore], name: str
) -> None:
    """Neither as user nor as project; nor is it taken for a tenant."""
    with installed("both") as store:
        calls: list[Callable[[], object]] = [
            lambda: store.tenant(name),
            lambda: store.tenant("ada", name),
            lambda: store.remember(name, {}),
            lambda: store.update(name, 1, {}),
            lambda: store.forget(name, 1),
            lambda: store.search(name, "words"),
        ]
        for call in calls:
            with pytest.raises(InvalidMemory):
                call()
        assert store.get(name, 1) is None


def test_without_a_project_there_is_no_tenant_by_project(
    installed: Callable[[TenantBy], MemoryStore],
) -> None:
    """Such a memory is stored and not indexed."""
    with installed("project_id") as store, pytest.raises(InvalidMemory, match="no tenant"):
        store.tenant("ada")


def test_a_time_without_a_zone_is_one_of_the_databases_session(
    installed: Callable[[TenantBy], MemoryStore], empty_database: str
) -> None:
    """As Postgres reads it everywhere; one with a zone means the same in any session."""
    with psycopg.connect(empty_database, autocommit=True) as connection:
        named = sql.Identifier(connection.info.dbname)
        zoned = sql.SQL("ALTER DATABASE {} SET TimeZone TO 'Asia/Kolkata'").format(named)
        connection.execute(zoned)
    naive = datetime(2020, 2, 3, 4, 5, 6)  # noqa: DTZ001 - this is what is tested
    with installed("user_id") as store:
        for given, meant in (
            (naive, naive.replace(tzinfo=timezone(timedelta(hours=5, minutes=30)))),
            (naive.replace(tzinfo=UTC), naive.replace(tzinfo=UTC)),
        ):
            memory = store.remember("ada", {}, created_at=given)
            with psycopg.connect(empty_database) as connection:
                query = "SELECT created_at FROM memory_logs WHERE id = %s"
                assert connection.execute(query, (memory,)).fetchone() == (meant,)


def tenants_in_postgres(url: str, names: Sequence[tuple[str, str | None]]) -> list[str]:
    """Ask the function that the trigger calls."""
    query = """
        SELECT memory_pipeline.tenant_of(named.user_id, named.project_id)
        FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS named (user_id, project_id, at)
        ORDER BY at
    """
    users, projects = [user for user, _ in names], [project for _, project in names]
    with psycopg.connect(url) as connection:
        return [tenant for (tenant,) in connection.execute(query, (users, projects))]
