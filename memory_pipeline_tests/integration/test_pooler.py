"""Behind a pooler in transaction mode: a session is anybody's, so nothing is left on it."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from memory_pipeline.domain.types import TenantId
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.postgres.listener import Listener
from memory_pipeline.postgres.migrate import migrate
from memory_pipeline.settings import Settings
from memory_pipeline_tests.pgbouncer import PgBouncer, pgbouncer, through_pooler
from memory_pipeline_tests.words import ADA, change, drained, one, remember


@pytest.fixture
def one_session(database_url: str) -> Iterator[PgBouncer]:
    """Put a pooler with two sessions in front: whatever is left behind, the next client meets it.

    A migrate needs two: one waits for its turn while the other works.
    """
    with pgbouncer(database_url, pool_size=2, server_idle_timeout=600) as bouncer:
        yield bouncer


@pytest.fixture
def pooled(settings: Settings, one_session: PgBouncer, unmarked_chroma: None) -> Iterator[Pipeline]:
    """Return the parts, connected through the pooler."""
    with opened(through_pooler(settings, one_session), embedder=HashingEmbedder()) as parts:
        yield parts


def work(parts: Pipeline, db: psycopg.Connection) -> None:
    """Sync, search, verify, rebuild and report."""
    for number in range(20):
        remember(db, f"user-{number % 3}", f"memory {number}")
    drained(parts)
    assert parts.search.search(TenantId("user-0"), "memory 3", k=2)
    parts.verify().run(TenantId("user-1"))
    parts.rebuild_alone(TenantId("user-2"))
    parts.status.totals()
    parts.workers.heartbeat()


def test_an_application_on_the_same_pool_finds_its_sessions_as_they_were(
    pooled: Pipeline, one_session: PgBouncer, database_url: str, db: psycopg.Connection
) -> None:
    """P6. What broke: an application's query was cancelled after our 60 s.

    Its idle transaction was killed after our 10 s, and a statement that another client had prepared
    ran in place of ours.
    """
    migrate(pooled.settings)
    work(pooled, db)

    assert one_session.left_behind(database_url) == set()


def test_what_is_left_behind_would_be_found(one_session: PgBouncer, database_url: str) -> None:
    """The test above can fail: a client that sets something leaves it to the next one."""
    with psycopg.connect(one_session.through(database_url), autocommit=True) as careless:
        careless.execute("SET statement_timeout = '7s'")
        careless.execute("SELECT 1", prepare=True)

    left = one_session.left_behind(database_url)

    assert "setting statement_timeout = 7000" in left
    assert any(found.startswith("prepared statement") for found in left)


def test_the_limits_of_a_transaction_hold_in_it(pooled: Pipeline) -> None:
    """They are not lost with the session settings: a statement still ends after a minute."""
    shown = "SELECT current_setting('statement_timeout') || current_setting('row_security')"
    with pooled.database.statement() as connection:
        assert one(connection, shown) == "1minoff"
    with pooled.database.transaction() as connection:
        assert one(connection, shown) == "1minoff"
        assert one(connection, "SHOW idle_in_transaction_session_timeout") == "10s"


def test_many_threads_share_few_sessions(pooled: Pipeline, db: psycopg.Connection) -> None:
    """What broke: after its fifth use a statement is prepared, in a session of another's next."""
    ids = [remember(db, f"user-{n}", f"memory {n}") for n in range(8)]
    barrier = threading.Barrier(8)

    def repeat(number: int) -> None:
        barrier.wait()
        for turn in range(12):
            change(db, ids[number], f"memory {number}, version {turn}")
            tenant = TenantId(f"user-{number}")
            pooled.registry.register(tenant)
            pooled.memories.versions([])
            assert len(pooled.memories.get(tenant, ids)) == 1  # type: ignore[arg-type]
            pooled.sync().run(tenant, once=True)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(repeat, range(8)))
    drained(pooled)

    for number in range(8):
        hits = pooled.search.search(TenantId(f"user-{number}"), "version 11", k=3)
        assert [hit.memory for hit in hits] == [{"summary": f"memory {number}, version 11"}]


def test_a_listener_behind_a_pooler_does_not_listen(
    one_session: PgBouncer, database_url: str, wait_until: Callable[..., None]
) -> None:
    """A LISTEN would stay on a session that is anybody's; polling finds the changes."""
    woken = threading.Event()
    listener = Listener(one_session.through(database_url), woken.set)
    listener.start()
    try:
        wait_until(lambda: not listener.alive, within=10)
        assert one_session.left_behind(database_url) == set()
        assert not woken.is_set()
    finally:
        listener.stop()


def test_a_listener_has_an_address_of_its_own(
    settings: Settings,
    one_session: PgBouncer,
    database_url: str,
    db: psycopg.Connection,
    wait_until: Callable[..., None],
) -> None:
    """MEMORY_PIPELINE_LISTEN_URL names the server itself: hints come as without a pooler."""
    pooled = through_pooler(settings, one_session)
    both = pooled.model_copy(update={"listen_url": settings.database_url})
    woken = threading.Event()
    with opened(both, embedder=HashingEmbedder()) as parts:
        listener = parts.listener(woken.set)
        listener.start()
        try:
            wait_until(woken.is_set)
            woken.clear()
            remember(db, ADA)
            wait_until(woken.is_set)
        finally:
            listener.stop()
