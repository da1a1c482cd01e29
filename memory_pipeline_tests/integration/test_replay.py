"""Replaying memories from Postgres: which, in pages, without an explosion, under load."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg

from memory_pipeline.domain.outcomes import Replayed
from memory_pipeline.domain.types import MemoryId
from memory_pipeline.pipeline import Pipeline
from memory_pipeline_tests.fakes import no_lease
from memory_pipeline_tests.words import ADA, drained, hashes, remember


def waiting(db: psycopg.Connection) -> list[tuple[str, int]]:
    """Return what is to be looked at again."""
    return [
        (tenant, memory_id)
        for tenant, memory_id in db.execute(
            "SELECT tenant, memory_id FROM memory_pipeline.change WHERE recheck ORDER BY seq"
        )
    ]


def test_a_tenant_is_enqueued_in_pages(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """Every memory of it once, in order, and nobody else's."""
    mine = [remember(db, "ada") for _ in range(7)]
    remember(db, "bob")
    drained(pipeline)
    pages = list(pipeline.replay.run(tenant=ADA, page=3))
    assert pages == [Replayed(3, 3), Replayed(3, 3), Replayed(1, 1)]
    assert waiting(db) == [("ada", i) for i in mine]


def test_what_is_to_be_looked_at_already_is_not_enqueued_twice(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """Pressed ten times, it is done once; an application's own change is no reason to skip."""
    memory = remember(db)
    for _ in range(3):
        list(pipeline.replay.run(tenant=ADA))
        list(pipeline.replay.run(tenant=ADA, ids=[MemoryId(memory)]))
        list(pipeline.replay.run(ids=[MemoryId(memory)]))
    assert waiting(db) == [("ada", memory)]


def test_what_is_claimed_already_is_enqueued(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """Its batch may have read the row before whatever made a person ask for a replay."""
    memory = remember(db)
    drained(pipeline)
    list(pipeline.replay.run(tenant=ADA))
    lease = pipeline.outbox.acquire_lease(ADA)
    assert lease is not None
    pipeline.outbox.claim(lease)
    assert list(pipeline.replay.run(tenant=ADA)) == [Replayed(1, 1)]
    assert waiting(db) == [("ada", memory)] * 2


def test_since_takes_what_was_created_or_updated_from_then_on(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """Of every tenant, or of the one that is named."""
    old, updated, new = remember(db), remember(db), remember(db, "bob")
    past = datetime.now(UTC) - timedelta(days=3)
    db.execute(
        "UPDATE memory_logs SET created_at = %s, updated_at = %s WHERE id = ANY(%s)",
        (past, past, [old, updated]),
    )
    db.execute("UPDATE memory_logs SET updated_at = now() WHERE id = %s", (updated,))
    drained(pipeline)
    day_ago = datetime.now(UTC) - timedelta(days=1)
    assert list(pipeline.replay.run(tenant=ADA, since=day_ago)) == [Replayed(1, 1)]
    assert waiting(db) == [("ada", updated)]
    assert list(pipeline.replay.run(since=day_ago)) == [Replayed(2, 1)]
    assert waiting(db) == [("ada", updated), ("bob", new)]


def test_since_reads_a_column_without_a_time_zone_as_utc(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """As the pipeline does everywhere, whatever the database's own zone is."""
    db.execute(
        "ALTER TABLE memory_logs ALTER created_at TYPE timestamp, ALTER updated_at TYPE timestamp"
    )
    name = db.info.dbname
    db.execute(f"ALTER DATABASE \"{name}\" SET timezone = 'Pacific/Auckland'".encode())
    memory = remember(db)
    when = datetime(2026, 1, 31, 12, tzinfo=UTC)
    db.execute(
        "UPDATE memory_logs SET created_at = %s, updated_at = %s WHERE id = %s",
        (when.replace(tzinfo=None), when.replace(tzinfo=None), memory),
    )
    assert list(pipeline.replay.run(since=when)) == [Replayed(1, 1)]
    assert list(pipeline.replay.run(since=when + timedelta(seconds=1))) == []


def test_ids_are_found_with_their_tenants(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """One that does not exist is not found, and nothing is enqueued for it."""
    mine, other = remember(db, "ada"), remember(db, "bob")
    drained(pipeline)
    asked = [MemoryId(i) for i in (mine, other, 10**12)]
    assert list(pipeline.replay.run(ids=asked)) == [Replayed(2, 2)]
    assert waiting(db) == [("ada", mine), ("bob", other)]


def test_a_memory_that_is_gone_can_be_named_with_its_tenant(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """What a lost request has left behind goes."""
    remember(db)
    memory = remember(db)
    drained(pipeline)
    live = pipeline.registry.live(ADA)
    assert live is not None
    db.execute("ALTER TABLE memory_logs DISABLE TRIGGER memory_pipeline_capture")
    db.execute("DELETE FROM memory_logs WHERE id = %s", (memory,))
    assert f"memory_log_{memory}" in hashes(pipeline)
    assert list(pipeline.replay.run(tenant=ADA, ids=[MemoryId(memory)])) == [Replayed(1, 1)]
    drained(pipeline)
    assert f"memory_log_{memory}" not in hashes(pipeline)


def test_a_replay_brings_back_what_is_missing(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """Whatever has happened to the collection, Postgres has it."""
    ids = [MemoryId(remember(db, summary=f"memory {n}")) for n in range(20)]
    drained(pipeline)
    before = hashes(pipeline)
    live = pipeline.registry.live(ADA)
    assert live is not None
    pipeline.index.write(live, [], ids[:10], renew=no_lease)
    list(pipeline.replay.run(tenant=ADA))
    drained(pipeline)
    assert hashes(pipeline) == before
    assert pipeline.outbox.pending(ADA) == 0


def test_a_replay_under_load_loses_nothing_and_holds_up_nobody(
    pipeline: Pipeline,
    db: psycopg.Connection,
    database_url: str,
    wait_until: Callable[..., None],
) -> None:
    """Writers write and a worker syncs while all of it is enqueued again and again."""
    ids = [remember(db, summary=f"memory {n}") for n in range(60)]
    drained(pipeline)
    ended = threading.Event()
    errors: list[psycopg.Error] = []

    def write() -> None:
        try:
            with psycopg.connect(database_url, autocommit=True) as connection:
                for n in range(150):
                    connection.execute(
                        "UPDATE memory_logs SET raw_data = jsonb_build_object('summary', %s::text)"
                        " WHERE id = %s",
                        (f"update {n}", ids[n % len(ids)]),
                    )
        except psycopg.Error as error:
            errors.append(error)
        finally:
            ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not ended.is_set():
        list(pipeline.replay.run(tenant=ADA, page=7))
        drained(pipeline)
    writer.join()
    assert errors == []

    def settled() -> bool:
        drained(pipeline)
        return pipeline.outbox.pending(ADA) == 0

    wait_until(settled)  # a row that the writer held is tried again after a pause
    assert pipeline.verify().run(ADA).findings == ()
