"""Races of leases, claims and acks, in Postgres alone."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

import psycopg
import pytest

from memory_pipeline.domain.changes import Change, Claim
from memory_pipeline.domain.outcomes import Failure
from memory_pipeline.domain.types import (
    MemoryId,
    ProvenanceUpdate,
)
from memory_pipeline.errors import Fenced
from memory_pipeline.postgres.database import Database
from memory_pipeline.postgres.lease import PostgresLease
from memory_pipeline.postgres.outbox import PostgresOutbox
from memory_pipeline.postgres.rebuilds import PostgresRebuilds
from memory_pipeline.postgres.registry import PostgresRegistry
from memory_pipeline.postgres.status import PostgresStatus
from memory_pipeline_tests.integration.races.words import (
    GRACE_SECONDS,
    PROVENANCE,
    REQUEST_SECONDS,
    acked,
    begun,
    confirms,
    expire,
    owned,
    state,
    taken,
    waiting,
)
from memory_pipeline_tests.words import ADA, one, remember


def test_of_many_workers_one_gets_the_lease(outbox: PostgresOutbox) -> None:
    """One writer a tenant, however many ask at the same moment."""
    together = Barrier(8)

    def take(_: int) -> PostgresLease | None:
        together.wait()
        return outbox.acquire_lease(ADA)

    with ThreadPoolExecutor(8) as threads:
        leases = list(threads.map(take, range(8)))

    assert len([lease for lease in leases if lease]) == 1


def test_an_expired_lease_is_taken_over_once(
    db: psycopg.Connection, outbox: PostgresOutbox
) -> None:
    """Of many workers that find a dead one's lease, one takes over."""
    first = taken(outbox)
    expire(db)

    with ThreadPoolExecutor(8) as threads:
        leases = [
            lease for lease in threads.map(lambda _: outbox.acquire_lease(ADA), range(8)) if lease
        ]

    assert [lease.token for lease in leases] == [first.token + 1]


def test_the_token_only_grows(db: psycopg.Connection, outbox: PostgresOutbox) -> None:
    """No token is ever used twice, whichever way a lease ended."""
    tokens = []
    for end in (
        outbox.release_lease,
        lambda lease: outbox.release_lease(lease, error="outage"),
        lambda _: expire(db),
        lambda _: None,
    ):
        lease = taken(outbox)
        tokens.append(lease.token)
        end(lease)

    assert [token - tokens[0] for token in tokens] == [0, 1, 2, 3]


def test_a_lease_that_is_held_outlives_its_first_term(
    db: psycopg.Connection, outbox: PostgresOutbox
) -> None:
    """Renewing extends the lease under the same token, and nobody else gets it."""
    lease = taken(outbox)
    db.execute("UPDATE memory_pipeline.tenant SET lease_until = clock_timestamp() + interval '1 s'")

    assert 0 < lease.renew() <= REQUEST_SECONDS

    left = one(
        db, "SELECT extract(epoch FROM lease_until - clock_timestamp()) FROM memory_pipeline.tenant"
    )
    assert left > 7
    assert outbox.acquire_lease(ADA) is None


@pytest.fixture(params=["expired", "taken over", "released"])
def dead(
    request: pytest.FixtureRequest, db: psycopg.Connection, outbox: PostgresOutbox
) -> tuple[PostgresLease, Claim]:
    """Return a lease that ended after a claim, and what was claimed under it."""
    memory_id = remember(db)
    lease = taken(outbox)
    claim = outbox.claim(lease)
    assert claim.memory_ids == (memory_id,)
    if request.param == "released":
        outbox.release_lease(lease)
    else:
        expire(db)
    if request.param == "taken over":
        outbox.claim(taken(outbox))
    return lease, claim


