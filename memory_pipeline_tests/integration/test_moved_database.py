"""A database that was renamed, upgraded, copied or loaded elsewhere, against a real Chroma.

What broke: a rename stopped every sync and search, with the advice to set an address that was set.
Why the obvious is not enough: everything inside a database is in its copies too. What must not
change: of two databases with one origin only one writes the collections.
"""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import dagster as dg
import psycopg
import pytest
from psycopg import sql
from typer.testing import CliRunner, Result

from memory_pipeline.chroma.marker import DATABASE_ID_KEY, EPOCH_KEY, MARKER, write_stamp
from memory_pipeline.cli import app
from memory_pipeline.domain.database_identity import DatabaseId
from memory_pipeline.domain.epoch import EpochStamp
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.errors import ServerLost
from memory_pipeline.local.environment import settings_environment
from memory_pipeline.local.postgres import EmbeddedPostgres, start_postgres
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.postgres.migrate import migrate
from memory_pipeline.settings import Settings
from memory_pipeline.worker.background import Intervals
from memory_pipeline_tests.dumps import dump, load
from memory_pipeline_tests.integration.worker.words import living
from memory_pipeline_tests.words import ADA, drained, drained_well, held, remember

pytestmark = pytest.mark.usefixtures("unmarked_chroma")
WaitUntil = Callable[..., None]
WRONG = "none of the addresses"
# What each command ends with while the Chroma is refused; the tenants are unproven for verify.
CODES = {
    "search memory --tenant ada": 3,
    "sync": 3,
    "status": 0,
    "verify": 1,
    "verify --repair": 1,
    "rebuild --all": 3,
}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Wait a second for what a forgotten worker may have sent."""
    return settings.model_copy(
        update={"request_seconds": 1.0, "grace_seconds": 0.0, "lease_seconds": 2.5}
    )


@pytest.fixture
def admin(postgres: EmbeddedPostgres) -> Iterator[psycopg.Connection]:
    """Connect to another database of the server, as one does who renames this one."""
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        yield connection


def statement(admin: psycopg.Connection, text: str, *names: str) -> None:
    """Run a statement about databases, which may have no other connections then."""
    for name in names:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,)
        )
    admin.execute(sql.SQL(text).format(*map(sql.Identifier, names)))


def name_of(url: str) -> str:
    """Return the name of the database at an address."""
    return urlsplit(url).path.removeprefix("/")


def synced(settings: Settings, *memories: str) -> None:
    """Write these memories and sync them, so that the marker has a stamp of this database."""
    assert settings.database_url is not None
    with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as db:
        for memory in memories:
            remember(db, "ada", memory)
    with opened(settings, embedder=HashingEmbedder()) as pipeline:
        drained_well(pipeline)
        pipeline.restore_watch.watch(seconds=0)


def at(settings: Settings, url: str) -> Settings:
    """Return the settings with another database."""
    return settings.model_copy(
        update={"database_url": Settings.load(database_url=url).database_url}
    )


def command(settings: Settings, *words: str) -> Result:
    """Run a command as a user does."""
    return CliRunner().invoke(app, list(words), env=settings_environment(settings))


def found(pipeline: Pipeline) -> set[str]:
    """Return what a search of ada's memories finds."""
    hits: list[Any] = [h.memory for h in pipeline.search.search(ADA, "a memory", k=50)]
    return {hit["summary"] for hit in hits}


def marker(pipeline: Pipeline) -> dict[str, Any]:
    """Read the marker's metadata with the library itself."""
    (server,) = pipeline.servers.usable()
    with pipeline.servers.client(server).call(5.0) as connected:
        return dict(connected.get_collection(MARKER).metadata or {})


def rollback_signs(pipeline: Pipeline) -> list[str]:
    """Return every sign that was recorded."""
    with pipeline.database.transaction() as connection:
        rows = connection.execute("SELECT reason FROM memory_pipeline.rollback_sign").fetchall()
        return [row[0] for row in rows]


def healed(pipeline: Pipeline, wait_until: WaitUntil) -> None:
    """Sync as a worker does, until every tenant is proven; then verify everything."""

    def proven() -> bool:
        drained(pipeline)
        return not pipeline.epochs.unproven().tenants

    wait_until(proven, within=30.0)
    assert pipeline.verify().run(ADA, sample=None).findings == ()


