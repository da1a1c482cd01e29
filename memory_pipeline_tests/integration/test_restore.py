"""Postgres goes back in time: dumps, copies of its files, failovers, against a real Chroma.

What broke: Chroma is ahead of its source. Why the obvious is not enough: the outbox, the leases and
the registry went back as well, so that nothing in Postgres tells. What must not change: searches
return what Postgres has; no tenant is called proven that was not compared.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import psycopg
import pytest
from typer.testing import CliRunner

from memory_pipeline.chroma.marker import (
    DATABASE_ID_KEY,
    EPOCH_KEY,
    INSTALLATION_KEY,
    MARKER,
    write_stamp,
)
from memory_pipeline.cli import app
from memory_pipeline.domain.epoch import AHEAD, EpochStamp
from memory_pipeline.domain.types import MemoryId, TenantId
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.errors import ChromaUnavailable, Fenced, ServerLost
from memory_pipeline.local.chroma import ChromaProcess, start_chroma
from memory_pipeline.local.environment import settings_environment
from memory_pipeline.local.postgres import EmbeddedPostgres, start_postgres
from memory_pipeline.maintenance.cleanup import drop_retired
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.postgres.migrate import migrate
from memory_pipeline.settings import Settings
from memory_pipeline.worker.background import Intervals
from memory_pipeline_tests.dumps import dump, load
from memory_pipeline_tests.integration.worker.words import living
from memory_pipeline_tests.words import ADA, BOB, held, remember

EVE = TenantId("eve")
IN_PLACE = ("--clean", "--if-exists")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Wait a second for what a forgotten worker may have sent."""
    return settings.model_copy(
        update={"request_seconds": 1.0, "grace_seconds": 0.0, "lease_seconds": 2.5}
    )


def sync(pipeline: Pipeline) -> None:
    """Bring everything that stands, and let the markers know of a new epoch."""
    assert {o.verdict for o in pipeline.drain().run(paused=True)} <= {"done", "damaged"}
    pipeline.restore_watch.watch(seconds=0)


def heal(pipeline: Pipeline, wait_until: Callable[..., None]) -> None:
    """Sync as a worker does, until every tenant is proven."""

    def proven() -> bool:
        for _ in pipeline.drain().run(paused=True):
            pass
        return not pipeline.epochs.unproven().tenants

    wait_until(proven, within=30.0)


def found(pipeline: Pipeline, tenant: TenantId) -> set[str]:
    """Tell what a search returns."""
    hits: list[Any] = [h.memory for h in pipeline.search.search(tenant, "a memory", k=50)]
    return {hit["summary"] for hit in hits}


def findings(pipeline: Pipeline, *tenants: TenantId) -> list[str]:
    """Verify all documents of these tenants; tell what is wrong."""
    verify = pipeline.verify()
    return [f"{t}: {f.kind}" for t in tenants for f in verify.run(t, sample=None).findings]


def rollback_signs(db: psycopg.Connection) -> list[str]:
    """Tell every sign that was noted."""
    return [row[0] for row in db.execute("SELECT reason FROM memory_pipeline.rollback_sign")]


def marker(pipeline: Pipeline) -> dict[str, Any]:
    """Read the marker's metadata with the library itself."""
    (server,) = pipeline.servers.usable()
    with pipeline.servers.client(server).call(5.0) as connected:
        return dict(connected.get_collection(MARKER).metadata or {})


def command(settings: Settings, *words: str, code: int = 0) -> dict[str, Any]:
    """Run a command as a user does; return what it prints as JSON."""
    done = CliRunner().invoke(app, [*words, "--json"], env=settings_environment(settings))
    assert done.exit_code == code, done.output + done.stderr
    printed: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
    return printed