@pytest.mark.parametrize("act", ["hold", "claim", "ack", "flip first", "abandon", "register"])
def test_under_a_dead_token_nothing_changes(
    db: psycopg.Connection,
    registry: PostgresRegistry,
    rebuilds: PostgresRebuilds,
    outbox: PostgresOutbox,
    *,
    dead: tuple[PostgresLease, Claim],
    act: str,
) -> None:
    """P1: renewal, claim, ack and every change of the pointers name the token, and are refused."""
    lease, claim = dead
    generation, build = begun(registry), owned(rebuilds)
    failure = Failure(MemoryId(1), "poison")
    acts: dict[str, Callable[[], object]] = {
        "hold": lease.renew,
        "claim": lambda: outbox.claim(lease),
        "ack": lambda: outbox.ack(
            lease,
            claim,
            landed={MemoryId(1): ProvenanceUpdate(PROVENANCE)},
            failures=[failure],
            missed=[],
            recheck=[MemoryId(1)],
        ),
        "flip first": lambda: registry.flip_first(lease, generation),
        "abandon": lambda: registry.abandon(lease, generation.id),
        "register": lambda: rebuilds.register_building(build, lease, generation),
    }
    before = state(db)

    with pytest.raises(Fenced):
        acts[act]()

    assert state(db) == before


@pytest.mark.parametrize("act", ["chunk done", "flip", "abandon"])
def test_under_a_dead_token_no_rebuild_gets_on(
    db: psycopg.Connection,
    registry: PostgresRegistry,
    rebuilds: PostgresRebuilds,
    dead: tuple[PostgresLease, Claim],
    act: str,
) -> None:
    """What is built is recorded, flipped to and given up under the token alone."""
    lease, _ = dead
    generation, build = begun(registry), owned(rebuilds)
    db.execute("UPDATE memory_pipeline.tenant SET building = %s", (generation.id,))
    acts: dict[str, Callable[[], object]] = {
        "chunk done": lambda: rebuilds.record_chunk(
            build,
            lease,
            generation,
            through=MemoryId(1),
            provenance={MemoryId(1): ProvenanceUpdate(PROVENANCE)},
            recheck=[MemoryId(1)],
            landed=[MemoryId(1)],
            embedded=1,
        ),
        "flip": lambda: rebuilds.flip(build, lease, generation, memories=1),
        "abandon": lambda: registry.abandon(lease, generation.id),
    }
    before = state(db)

    with pytest.raises(Fenced):
        acts[act]()

    assert state(db) == before
    assert not rebuilds.may_fill(build, lease, generation)


@pytest.mark.parametrize("dead", ["taken over"], indirect=True)
@pytest.mark.parametrize("error", [None, "outage"])
def test_a_dead_worker_cannot_give_back_what_another_holds(
    db: psycopg.Connection,
    outbox: PostgresOutbox,
    dead: tuple[PostgresLease, Claim],
    error: str | None,
) -> None:
    """P1: release and let go are harmless under a dead token."""
    lease, claim = dead
    before = state(db)

    outbox.unclaim(lease, claim)
    outbox.release_lease(lease, error=error)

    assert state(db) == before


def test_a_takeover_schedules_a_confirm_after_every_late_write(
    db: psycopg.Connection, outbox: PostgresOutbox
) -> None:
    """P1: a dead worker's request may still land, until request timeout and grace are over."""
    memory_id = remember(db)
    outbox.claim(taken(outbox))
    expire(db)
    lease = taken(outbox)
    began = one(db, "SELECT clock_timestamp()")

    assert outbox.claim(lease).memory_ids == (memory_id,)

    not_before, token = confirms(db)[memory_id]
    assert (not_before - began).total_seconds() >= REQUEST_SECONDS + GRACE_SECONDS
    assert token is None


def test_a_claim_of_what_ones_own_token_had_schedules_a_confirm_as_well(
    db: psycopg.Connection, outbox: PostgresOutbox
) -> None:
    """P1: after a timeout one's own first request may land later than the second."""
    memory_id = remember(db)
    lease = taken(outbox)
    outbox.claim(lease)

    outbox.claim(lease)

    assert list(confirms(db)) == [memory_id]


def test_a_first_claim_schedules_no_confirm(db: psycopg.Connection, outbox: PostgresOutbox) -> None:
    """P2: what nobody had before is written once."""
    remember(db)
    lease = taken(outbox)

    acked(outbox, lease, outbox.claim(lease))

    assert waiting(db) == []