def refused(settings: Settings, *told: str) -> None:
    """Check that searches and syncs say this of the Chroma, and change nothing in it."""
    with opened(settings, embedder=HashingEmbedder()) as pipeline:
        with pytest.raises(ServerLost) as search:
            found(pipeline)
        outcomes = {(o.verdict, o.reason) for o in drained(pipeline)}
        problems = pipeline.servers.problems()
    assert {verdict for verdict, _ in outcomes} <= {"postponed"}
    for said in (str(search.value), *(reason for _, reason in outcomes), "\n".join(problems)):
        for words in told:
            assert words in said
        assert WRONG not in said


def test_a_renamed_database_goes_on_by_itself(
    settings: Settings,
    database_url: str,
    admin: psycopg.Connection,
    postgres: EmbeddedPostgres,
) -> None:
    """No operator, no comparison of everything, and the marker has the new name in the end."""
    synced(settings, "before")
    old, new = name_of(database_url), f"renamed_{uuid4().hex[:8]}"
    statement(admin, f"ALTER DATABASE {{}} RENAME TO {new}", old)
    renamed = at(settings, postgres.url(new))
    with opened(renamed, embedder=HashingEmbedder()) as pipeline:
        assert found(pipeline) == {"before"}
        assert pipeline.servers.problems() == []
        synced(renamed, "after")
        assert found(pipeline) == {"before", "after"}
        assert rollback_signs(pipeline) == []
        assert marker(pipeline)[DATABASE_ID_KEY].endswith(f"/{new}")
    for words in (["sync"], ["verify"], ["rebuild", "--all"]):
        done = command(renamed, *words)
        assert done.exit_code == 0, done.stderr


def test_a_renamed_clone_is_no_renamed_database(
    settings: Settings,
    database_url: str,
    admin: psycopg.Connection,
    postgres: EmbeddedPostgres,
) -> None:
    """A clone of the server has the same oids; that it is behind tells that it is none."""
    synced(settings, "before")
    with opened(settings, embedder=HashingEmbedder()) as pipeline:
        pipeline.servers.check_identity()
        (server,) = pipeline.servers.usable()
        # The original goes on: the marker has an epoch that this database has never begun.
        later = EpochStamp(marker(pipeline)[DATABASE_ID_KEY], uuid4())
        write_stamp(pipeline.servers.client(server), settings, later)
    old, new = name_of(database_url), f"renamed_{uuid4().hex[:8]}"
    statement(admin, f"ALTER DATABASE {{}} RENAME TO {new}", old)
    refused(at(settings, postgres.url(new)), "older state or a clone", "migrate --take-over")


@pytest.mark.parametrize("takes_its_name", [False, True])
def test_a_copy_beside_the_original_is_refused(
    settings: Settings,
    database_url: str,
    admin: psycopg.Connection,
    postgres: EmbeddedPostgres,
    *,
    takes_its_name: bool,
) -> None:
    """CREATE DATABASE … TEMPLATE keeps every oid in it; also where the two change their names."""
    synced(settings, "before")
    original, copied = name_of(database_url), f"copy_{uuid4().hex[:8]}"
    statement(admin, f"CREATE DATABASE {copied} TEMPLATE {{}}", original)
    if takes_its_name:
        moved = f"original_{uuid4().hex[:8]}"
        statement(admin, f"ALTER DATABASE {{}} RENAME TO {moved}", original)
        statement(admin, f"ALTER DATABASE {{}} RENAME TO {original}", copied)
        original, copied = moved, original
    copy, ours = at(settings, postgres.url(copied)), at(settings, postgres.url(original))
    with psycopg.connect(postgres.url(copied), autocommit=True) as db:
        db.execute("DELETE FROM memory_logs")
    refused(copy, "is a copy", f"{original!r}, is still on this server", "migrate --take-over")
    synced(ours, "after")
    with opened(ours, embedder=HashingEmbedder()) as pipeline:
        assert found(pipeline) == {"before", "after"}
        assert rollback_signs(pipeline) == []


def test_a_database_that_is_dropped_and_loaded_again_goes_on(
    settings: Settings,
    database_url: str,
    admin: psycopg.Connection,
    wait_until: WaitUntil,
) -> None:
    """`dropdb`, `createdb`, `psql`: a restore in place, though its oid is another one."""
    synced(settings, "before")
    old = dump(database_url)
    synced(settings, "forgotten")
    name = name_of(database_url)
    statement(admin, "DROP DATABASE {}", name)
    statement(admin, "CREATE DATABASE {}", name)
    load(database_url, old)
    with opened(settings, embedder=HashingEmbedder()) as pipeline:
        assert pipeline.servers.problems() != []
        pipeline.servers.check_identity()
        assert any("loaded in place" in sign for sign in rollback_signs(pipeline))
        healed(pipeline, wait_until)
        assert found(pipeline) == {"before"}