def test_a_dump_that_is_loaded_in_place_is_noticed_and_every_tenant_made_right(
    pipeline: Pipeline,
    database_url: str,
    settings: Settings,
    db: psycopg.Connection,
    wait_until: Callable[..., None],
) -> None:
    """What was written since vanishes, what was deleted is back, what was changed goes back."""
    stays, changes, goes = (remember(db, "ada", text) for text in ("stays", "was", "returns"))
    remember(db, "bob", "bob's")
    sync(pipeline)
    old = dump(database_url, *IN_PLACE)
    db.execute(
        """UPDATE memory_logs SET raw_data = '{"summary": "is"}' WHERE id = %s""", (changes,)
    )
    db.execute("DELETE FROM memory_logs WHERE id = %s", (goes,))
    since = remember(db, "ada", "vanishes")
    remember(db, "eve", "of a tenant that vanishes")
    sync(pipeline)
    # Bob's collection is another one by now, and the one that the dump knows is gone.
    assert pipeline.rebuild_alone(BOB).verdict == "done"
    assert drop_retired(pipeline.registry, pipeline.index, grace_seconds=0) == 1
    forgotten = {pipeline.registry.live(t) for t in (EVE, BOB)}
    assert rollback_signs(db) == []

    load(database_url, old)

    assert any("went back" in said for said in pipeline.servers.problems())
    pipeline.restore_watch.watch()
    assert len(rollback_signs(db)) == 2
    assert pipeline.epochs.unproven().tenants == {ADA, BOB}
    (said,) = [p for p in command(settings, "status")["problems"] if p.startswith("UNPROVEN")]
    assert "2 tenants" in said
    told = command(settings, "verify", code=1)["findings"]
    assert {(f["kind"], f["tenant"]) for f in told} >= {("unproven", "ada"), ("unproven", "bob")}
    assert found(pipeline, ADA) <= {"stays", "was", "returns"}

    heal(pipeline, wait_until)

    assert findings(pipeline, ADA, BOB) == []
    assert held(pipeline, ADA) == {stays, changes, goes}
    assert since not in held(pipeline, ADA)
    assert found(pipeline, ADA) == {"stays", "was", "returns"}
    assert found(pipeline, BOB) == {"bob's"}
    pipeline.restore_watch.watch(seconds=0)
    assert len(rollback_signs(db)) == 2
    assert command(settings, "verify")["findings"] == []
    # What only the forgotten state knew is cleared away, and nothing else.
    (server,) = pipeline.servers.usable()
    with pipeline.servers.client(server).call(5.0) as connected:
        for owner in ({INSTALLATION_KEY: str(uuid4())}, {"tenant": "of somebody"}):
            connected.create_collection(f"memories-{uuid4()}", metadata=owner)
        before = connected.count_collections()
        assert {g.id for g in pipeline.restore_watch.forgotten(server)} == {
            g.id for g in forgotten if g
        }
        assert pipeline.restore_watch.sweep() == 2
        assert connected.count_collections() == before - 2
    assert pipeline.restore_watch.forgotten(server) == []
    assert findings(pipeline, ADA, BOB) == []


def test_a_tenant_that_the_dump_does_not_know_can_come_again(
    pipeline: Pipeline, database_url: str, db: psycopg.Connection, wait_until: Callable[..., None]
) -> None:
    """A resident process remembers whom it has registered; that too has gone back."""
    remember(db, "ada")
    sync(pipeline)
    old = dump(database_url, *IN_PLACE)
    remember(db, "eve", "the first time")
    sync(pipeline)

    load(database_url, old)
    remember(db, "eve", "the second time")
    pipeline.restore_watch.watch()
    heal(pipeline, wait_until)

    assert found(pipeline, EVE) == {"the second time"}
    assert findings(pipeline, ADA, EVE) == []


def test_a_lease_of_the_forgotten_state_is_fenced(
    pipeline: Pipeline, database_url: str, db: psycopg.Connection, wait_until: Callable[..., None]
) -> None:
    """The same number would be given out again, and two workers would hold it."""
    remember(db, "ada")
    sync(pipeline)
    old = dump(database_url, *IN_PLACE)
    zombie = pipeline.outbox.acquire_lease(ADA)
    assert zombie is not None

    load(database_url, old)
    pipeline.restore_watch.watch()
    lease = pipeline.outbox.acquire_lease(ADA)
    assert lease is not None

    lease.renew()
    with pytest.raises(Fenced):
        zombie.renew()
    assert lease.token > zombie.token + 1_000_000_000


def test_what_a_forgotten_worker_has_sent_may_land_late(
    pipeline: Pipeline, database_url: str, db: psycopg.Connection, wait_until: Callable[..., None]
) -> None:
    """No change tells of its request; so nothing is compared before it has landed or died."""
    memory = MemoryId(remember(db, "ada", "a memory"))
    sync(pipeline)
    old = dump(database_url, *IN_PLACE)
    load(database_url, old)
    pipeline.restore_watch.watch()

    assert not pipeline.outbox.has_due_changes(ADA)
    live = pipeline.registry.live(ADA)
    assert live is not None
    pipeline.index.write(live, (), [memory], renew=lambda: 5.0)  # it lands now
    heal(pipeline, wait_until)

    assert findings(pipeline, ADA) == []
    assert held(pipeline, ADA) == {memory}


