"""Forgetting a tenant: nothing is left, nothing of others goes, and nothing brings it back."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from memory_pipeline.admin.forget import Forget
from memory_pipeline.domain.erasure import Erasure
from memory_pipeline.domain.lags import Lags
from memory_pipeline.domain.outcomes import Verified
from memory_pipeline.domain.types import MemoryId, RebuildId, TenantId
from memory_pipeline.errors import ContractError, Fenced, MemoriesRemain
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.settings import Settings
from memory_pipeline.store import MemoryStore
from memory_pipeline_tests.doubles import around, meddled_index
from memory_pipeline_tests.words import (
    ADA,
    BOB,
    SECONDS,
    change,
    count_of,
    drained,
    drained_well,
    hashes,
    held,
    live,
    one,
    pending,
    remember,
)

LAGS = Lags(7, 0.1, 0.2, 0.3, 0.4)


def states(erasure: Erasure) -> dict[str, str]:
    """Return the state of each place."""
    return {place.name: place.state for place in erasure.places}


def named_after(pipeline: Pipeline, tenant: TenantId = ADA) -> list[object]:
    """Return the collections that are named after a tenant, on every server."""
    return [
        generation
        for server in pipeline.registry.servers()
        for generation in pipeline.index.generations_of(server.id, tenant, seconds=SECONDS)
    ]


def mentions(db: psycopg.Connection, tenant: str) -> dict[str, int]:
    """Count the rows of each table of the pipeline that have the tenant's name anywhere."""
    tables = [
        name
        for (name,) in db.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'memory_pipeline'"
        )
    ]
    found = {
        table: one(
            db,
            f"SELECT count(*) FROM memory_pipeline.{table} AS t"
            f" WHERE to_jsonb(t)::text ~ ('\\m' || %s || '\\M')",
            tenant,
        )
        for table in tables
    }
    return {table: count for table, count in found.items() if count}