def test_what_was_let_go_unsent_needs_no_confirm(
    db: psycopg.Connection, outbox: PostgresOutbox
) -> None:
    """P2: where nothing was sent, nothing can land late."""
    memory_id = remember(db)
    lease = taken(outbox)
    outbox.unclaim(lease, outbox.claim(lease))

    assert outbox.claim(lease).memory_ids == (memory_id,)

    assert confirms(db) == {}


def test_another_takeover_moves_the_confirm_out(
    db: psycopg.Connection, outbox: PostgresOutbox
) -> None:
    """P1: each worker that died leaves a request of its own on its way."""
    memory_id = remember(db)
    outbox.claim(taken(outbox))
    expire(db)
    outbox.claim(taken(outbox))
    first, _ = confirms(db)[memory_id]
    expire(db)

    outbox.claim(taken(outbox))

    second, _ = confirms(db)[memory_id]
    assert second > first
    assert len(waiting(db)) == 2


def test_a_confirm_that_dies_itself_is_scheduled_again(
    db: psycopg.Connection, outbox: PostgresOutbox
) -> None:
    """P1: a confirm is an ordinary change: its worker may be frozen as well."""
    memory_id = remember(db)
    lease = taken(outbox)
    outbox.claim(lease)
    acked(outbox, lease, outbox.claim(lease))
    db.execute("UPDATE memory_pipeline.change SET not_before = clock_timestamp() WHERE confirm")
    assert outbox.claim(lease).memory_ids == (memory_id,)
    expire(db)
    lease = taken(outbox)
    began = one(db, "SELECT clock_timestamp()")

    claim = outbox.claim(lease)
    acked(outbox, lease, claim)

    not_before, token = confirms(db)[memory_id]
    assert (not_before - began).total_seconds() >= REQUEST_SECONDS + GRACE_SECONDS
    assert token is None
    assert outbox.claim(lease).changes == ()


def test_a_confirm_is_not_claimed_before_its_time(
    db: psycopg.Connection, outbox: PostgresOutbox
) -> None:
    """P1: looking before the late request has landed proves nothing."""
    memory_id = remember(db)
    lease = taken(outbox)
    outbox.claim(lease)
    acked(outbox, lease, outbox.claim(lease))
    outbox.release_lease(lease)

    assert outbox.pending_tenants() == []
    assert outbox.claim(taken(outbox)).changes == ()

    db.execute("UPDATE memory_pipeline.change SET not_before = clock_timestamp()")
    assert [p.tenant for p in outbox.pending_tenants()] == [ADA]
    expire(db)
    assert outbox.claim(taken(outbox)).memory_ids == (memory_id,)


def test_a_confirm_counts_as_pending(
    db: psycopg.Connection, database: Database, outbox: PostgresOutbox
) -> None:
    """P1: a tenant whose last write is not confirmed is never shown as done."""
    remember(db)
    lease = taken(outbox)
    outbox.claim(lease)
    acked(outbox, lease, outbox.claim(lease))

    status = PostgresStatus(database)
    assert outbox.pending(ADA) == 1
    assert status.totals().pending_changes == 1
    assert [t.pending_changes for t in status.tenants()] == [1]


def test_an_ack_forgets_only_what_its_own_token_claimed(
    db: psycopg.Connection, outbox: PostgresOutbox
) -> None:
    """P1: a change that nobody claimed survives even an ack that names it."""
    memory_id = remember(db)
    lease = taken(outbox)
    claim = outbox.claim(lease)
    db.execute("UPDATE memory_logs SET raw_data = '{}'")
    newer = one(db, "SELECT max(seq) FROM memory_pipeline.change")

    acked(outbox, lease, Claim((*claim.changes, Change(newer, MemoryId(memory_id))), ()))

    assert [s for (s,) in db.execute("SELECT seq FROM memory_pipeline.change")] == [newer]


def test_a_change_that_arrives_between_claim_and_ack_stays(
    db: psycopg.Connection, outbox: PostgresOutbox
) -> None:
    """P1: the ack is by change, not by memory."""
    memory_id = remember(db)
    lease = taken(outbox)
    claim = outbox.claim(lease)
    db.execute("UPDATE memory_logs SET raw_data = '{}'")

    acked(outbox, lease, claim)

    assert waiting(db) == [memory_id]
    assert outbox.claim(lease).memory_ids == (memory_id,)