def test_a_marker_that_lags_is_no_setback(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """A crash between the two writes, a server that was away, two processes that write at once."""
    remember(db, "ada")
    sync(pipeline)
    (server,) = pipeline.servers.usable()
    client = pipeline.servers.client(server)
    early = marker(pipeline)
    first = EpochStamp(early[DATABASE_ID_KEY], UUID(early[EPOCH_KEY]))
    for _ in range(3):
        pipeline.restore_watch.watch(seconds=0)
    assert marker(pipeline)[EPOCH_KEY] != early[EPOCH_KEY]

    # 1. The epoch is committed, and the marker is not written: a crash, or Chroma was down.
    assert pipeline.epochs.rotate(seconds=0) is not None
    pipeline.restore_watch.watch()
    # 2. Another process writes late what it has begun long ago.
    write_stamp(client, pipeline.settings, first)
    pipeline.restore_watch.watch()
    with opened(pipeline.settings, embedder=HashingEmbedder()) as other:
        other.servers.check_identity()
        other.restore_watch.watch(seconds=0)

    assert rollback_signs(db) == []
    assert pipeline.epochs.unproven().tenants == set()
    assert marker(pipeline)[INSTALLATION_KEY] == early[INSTALLATION_KEY]


def test_what_a_process_was_told_long_ago_is_no_sign(
    settings: Settings, db: psycopg.Connection, unmarked_chroma: None
) -> None:
    """What broke: one that looked for a server compared what others had said a week before."""
    remember(db, "ada")
    away = settings.model_copy(update={"chroma_urls": ("http://127.0.0.1:1",)})
    with opened(away, embedder=HashingEmbedder()) as pipeline:
        sync(pipeline)
        pipeline.restore_watch.watch(seconds=0)
        pipeline.servers.check_identity()
        pipeline.restore_watch.watch(seconds=0)
        newest = "SELECT max(number) FROM memory_pipeline.epoch"
        db.execute(f"DELETE FROM memory_pipeline.epoch WHERE number < ({newest})")
        with pytest.raises(ChromaUnavailable):
            pipeline.servers.client(uuid4())
    assert rollback_signs(db) == []


def test_a_setback_is_noted_once_however_the_markers_are(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: Callable[..., None]
) -> None:
    """A crash after it was noted, and a marker that cannot be written, start nothing over."""
    remember(db, "ada")
    sync(pipeline)
    database_id = pipeline.epochs.database_id()
    (server,) = pipeline.servers.usable()
    strange = EpochStamp(database_id, uuid4())
    write_stamp(pipeline.servers.client(server), pipeline.settings, strange)

    for _ in range(3):  # as many processes, none of which gets to write the marker
        with opened(pipeline.settings, embedder=HashingEmbedder()) as process:
            process.servers.check_identity()
            process.restore_watch.watch()

    assert rollback_signs(db) == [AHEAD]
    resets = "SELECT count(*) FROM memory_pipeline.change WHERE unproven"
    assert db.execute(resets).fetchone() == (1,)
    heal(pipeline, wait_until)
    assert findings(pipeline, ADA) == []


def test_the_reset_and_what_it_finds_are_waited_for(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """A tenant is not proven while something is known to differ."""
    memories = [MemoryId(remember(db, "ada", f"memory {n}")) for n in range(3)]
    sync(pipeline)
    live = pipeline.registry.live(ADA)
    assert live is not None
    pipeline.index.write(live, (), memories[:1], renew=lambda: 5.0)
    db.execute("INSERT INTO memory_pipeline.change (tenant, unproven) VALUES ('ada', true)")

    pipeline.sync().run(ADA, once=True)
    waits = db.execute("SELECT memory_id, unproven FROM memory_pipeline.change").fetchall()
    assert waits == [(memories[0], True)]
    assert pipeline.epochs.unproven().tenants == {ADA}
    pipeline.sync().run(ADA, once=True)
    assert pipeline.epochs.unproven().tenants == set()
    assert findings(pipeline, ADA) == []


def test_while_a_dump_is_being_loaded_nothing_is_noted_yet(
    pipeline: Pipeline, database_url: str, db: psycopg.Connection, wait_until: Callable[..., None]
) -> None:
    """Its rows come before its triggers: what a reset has not seen would be seen by nothing."""
    remember(db, "ada", "the first")
    last = remember(db, "ada", "the last")
    sync(pipeline)
    old = dump(database_url, *IN_PLACE)
    db.execute("DELETE FROM memory_logs WHERE id = %s", (last,))
    sync(pipeline)
    before = marker(pipeline)
    rows, triggers, rest = old.partition("CREATE TRIGGER memory_pipeline_capture")
    head, memories, tail = rows.partition("COPY public.memory_logs")
    assert triggers
    assert memories
    paths = "SELECT pg_catalog.set_config('search_path', '', false);"

    load(database_url, f"{head}\\unrestrict {_key(old)}\n")
    pipeline.restore_watch.watch(seconds=0)
    for _ in pipeline.drain().run(paused=True):
        pass
    load(database_url, f"{paths}{memories}{tail}")
    pipeline.restore_watch.watch(seconds=0)
    assert rollback_signs(db) == []
    assert marker(pipeline) == before
    assert any("went back" in said for said in pipeline.servers.problems())
    load(database_url, f"\\restrict {_key(old)}\n{paths}{triggers}{rest}")
    pipeline.restore_watch.watch(seconds=0)
    assert rollback_signs(db) != []

    heal(pipeline, wait_until)
    assert found(pipeline, ADA) == {"the first", "the last"}
    assert findings(pipeline, ADA) == []


def test_while_a_dump_is_being_loaded_no_epoch_begins(
    pipeline: Pipeline, database_url: str, db: psycopg.Connection
) -> None:
    """It would take the place of one that the dump brings along, and psql would stop at that."""
    remember(db, "ada")
    sync(pipeline)
    old = dump(database_url, *IN_PLACE)
    tables, rows, rest = old.partition("COPY ")
    load(database_url, f"{tables}\\unrestrict {_key(old)}\n")
    with opened(pipeline.settings, embedder=HashingEmbedder()) as other:  # it has no server yet
        other.restore_watch.watch(seconds=0)
    paths = "SELECT pg_catalog.set_config('search_path', '', false);"
    load(database_url, f"\\restrict {_key(old)}\n{paths}{rows}{rest}")


def _key(sql: str) -> str:
    """Return what pg_dump restricts psql with."""
    return sql.partition("\\restrict ")[2].partition("\n")[0]


def _slowly(sql: str) -> str:
    """Leave time between the end of the old tables and the new ones."""
    head, created, rest = sql.partition("CREATE SCHEMA memory_pipeline;")
    assert created
    return f"{head}SELECT pg_sleep(2);\n{created}{rest}"


@pytest.mark.parametrize("at_once", [True, False])
def test_a_live_process_lives_through_it_and_mends_everything(
    pipeline: Pipeline,
    database_url: str,
    db: psycopg.Connection,
    wait_until: Callable[..., None],
    *,
    at_once: bool,
) -> None:
    """Nobody runs a command; for a while there are no tables, or all are made anew at once."""
    for tenant in ("ada", "bob"):
        remember(db, tenant, f"{tenant}'s old memory")
    with living(pipeline, intervals=Intervals(restore_watch_seconds=0.3)):
        wait_until(lambda: "ada's old memory" in found(pipeline, ADA), within=20)
        pipeline.restore_watch.watch(seconds=0)
        old = dump(database_url, *IN_PLACE)
        remember(db, "ada", "vanishes")
        wait_until(lambda: "vanishes" in found(pipeline, ADA), within=20)
        pipeline.restore_watch.watch(seconds=0)

        load(database_url, f"BEGIN;\n{old}\nCOMMIT;" if at_once else _slowly(old))

        wait_until(lambda: rollback_signs(db), within=20)
        remember(db, "ada", "written after")
        wait_until(lambda: not pipeline.epochs.unproven().tenants, within=30)
        wait_until(lambda: "written after" in found(pipeline, ADA), within=20)
    assert found(pipeline, ADA) == {"ada's old memory", "written after"}
    assert findings(pipeline, ADA, BOB) == []


def test_a_role_that_may_not_ask_where_it_is_notices_by_the_markers(
    pipeline: Pipeline, database_url: str, db: psycopg.Connection
) -> None:
    """Some have revoked those functions; nothing fails by that."""
    role = f"role_{uuid4().hex[:12]}"
    db.execute(f"CREATE ROLE {role} LOGIN")
    try:
        db.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
        db.execute(f"GRANT USAGE ON SCHEMA memory_pipeline TO {role}")
        db.execute(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA memory_pipeline"
            f" TO {role}"
        )
        db.execute(f"GRANT SELECT, UPDATE (embedding) ON memory_logs TO {role}")
        remember(db, "ada")
        url = (
            f"{database_url}{'&' if '?' in database_url else '?'}options={quote(f'-c role={role}')}"
        )
        own = pipeline.settings.model_copy(update={"database_url": _secret(url)})
        with opened(own, embedder=HashingEmbedder()) as least:
            sync(least)
            assert least.epochs.database_id().startswith(":")
            (server,) = least.servers.usable()
            strange = EpochStamp(least.epochs.database_id(), uuid4())
            write_stamp(least.servers.client(server), own, strange)
            least.restore_watch.watch()
            assert rollback_signs(db) == [AHEAD]
            assert least.epochs.unproven().tenants == {ADA}
    finally:
        db.execute(f"DROP OWNED BY {role}")
        db.execute(f"DROP ROLE {role}")


# ---- other servers, other databases


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """Start a Postgres whose files may be exchanged."""
    server = start_postgres(tmp_path / "own", durable=False)
    server.create_database("app")
    yield server
    server.remove()


def test_files_that_are_put_back_and_a_failover_are_noticed(
    own_postgres: EmbeddedPostgres,
    settings: Settings,
    unmarked_chroma: None,
    wait_until: Callable[..., None],
) -> None:
    """Put back, everything in Postgres is as it was: the markers alone tell; then a promotion."""
    own = settings.model_copy(update={"database_url": _secret(own_postgres.url("app"))})
    migrate(own)
    with psycopg.connect(own_postgres.url("app"), autocommit=True) as db:
        goes = remember(db, "ada", "returns")
        with opened(own, embedder=HashingEmbedder()) as pipeline:
            sync(pipeline)
    _exchange(own_postgres, lambda data, kept: shutil.copytree(data, kept, symlinks=True))
    with psycopg.connect(own_postgres.url("app"), autocommit=True) as db:
        db.execute("DELETE FROM memory_logs WHERE id = %s", (goes,))
        remember(db, "ada", "vanishes")
        with opened(own, embedder=HashingEmbedder()) as pipeline:
            sync(pipeline)
            assert found(pipeline, ADA) == {"vanishes"}
            assert rollback_signs(db) == []

    def put_back(data: Path, kept: Path) -> None:
        shutil.rmtree(data)
        kept.rename(data)

    _exchange(own_postgres, put_back)
    with (
        psycopg.connect(own_postgres.url("app"), autocommit=True) as db,
        opened(own, embedder=HashingEmbedder()) as pipeline,
    ):
        assert not pipeline.epochs.unproven().tenants
        pipeline.index.servers()
        assert rollback_signs(db) == [AHEAD]
        assert pipeline.epochs.unproven().tenants == {ADA}
        heal(pipeline, wait_until)
        assert findings(pipeline, ADA) == []
        assert found(pipeline, ADA) == {"returns"}
        pipeline.restore_watch.watch(seconds=0)

    def follow(data: Path, kept: Path) -> None:
        (data / "standby.signal").touch()

    _exchange(own_postgres, follow)
    with psycopg.connect(own_postgres.url("app"), autocommit=True) as db:
        assert db.execute("SELECT pg_promote()").fetchone() == (True,)
        with opened(own, embedder=HashingEmbedder()) as pipeline:
            pipeline.index.servers()
            assert "failed over" in rollback_signs(db)[-1]
            heal(pipeline, wait_until)
            assert findings(pipeline, ADA) == []


def _exchange(server: EmbeddedPostgres, act: Callable[[Path, Path], object]) -> None:
    """Do something to the files of a server that is stopped."""
    server.stop()
    data = server.data
    act(data, data.with_name("kept"))
    if server.user is not None:
        for path in (data, *data.rglob("*")):
            shutil.chown(path, server.user, server.user)
    server.ensure_running()


def _secret(url: str) -> Any:
    return Settings.load(database_url=url).database_url


def test_a_copy_of_the_database_touches_nothing_until_it_is_told_to_take_over(
    pipeline: Pipeline,
    database_url: str,
    empty_database: str,
    db: psycopg.Connection,
    wait_until: Callable[..., None],
) -> None:
    """Both have one installation id and one Chroma; only one of them may write it."""
    remember(db, "ada", "old")
    sync(pipeline)
    load(empty_database, dump(database_url))
    remember(db, "ada", "newer")
    sync(pipeline)
    copied = pipeline.settings.model_copy(update={"database_url": _secret(empty_database)})

    with opened(copied, embedder=HashingEmbedder()) as copy:
        with pytest.raises(ServerLost, match="migrate --take-over"):
            copy.servers.check_identity()
        assert copy.epochs.unproven().tenants == {ADA}
        for _ in copy.drain().run(paused=True):
            pass
        copy.restore_watch.watch(seconds=0)
    pipeline.restore_watch.watch(seconds=0)
    assert rollback_signs(db) == []
    assert found(pipeline, ADA) == {"old", "newer"}
    assert findings(pipeline, ADA) == []

    command_line = CliRunner().invoke(
        app, ["migrate", "--take-over"], env=settings_environment(copied)
    )
    assert command_line.exit_code == 0, command_line.stderr
    with opened(copied, embedder=HashingEmbedder()) as copy:
        copy.servers.check_identity()
        heal(copy, wait_until)
        copy.restore_watch.watch(seconds=0)
        assert findings(copy, ADA) == []
        assert found(copy, ADA) == {"old"}
        # From now on it is the other one that has to keep off.
        pipeline.restore_watch.watch()
        assert rollback_signs(db) == []
        with pytest.raises(ChromaUnavailable, match="take-over"):
            pipeline.servers.check_identity()
        assert pipeline.servers.usable() == []
        assert findings(copy, ADA) == []


def test_the_memories_alone_are_loaded_into_an_empty_server(
    pipeline: Pipeline,
    database_url: str,
    empty_database: str,
    db: psycopg.Connection,
    tmp_path: Path,
) -> None:
    """`pg_dump | psql`, `migrate`, `rebuild --all`: a new installation, with the old vectors."""
    for n in range(5):
        remember(db, f"tenant-{n % 2}", f"memory {n}")
    sync(pipeline)
    # psql says of each trigger that its function does not exist; migrate makes them anew.
    load(empty_database, dump(database_url, "--exclude-schema=memory_pipeline"), errors=True)
    fresh = pipeline.settings.model_copy(update={"database_url": _secret(empty_database)})
    migrate(fresh, vectors="trust")
    command(fresh, "rebuild", "--all", code=3)  # the old installation's Chroma is not touched
    chroma: ChromaProcess = start_chroma(tmp_path / "chroma", tmp_path / "chroma.log")
    try:
        fresh = fresh.model_copy(update={"chroma_url": chroma.url})
        rebuilt = command(fresh, "rebuild", "--all")
        assert (rebuilt["done"], rebuilt["written"], rebuilt["embedded"]) == (2, 5, 0)
        command(fresh, "sync")
        verified = command(fresh, "verify", "--sample", "all")
        assert (verified["documents"], verified["found"]) == (5, 0)
    finally:
        chroma.stop()


def test_a_full_dump_is_loaded_into_an_empty_server_with_a_chroma_of_its_own(
    pipeline: Pipeline,
    database_url: str,
    empty_database: str,
    db: psycopg.Connection,
    tmp_path: Path,
) -> None:
    """The registry that came along names a Chroma that is not there; rebuild gives it up."""
    for n in range(5):
        remember(db, f"tenant-{n % 2}", f"memory {n}")
    sync(pipeline)
    load(empty_database, dump(database_url))
    chroma: ChromaProcess = start_chroma(tmp_path / "chroma", tmp_path / "chroma.log")
    try:
        fresh = pipeline.settings.model_copy(
            update={"database_url": _secret(empty_database), "chroma_url": chroma.url}
        )
        migrate(fresh)
        rebuilt = command(fresh, "rebuild", "--all")
        assert (rebuilt["done"], rebuilt["written"], rebuilt["embedded"]) == (2, 5, 0)
        verified = command(fresh, "verify", "--repair", "--sample", "all")
        assert (verified["documents"], verified["findings"]) == (5, [])
    finally:
        chroma.stop()
    pipeline.restore_watch.watch(seconds=0)
    assert rollback_signs(db) == []
    assert findings(pipeline, TenantId("tenant-0"), TenantId("tenant-1")) == []