def filled(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """Leave a trace of ada in every table, and a tenant beside her."""
    for tenant in ("ada", "bob"):
        for n in range(3):
            remember(db, tenant, f"memory {n} of {tenant}")
    drained_well(pipeline)
    assert [r.verdict for r in pipeline.rebuild().run(RebuildId("r"), [ADA])] == ["done"]
    pipeline.status.record_verification(Verified(ADA, documents=3))
    pipeline.workers.record_freshness({ADA: LAGS, BOB: LAGS, None: LAGS})
    db.execute(
        "INSERT INTO memory_pipeline.failure (tenant, memory_id, attempts, first_error, last_error,"
        " buried_at) VALUES ('ada', 1, 5, 'no', 'no', now())"
    )
    change(db, 1, "pending")


# ---- what is erased


def test_every_place_is_emptied_and_looked_at_afterwards(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """The proof: each table, each server; the other tenant stays as it is."""
    filled(pipeline, db)
    others = hashes(pipeline, BOB)
    assert {
        "change",
        "failure",
        "freshness",
        "generation",
        "rebuild",
        "tenant",
        "verification",
    } <= (mentions(db, "ada").keys())
    assert named_after(pipeline)
    erasure = pipeline.forget().run(ADA, delete_memories=True)
    assert erasure.proven, erasure
    assert {s for n, s in states(erasure).items() if "files" not in n} == {"gone", "kept"}
    assert mentions(db, "ada") == {}
    assert one(db, "SELECT count(*) FROM memory_logs WHERE user_id = 'ada'") == 0
    assert named_after(pipeline) == []
    assert count_of(db, "provenance") == 3
    assert hashes(pipeline, BOB) == others
    assert [v.findings for v in [pipeline.verify().run(BOB)]] == [()]


def test_the_proof_counts_every_table_that_names_a_tenant(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """A new table with a tenant in it has to be erased and looked at, too."""
    filled(pipeline, db)
    db.execute("INSERT INTO memory_pipeline.erasure (tenant) VALUES ('ada')")
    db.execute(
        "INSERT INTO memory_pipeline.external_id"
        " (tenant, external_id_hash, memory_id, content_hash) VALUES ('ada', 'id', 1, 'content')"
    )
    naming = {
        table
        for (table,) in db.execute(
            "SELECT table_name FROM information_schema.columns"
            " WHERE table_schema = 'memory_pipeline' AND column_name = 'tenant'"
        )
    }
    assert naming == mentions(db, "ada").keys()
    traces = pipeline.erasures.traces(ADA)
    assert all(
        getattr(traces, name)
        for name in (
            "memories",
            "changes",
            "failures",
            "generations",
            "rebuilds",
            "verifications",
            "freshness",
            "registrations",
            "external_ids",
            "erasures",
        )
    )


def test_memories_are_deleted_only_where_that_was_asked_for(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """A refusal changes nothing; memories that are gone already need no such word."""
    remember(db)
    drained_well(pipeline)
    with pytest.raises(MemoriesRemain, match="1 memories"):
        pipeline.forget().run(ADA, delete_memories=False)
    assert pipeline.erasures.pending() == []
    assert held(pipeline) == {1}
    db.execute("DELETE FROM memory_logs")
    assert pipeline.forget().run(ADA, delete_memories=False).proven
    assert mentions(db, "ada") == {}


def test_a_tenant_that_nobody_knows_is_forgotten_too(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """It proves that nothing is there; nothing of the question stays."""
    drained(pipeline)
    erasure = pipeline.forget().run(TenantId("nobody"), delete_memories=False)
    assert not [p for p in erasure.places if p.state == "left"]
    assert mentions(db, "nobody") == {}


def test_a_table_that_keeps_its_rows_says_what_refers_to_them(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """One sentence without the content; the erasure waits, visibly, and is continued by a call."""
    remember(db)
    drained_well(pipeline)
    db.execute(
        "CREATE TABLE note (memory_id bigint REFERENCES memory_logs); INSERT INTO note VALUES (1)"
    )
    with pytest.raises(ContractError, match="rows of note refer to them"):
        pipeline.forget().run(ADA, delete_memories=True)
    assert pipeline.forget().resume(idle_seconds=0) == 0
    [waits] = pipeline.erasures.pending()
    assert "1 memories are left" in waits.waits_for
    assert held(pipeline) == {1}
    db.execute("DROP TABLE note")
    assert pipeline.forget().run(ADA, delete_memories=True).proven


# ---- what happens meanwhile


def test_a_memory_that_is_written_meanwhile_is_a_new_tenants(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P1: it is not deleted, and synced as usual, into a new collection; the proof says so."""
    filled(pipeline, db)
    before, token = live(pipeline), one(db, TOKEN)
    erasures = around(
        pipeline.erasures, fence=lambda call, lease: (remember(db, "ada", "new"), call(lease))
    )
    erasure = replace(pipeline.forget(), erasures=erasures).run(ADA, delete_memories=True)
    assert not erasure.proven
    assert states(erasure)["memory_logs"] == "left"
    assert pending(db, "ada") == 1
    assert pipeline.erasures.pending() == []
    drained_well(pipeline)
    assert held(pipeline) == {7}
    assert live(pipeline).id != before.id
    assert named_after(pipeline) == [live(pipeline).id]
    assert one(db, TOKEN) > token
    assert pipeline.verify().run(ADA).findings == ()


def test_a_transaction_that_commits_after_the_fence_brings_its_own_change(
    pipeline: Pipeline, db: psycopg.Connection, database_url: str
) -> None:
    """Its memory was invisible to the fence: nothing may be deleted that it has written."""
    filled(pipeline, db)
    with psycopg.connect(database_url) as slow:
        slow.execute("INSERT INTO memory_logs (user_id, raw_data) VALUES ('ada', '{}')")
        assert pipeline.forget().run(ADA, delete_memories=True).proven
    assert pending(db, "ada") == 1
    drained_well(pipeline)
    assert len(held(pipeline)) == 1


TOKEN = "SELECT lease_token FROM memory_pipeline.tenant WHERE tenant = 'ada'"


def test_a_lease_of_the_old_registration_is_void_though_the_tenant_is_back(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """With tokens from 1 again, an old holder would be taken for the new one."""
    remember(db)
    drained_well(pipeline)
    change(db, 1, "claimed by one who freezes")
    old = pipeline.outbox.acquire_lease(ADA)
    assert old is not None
    claim = pipeline.outbox.claim(old)
    db.execute("UPDATE memory_pipeline.tenant SET lease_until = now() - interval '1 second'")
    pipeline.forget().run(ADA, delete_memories=True)
    new_id = remember(db)
    pipeline.registry.register(ADA)
    for _ in range(3):
        new = pipeline.outbox.acquire_lease(ADA)
        assert new is not None
        assert new.token > old.token
        with pytest.raises(Fenced):
            old.renew()
        with pytest.raises(Fenced):
            pipeline.outbox.claim(old)
        with pytest.raises(Fenced):
            pipeline.outbox.ack(old, claim, landed={}, failures=(), missed=(), recheck=())
        pipeline.outbox.release_lease(old)
        assert pipeline.outbox.acquire_lease(ADA) is None
        pipeline.outbox.release_lease(new)
    drained_well(pipeline)
    assert held(pipeline) == {new_id}


def test_a_batch_in_flight_is_fenced_and_writes_nothing_back(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """It was forgotten while the batch wrote: the batch acks nothing, and a turn later neither."""
    filled(pipeline, db)

    def forget(*_: object) -> None:
        db.execute("UPDATE memory_pipeline.tenant SET lease_until = now() WHERE tenant = 'ada'")
        assert pipeline.forget().run(ADA, delete_memories=True).proven

    sync = replace(pipeline.sync(), index=meddled_index(pipeline.index, before=forget))
    assert sync.run(ADA).verdict in {"fenced", "postponed"}
    assert sync.run(ADA).verdict == "busy"
    assert mentions(db, "ada") == {}
    assert named_after(pipeline) == []


def test_a_rebuild_in_flight_ends_and_leaves_nothing(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """Its part is gone and its generation erased: its owner finds neither."""
    filled(pipeline, db)
    forgotten: list[Erasure] = []

    def forget(*_: object) -> None:
        db.execute("UPDATE memory_pipeline.tenant SET lease_until = now() WHERE tenant = 'ada'")
        forgotten.append(pipeline.forget().run(ADA, delete_memories=True))

    all_ = pipeline.rebuild()
    pipeline.rebuilds.request(RebuildId("during"), [ADA], re_embed=False)
    index = meddled_index(pipeline.index, before=lambda *_: None if forgotten else forget())
    sync = replace(all_.rebuild.sync, index=index)
    chunk_writer = replace(all_.rebuild.chunk_writer, index=index)
    rebuild = replace(all_.rebuild, sync=sync, chunk_writer=chunk_writer)
    assert rebuild.run(RebuildId("during"), ADA).verdict == "busy"
    assert [e.proven for e in forgotten] == [True]
    assert mentions(db, "ada") == {}
    assert named_after(pipeline) == []


def test_a_rebuild_that_begins_a_collection_too_late_begins_none(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """A generation is recorded for a registered tenant only: no collection is ever unknown."""
    filled(pipeline, db)
    pipeline.forget().run(ADA, delete_memories=True)
    [server] = pipeline.registry.servers()
    with pytest.raises(Fenced, match="forgotten"):
        pipeline.registry.begin_generation(ADA, server.id, model="m", config_hash="c", memories=0)
    assert mentions(db, "ada") == {}


@pytest.mark.parametrize(
    "late",
    [
        lambda p: p.workers.record_freshness({ADA: LAGS, None: LAGS}),
        lambda p: p.status.record_verification(Verified(ADA)),
        lambda p: p.outbox.enqueue(ADA, [MemoryId(1)]),
        lambda p: list(p.replay.run(tenant=ADA, ids=[MemoryId(1)])),
        lambda p: p.rebuilds.request(RebuildId("late"), [ADA], re_embed=False),
        lambda p: p.registry.register_pending(ADA),
        lambda p: p.sync().run(ADA),
        lambda p: p.repair().run(ADA),
        lambda p: list(p.rebuild().run(RebuildId("late"), [ADA])),
    ],
    ids=[
        "freshness",
        "verify",
        "enqueue",
        "replay",
        "request",
        "register",
        "sync",
        "repair",
        "all",
    ],
)
def test_what_a_process_remembers_does_not_bring_a_tenant_back(
    pipeline: Pipeline, db: psycopg.Connection, late: Callable[[Pipeline], Any]
) -> None:
    """A worker, a verify or a rebuild that had the tenant in hand stores nothing of it."""
    filled(pipeline, db)
    pipeline.forget().run(ADA, delete_memories=True)
    late(pipeline)
    drained(pipeline)
    assert mentions(db, "ada") == {}
    assert named_after(pipeline) == []


def test_a_collection_that_was_created_too_late_is_found_by_its_name(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """Beyond the grace, or by a state of Postgres that is forgotten: the next call drops it."""
    filled(pipeline, db)
    stray = replace(live(pipeline), id=uuid4(), collection_id=None)
    pipeline.index.create(stray, memories=0, renew=lambda: SECONDS)
    late = replace(stray, id=uuid4())
    index = around(pipeline.index, generations_of=_creating(pipeline, late))
    erasure = replace(pipeline.forget(), index=index).run(ADA, delete_memories=True)
    assert [p.found for p in erasure.places if p.state == "left"] == [1]
    assert named_after(pipeline) == [late.id]
    assert pipeline.forget().run(ADA, delete_memories=False).proven
    assert named_after(pipeline) == []


def _creating(pipeline: Pipeline, late: Any) -> Callable[..., Any]:
    made: list[object] = []

    def generations_of(call: Any, *which: Any, **how: Any) -> Any:
        found = call(*which, **how)
        if not made:
            made.append(pipeline.index.create(late, memories=0, renew=lambda: SECONDS))
        return found

    return generations_of


def test_a_request_that_creates_a_collection_is_waited_for(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """The collection of a generation in state new may be created until the grace ends."""
    filled(pipeline, db)
    begun = pipeline.registry.begin_generation(
        ADA, live(pipeline).server, model="m", config_hash="c", memories=0
    )
    slept: list[float] = []

    class Clock:
        def monotonic(self) -> float:
            return 0.0

        def sleep(self, seconds: float) -> None:
            slept.append(seconds)
            pipeline.index.create(begun, memories=0, renew=lambda: SECONDS)
            db.execute("UPDATE memory_pipeline.erasure SET settles_at = now()")

    forget: Forget = replace(pipeline.forget(), clock=Clock())
    assert forget.run(ADA, delete_memories=True).proven
    assert [1.0 < s <= 3.1 for s in slept] == [True]
    assert named_after(pipeline) == []


def test_a_search_that_runs_meanwhile_finds_nothing_and_no_damage(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """It has resolved the collection before: that it is gone since is no damage."""
    filled(pipeline, db)

    def query(call: Any, *which: Any, **how: Any) -> Any:
        pipeline.forget().run(ADA, delete_memories=True)
        return call(*which, **how)

    search = pipeline.search
    search._index = around(pipeline.index, query=query)
    assert search.search(ADA, "memory 1 of ada") == []


# ---- rows that cannot be seen


@contextmanager
def hidden(db: psycopg.Connection, settings: Settings) -> Iterator[Pipeline]:
    """Open the pipeline as a role from which row level security hides every memory."""
    name = f"role_{uuid4().hex[:12]}"
    role = sql.Identifier(name)
    for statement in (
        "CREATE ROLE {} LOGIN",
        "GRANT USAGE ON SCHEMA memory_pipeline TO {}",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA memory_pipeline TO {}",
        "GRANT SELECT, DELETE, UPDATE (embedding) ON memory_logs TO {}",
    ):
        db.execute(sql.SQL(statement).format(role))
    db.execute("ALTER TABLE memory_logs ENABLE ROW LEVEL SECURITY")
    assert settings.database_url is not None
    url = psycopg.conninfo.make_conninfo(
        settings.database_url.get_secret_value(), options=f"-c role={name}"
    )
    try:
        with opened(settings.model_copy(update={"database_url": _secret(url)})) as pipeline:
            yield pipeline
    finally:
        db.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(role))


def _secret(url: str) -> Any:
    from pydantic import SecretStr

    return SecretStr(url)


def test_rows_that_one_may_not_see_are_not_gone(
    pipeline: Pipeline, db: psycopg.Connection, settings: Settings
) -> None:
    """Neither a forgetting nor the cleanup of empty tenants decides by what is hidden."""
    remember(db)
    drained_well(pipeline)
    with hidden(db, settings) as blind:
        with pytest.raises(ContractError):
            blind.erasures.empty_tenants(seconds=0, limit=10)
        with pytest.raises(ContractError):
            blind.erasures.traces(ADA)
        lease = blind.outbox.acquire_lease(ADA)
        assert lease is not None
        with pytest.raises(ContractError):
            blind.erasures.retire_empty(lease)
        with pytest.raises(ContractError):
            blind.erasures.fence(lease)
        blind.outbox.release_lease(lease)
    db.execute("ALTER TABLE memory_logs DISABLE ROW LEVEL SECURITY")
    assert held(pipeline) == {1}


# ---- by the store


def test_the_store_forgets_a_tenant(
    pipeline: Pipeline, db: psycopg.Connection, settings: Settings
) -> None:
    """One method, with the proof as its value."""
    filled(pipeline, db)
    with MemoryStore(settings) as store:
        with pytest.raises(MemoriesRemain):
            store.forget_tenant("ada")
        erasure = store.forget_tenant("ada", delete_memories=True)
    assert erasure.proven
    assert mentions(db, "ada") == {}


@pytest.mark.parametrize(
    ("column", "stored", "spelled"),
    [
        pytest.param(
            "uuid",
            "6f9619ff-8b86-d011-b42d-00c04fc964ff",
            "6F9619FF-8B86-D011-B42D-00C04FC964FF",
            id="a uuid in capitals",
        ),
        pytest.param("bigint", "7", "007", id="a number with zeros"),
    ],
)
def test_another_spelling_of_a_tenant_is_no_proof_of_another(
    pipeline: Pipeline, db: psycopg.Connection, column: str, stored: str, spelled: str
) -> None:
    """What broke: nothing was found under the other spelling, and the erasure was called proven."""
    db.execute(f"ALTER TABLE memory_logs ALTER COLUMN user_id TYPE {column} USING NULL".encode())
    pipeline.database.reconnect()
    remember(db, stored)
    drained_well(pipeline)
    with MemoryStore(pipeline.settings) as store:
        with pytest.raises(MemoriesRemain):
            store.forget_tenant(spelled)
        erasure = store.forget_tenant(spelled, delete_memories=True)

    assert (erasure.tenant, erasure.proven) == (stored, True)
    assert one(db, "SELECT count(*) FROM memory_logs") == 0
    assert named_after(pipeline, TenantId(stored)) == []


def test_what_others_delete_meanwhile_is_not_left_of_the_tenant(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """What broke: on a busy database no proof succeeded, whatever was repeated."""
    remember(db, ADA)
    theirs = remember(db, BOB)
    drained_well(pipeline)
    db.execute("DELETE FROM memory_logs WHERE user_id = 'ada'")
    forget = pipeline.forget()
    erasure = forget.run(ADA, delete_memories=True)
    assert erasure.proven
    db.execute("DELETE FROM memory_logs WHERE id = %s", [theirs])  # its change waits

    assert forget.prove(ADA).proven