def test_a_dump_under_another_name_takes_over_from_one_that_is_gone(
    settings: Settings,
    database_url: str,
    empty_database: str,
    admin: psycopg.Connection,
    wait_until: WaitUntil,
) -> None:
    """The original may be about to be restored: the operator says that it is gone for good."""
    synced(settings, "before")
    load(empty_database, dump(database_url))
    fresh = at(settings, empty_database)
    refused(fresh, f"{name_of(database_url)!r}, is still on this server", "migrate --take-over")
    statement(admin, "DROP DATABASE {}", name_of(database_url))
    refused(fresh, "not on this server any more", "migrate --take-over")
    assert command(fresh, "migrate", "--take-over").exit_code == 0
    with opened(fresh, embedder=HashingEmbedder()) as pipeline:
        assert found(pipeline) == {"before"}
        healed(pipeline, wait_until)
        pipeline.restore_watch.watch(seconds=0)
        assert pipeline.servers.problems() == []


def test_roles_that_see_different_parts_of_the_place_are_told_what_to_grant(
    settings: Settings, database_url: str, db: psycopg.Connection
) -> None:
    """What broke: the marker of the one was a copy's to the other, and all tenants unproven."""
    synced(settings, "before")
    role = f"role_{uuid4().hex[:8]}"
    db.execute(f"CREATE ROLE {role} LOGIN")
    try:
        db.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
        db.execute(f"GRANT USAGE ON SCHEMA memory_pipeline TO {role}")
        db.execute(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA memory_pipeline"
            f" TO {role}"
        )
        db.execute(f"GRANT SELECT, UPDATE (embedding) ON memory_logs TO {role}")
        least = at(settings, database_url.replace("postgres@", f"{role}@"))
        refused(least, "GRANT EXECUTE ON FUNCTION pg_control_system()")
        db.execute(f"GRANT EXECUTE ON FUNCTION pg_control_system() TO {role}")
        synced(least, *())
        with opened(settings, embedder=HashingEmbedder()) as pipeline:
            assert found(pipeline) == {"before"}
            assert rollback_signs(pipeline) == []
    finally:
        db.execute(f"DROP OWNED BY {role}")
        db.execute(f"DROP ROLE {role}")


@pytest.mark.parametrize(
    ("function", "known"), [("pg_current_wal_lsn", True), ("pg_control_system", False)]
)
def test_a_server_that_refuses_such_functions_is_used_all_the_same(
    settings: Settings, database_url: str, db: psycopg.Connection, function: str, *, known: bool
) -> None:
    """What broke: Aurora has no WAL functions unless wal_level is logical, and nothing synced."""
    returns = "pg_lsn" if function == "pg_current_wal_lsn" else "TABLE (system_identifier bigint)"
    refusal = "RAISE 'wal_level must be set to ''logical''' USING ERRCODE = '55000'"
    db.execute("CREATE SCHEMA aurora")
    db.execute(
        f"CREATE FUNCTION aurora.{function}() RETURNS {returns} LANGUAGE plpgsql"
        f" AS $$ BEGIN {refusal}; END $$".encode()
    )
    name = sql.Identifier(name_of(database_url))
    db.execute(
        sql.SQL("ALTER DATABASE {} SET search_path = aurora, pg_catalog, public").format(name)
    )
    synced(settings, "a memory")
    with opened(settings, embedder=HashingEmbedder()) as pipeline:
        assert found(pipeline) == {"a memory"}
        assert bool(DatabaseId.parse(pipeline.epochs.database_id()).system) == known
        assert pipeline.servers.problems() == []
        assert rollback_signs(pipeline) == []


def test_a_marker_of_the_version_before_is_known(settings: Settings) -> None:
    """It has no oid; neither have the epochs."""
    synced(settings, "before")
    with opened(settings, embedder=HashingEmbedder()) as pipeline:
        pipeline.servers.check_identity()
        (server,) = pipeline.servers.usable()
        now = marker(pipeline)
        system, _, rest = now[DATABASE_ID_KEY].partition(":")
        written = f"{system}/{rest.partition('/')[2]}"
        with pipeline.database.transaction() as connection:
            connection.execute("UPDATE memory_pipeline.epoch SET database_id = %s", (written,))
            connection.execute("UPDATE memory_pipeline.server SET database_id = %s", (written,))
            nonce = connection.execute("SELECT nonce FROM memory_pipeline.epoch").fetchone()
        assert nonce is not None
        write_stamp(pipeline.servers.client(server), settings, EpochStamp(written, nonce[0]))
        synced(settings, "after")
        assert found(pipeline) == {"before", "after"}
        assert rollback_signs(pipeline) == []
        assert marker(pipeline)[DATABASE_ID_KEY] == now[DATABASE_ID_KEY]
        assert marker(pipeline)[EPOCH_KEY] != now[EPOCH_KEY]


