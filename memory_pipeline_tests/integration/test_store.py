"""What an application calls: whose a memory is, when it was made, and what is refused."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from memory_pipeline.domain.types import MemoryId, TenantId
from memory_pipeline.errors import InvalidMemory
from memory_pipeline.pipeline import opened
from memory_pipeline.postgres.migrate import migrate
from memory_pipeline.settings import Settings, TenantBy
from memory_pipeline.store import MemoryStore
from memory_pipeline.transfer.importing import Reading, import_file
from memory_pipeline.transfer.mapping import ByKeys, Finish

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


@pytest.mark.parametrize("column", ["timestamp", "timestamptz"])
def test_a_time_means_the_same_by_every_way_in(
    installed: Callable[[TenantBy], MemoryStore], empty_database: str, tmp_path: Path, column: str
) -> None:
    """One without a zone is UTC, whatever the column's type and the database's zone are."""
    noon = datetime(2024, 5, 8, 12, tzinfo=UTC)
    here = timezone(timedelta(hours=-5))
    lines = ("2024-05-08T12:00:00", "2024-05-08T12:00:00Z", "2024-05-08T07:00:00-05:00")
    file = tmp_path / "memories.jsonl"
    file.write_text(
        "".join(
            json.dumps({"user_id": "ada", "created_at": line, "raw_data": {}}) + "\n"
            for line in lines
        )
    )
    with installed("user_id") as store, psycopg.connect(empty_database, autocommit=True) as db:
        db.execute(
            f"ALTER TABLE memory_logs ALTER created_at TYPE {column},"
            f" ALTER updated_at TYPE {column}".encode()
        )
        zone = sql.SQL("ALTER DATABASE {} SET TimeZone TO 'America/Chicago'")
        db.execute(zone.format(sql.Identifier(db.info.dbname)))
        naive = noon.replace(tzinfo=None)
        ids = [
            store.remember("ada", {}, created_at=t) for t in (naive, noon, noon.astimezone(here))
        ]
        with opened(Settings.load(database_url=empty_database, embedder="hashing")) as parts:
            import_file(parts.transfer, file, Reading(ByKeys(), Finish()))
            memories = list(parts.memories.of_tenant(TenantId("ada")))
            assert [m.created_at for m in memories] == [noon] * (len(ids) + len(lines))
            began = datetime.now(UTC) - timedelta(seconds=60)
            now = store.remember("ada", {})
            assert store.update("ada", ids[0], {"changed": True})
            read = parts.memories.get(TenantId("ada"), [MemoryId(now), MemoryId(ids[0])])
            for time in (read[MemoryId(now)].created_at, read[MemoryId(ids[0])].updated_at):
                assert time is not None
                assert began < time < datetime.now(UTC) + timedelta(seconds=60)


def test_a_time_that_utc_cannot_name_is_refused(
    installed: Callable[[TenantBy], MemoryStore],
) -> None:
    """In one sentence: the first hours of the year 1, east of Greenwich."""
    east = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))
    with installed("user_id") as store, pytest.raises(InvalidMemory, match="years 1 to 9999"):
        store.remember("ada", {}, created_at=east)


CAPITALS = "3C90C3CC-0D44-4B50-8888-8DD25736052A"


@pytest.mark.parametrize(
    "value",
    [
        ("uuid", CAPITALS, CAPITALS.lower()),
        ("uuid", f"{{{CAPITALS}}}", CAPITALS.lower()),
        ("bigint", "007", "7"),
        ("integer", " 7", "7"),
        ("character(8)", "ada     ", "ada"),
        ("text", "Ada", "Ada"),
    ],
)
@pytest.mark.parametrize("tenant_by", ["user_id", "project_id", "both"])
def test_a_tenant_is_found_however_its_value_is_spelt(
    installed: Callable[[TenantBy], MemoryStore],
    empty_database: str,
    tenant_by: TenantBy,
    value: tuple[str, str, str],
) -> None:
    """As far as its column reads the spelling; Postgres alone says what a column prints."""
    column, spelt, printed = value
    with installed(tenant_by) as store, psycopg.connect(empty_database, autocommit=True) as db:
        db.execute(
            f"ALTER TABLE memory_logs ALTER user_id TYPE {column} USING user_id::{column},"
            f" ALTER project_id TYPE {column} USING project_id::{column}".encode()
        )
        memory = store.remember(spelt, {"n": 1}, project_id=spelt)
        tenant = json.dumps([printed, printed]) if tenant_by == "both" else printed
        named = f'["{spelt}","{spelt}"]' if tenant_by == "both" else spelt
        assert store.tenant(spelt, spelt) == store.tenant(printed, printed) == tenant
        assert store.get(named, memory) == store.get(tenant, memory) == {"n": 1}
        assert store.update(named, memory, {"n": 2})
        assert store.get(tenant, memory) == {"n": 2}
        assert store.forget(named, memory)
        assert store.get(tenant, memory) is None


@pytest.mark.parametrize("name", ["nobody", "9" * 30, '["a"]', "["])
def test_what_no_column_can_hold_is_an_unknown_tenant(
    installed: Callable[[TenantBy], MemoryStore], empty_database: str, name: str
) -> None:
    """It has no memories; only a memory of it is refused."""
    with installed("user_id") as store, psycopg.connect(empty_database, autocommit=True) as db:
        db.execute("ALTER TABLE memory_logs ALTER user_id TYPE uuid USING user_id::uuid")
        assert store.get(name, 1) is None
        assert not store.forget(name, 1)
        assert store.search(name, "words") == []
        with pytest.raises(InvalidMemory, match="no memory can have"):
            store.tenant(name)


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