def test_a_change_that_is_not_committed_yet_is_neither_acked_nor_lost(
    db: psycopg.Connection, database_url: str, outbox: PostgresOutbox
) -> None:
    """T1, P1: a lower number may commit after a higher one was acked."""
    with psycopg.connect(database_url) as slow:
        early = remember(slow)
        late = remember(db)
        lease = taken(outbox)
        claim = outbox.claim(lease)
        assert claim.memory_ids == (late,)
        acked(outbox, lease, claim)
        assert outbox.claim(lease).changes == ()
        slow.commit()

    assert outbox.claim(lease).memory_ids == (early,)


def test_an_ack_never_waits_for_the_applications_open_transaction(
    db: psycopg.Connection, database_url: str, outbox: PostgresOutbox
) -> None:
    """P6: and the application, which appends only, never waits for a claim."""
    memory_id = remember(db)
    lease = taken(outbox)
    claim = outbox.claim(lease)
    with psycopg.connect(database_url) as application:
        application.execute("SET lock_timeout = '200ms'")
        application.execute("UPDATE memory_logs SET raw_data = '{}'")
        with ThreadPoolExecutor(1) as threads:
            threads.submit(acked, outbox, lease, claim).result(timeout=5)
        application.execute("UPDATE memory_logs SET raw_data = '[]'")

    assert waiting(db) == [memory_id, memory_id]


def test_a_worker_that_is_frozen_amid_a_truncate_holds_up_nobody(
    db: psycopg.Connection, database_url: str, outbox: PostgresOutbox
) -> None:
    """It has the TRUNCATE in hand; what else waits is told to the others, and it once that ends."""
    remember(db)
    db.execute("INSERT INTO memory_pipeline.truncation DEFAULT VALUES")
    with psycopg.connect(database_url) as frozen, ThreadPoolExecutor(1) as threads:
        frozen.execute("DELETE FROM memory_pipeline.truncation")
        told = threads.submit(outbox.pending_tenants).result(timeout=5)
        assert [t.tenant for t in told] == [ADA]
        assert None not in waiting(db)
        frozen.rollback()
    outbox.pending_tenants()
    assert None in waiting(db)


def test_a_batch_never_exceeds_its_limit(
    db: psycopg.Connection, database_url: str, outbox: PostgresOutbox
) -> None:
    """T9: rows that somebody has locked are skipped, not made up for by more."""
    for _ in range(40):
        remember(db)
    db.execute("ANALYZE memory_pipeline.change")
    lease = taken(outbox)
    with psycopg.connect(database_url) as other:
        other.execute("SELECT FROM memory_pipeline.change WHERE seq % 3 = 0 FOR UPDATE")

        claim = outbox.claim(lease)

    assert len(claim.changes) == 7
    assert one(
        db, "SELECT count(*) FROM memory_pipeline.change WHERE claim_token IS NOT NULL"
    ) == len(claim.changes)


def test_a_batch_never_exceeds_its_limit_while_changes_arrive(
    db: psycopg.Connection, database_url: str, outbox: PostgresOutbox
) -> None:
    """T9: claims beside writers and beside each other take 7 at most, and together lose nothing."""
    lease, written = taken(outbox), Event()

    def write() -> None:
        with psycopg.connect(database_url, autocommit=True) as application:
            for _ in range(200):
                remember(application)
        written.set()

    def claim_and_ack(_: int) -> list[int]:
        sizes: list[int] = []
        while not written.is_set() or outbox.pending(ADA):
            claim = outbox.claim(lease)
            sizes.append(len(claim.changes))
            acked(outbox, lease, claim)
            db.execute("DELETE FROM memory_pipeline.change WHERE confirm")
        return sizes

    with ThreadPoolExecutor(3) as threads:
        writing = threads.submit(write)
        sizes = [size for each in threads.map(claim_and_ack, range(2)) for size in each]
        writing.result()

    assert max(sizes) <= 7
    assert sum(sizes) >= 200
    assert one(db, "SELECT count(*) FROM memory_pipeline.provenance") == 200