# ---- pg_upgrade


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """Start a Postgres whose files may be upgraded."""
    server = start_postgres(tmp_path / "own", durable=False)
    server.create_database("app")
    yield server
    server.remove()


@pytest.fixture
def new_postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """Start the Postgres that it is upgraded to."""
    server = start_postgres(tmp_path / "new", durable=False)
    yield server
    server.remove()


def upgraded(old: EmbeddedPostgres, new: EmbeddedPostgres) -> None:
    """Upgrade with pg_upgrade, to the same version: everything is as in an upgrade to another."""
    old.stop()
    new.stop()
    done = subprocess.run(
        [
            str(new.programs / "pg_upgrade"),
            *("-b", str(old.programs), "-B", str(new.programs)),
            *("-d", str(old.data), "-D", str(new.data)),
            *("-U", "postgres", "--no-sync", "-s", str(new.data)),
        ],
        cwd=new.data,
        user=new.user,
        group=new.user,
        extra_groups=None if new.user is None else [],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    new.ensure_running()


@pytest.fixture
def upgraded_settings(
    own_postgres: EmbeddedPostgres,
    new_postgres: EmbeddedPostgres,
    settings: Settings,
) -> Settings:
    """Return the settings of an installation whose Postgres was upgraded, with a change pending."""
    before = at(settings, own_postgres.url("app"))
    migrate(before)
    synced(before, "before")
    upgraded(own_postgres, new_postgres)
    after = at(settings, new_postgres.url("app"))
    with psycopg.connect(new_postgres.url("app"), autocommit=True) as db:
        remember(db, "ada", "after")
    return after


def test_after_pg_upgrade_everything_says_what_happened_and_what_to_do(
    upgraded_settings: Settings, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """A search, each command, the worker and Dagster; one command, and nothing was lost."""
    told = ("upgraded by pg_upgrade", "run `memory-pipeline migrate --take-over`")
    refused(upgraded_settings, *told)
    said: dict[str, Result | str] = {
        words: command(upgraded_settings, *words.split())
        for words in (
            "search memory --tenant ada",
            "sync",
            "status",
            "verify",
            "verify --repair",
            "rebuild --all",
        )
    }
    said["dagster"] = _run_of_dagster(upgraded_settings, monkeypatch)
    said["live"] = _log_of_a_worker(upgraded_settings, wait_until, capfd)
    for where, result in said.items():
        text = result if isinstance(result, str) else result.output + result.stderr
        for words in told:
            assert words in text, (where, text)
        assert WRONG not in text, (where, text)
        if not isinstance(result, str):
            assert result.exit_code == CODES[where], (where, text)

    assert command(upgraded_settings, "migrate", "--take-over").exit_code == 0
    with opened(upgraded_settings, embedder=HashingEmbedder()) as pipeline:
        assert found(pipeline) == {"before"}
        assert any("pg_upgrade" in sign for sign in rollback_signs(pipeline))
        healed(pipeline, wait_until)
        assert found(pipeline) == {"before", "after"}
        pipeline.restore_watch.watch(seconds=0)
        assert pipeline.servers.problems() == []
        assert len(held(pipeline, ADA)) == 2


def _run_of_dagster(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the message of a sync run that fails."""
    for name, value in settings_environment(settings).items():
        monkeypatch.setenv(name, value)
    from memory_pipeline.definitions import defs  # reads the environment

    with dg.DagsterInstance.ephemeral() as instance, opened(settings) as pipeline:
        key = pipeline.registry.keys()[ADA]
        instance.add_dynamic_partitions("tenants", [key])
        ran = defs.resolve_job_def("incremental_sync").execute_in_process(
            instance=instance, partition_key=key, raise_on_error=False
        )
        (failed,) = [e for e in ran.all_node_events if e.is_step_failure]
    return str(failed.step_failure_data.user_failure_data or failed)


def _log_of_a_worker(settings: Settings, wait_until: WaitUntil, capfd: Any) -> str:
    """Return what a worker logs."""
    printed = ""

    def warned() -> bool:
        nonlocal printed
        captured = capfd.readouterr()
        printed += captured.out + captured.err
        return "take-over" in printed

    with (
        opened(settings, embedder=HashingEmbedder()) as pipeline,
        living(pipeline, intervals=Intervals(restore_watch_seconds=0.3)),
    ):
        wait_until(warned, within=20)
    return printed
