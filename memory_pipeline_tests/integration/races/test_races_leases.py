import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from threading import Barrier, Event
from typing import Any
from uuid import uuid4

import numpy as np
import psycopg
import pytest
from psycopg import IsolationLevel

from memory_pipeline.content.document import vector_hash
from memory_pipeline.domain.changes import Change, Claim
from memory_pipeline.domain.outcomes import Failure
from memory_pipeline.domain.types import (
    Generation,
    MemoryId,
    Provenance,
    ProvenanceUpdate,
    RebuildId,
    RebuildPart,
    TenantId,
    Vector,
    document_id,
)
from memory_pipeline.errors import Fenced, ServerLost
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.postgres.database import Connection, Database, queries
from memory_pipeline.postgres.lease import PostgresLease
from memory_pipeline.postgres.memories import PostgresMemories
from memory_pipeline.postgres.migrate import migrate
from memory_pipeline.postgres.outbox import PostgresOutbox
from memory_pipeline.postgres.rebuilds import PostgresRebuilds
from memory_pipeline.postgres.registry import PostgresRegistry
from memory_pipeline.postgres.status import PostgresStatus
from memory_pipeline.settings import Settings
from memory_pipeline_tests.builders import remember

ADA = TenantId("ada")
REQUEST_SECONDS, GRACE_SECONDS = 3.0, 2.0
OURS = np.full(768, 0.5, dtype=np.float32)
PROVENANCE = Provenance("text", "model", "vector")
TABLES = ("change", "tenant", "generation", "failure", "provenance", "rebuild", "truncation")


# -- Leases, claims and acks: Postgres alone.


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """Connect as the pipeline does, with room for several workers."""
    opened = Database(database_url, size=12)
    yield opened
    opened.close()


@pytest.fixture
def limits(database_url: str) -> Settings:
    """Return settings with batches of 7."""
    return Settings.load(
        database_url=database_url,
        request_seconds=REQUEST_SECONDS,
        grace_seconds=GRACE_SECONDS,
        batch_size=7,
    )


@pytest.fixture
def registry(database: Database) -> PostgresRegistry:
    """Return the registry, where ada is registered."""
    registry = PostgresRegistry(database)
    registry.register(ADA)
    return registry


@pytest.fixture
def outbox(database: Database, limits: Settings, registry: PostgresRegistry) -> PostgresOutbox:
    """Return one worker's outbox."""
    return PostgresOutbox(database, limits)


@pytest.fixture
def memories(database: Database, limits: Settings) -> PostgresMemories:
    """Return the pipeline's view of memory_logs."""
    return PostgresMemories(database, limits)


@pytest.fixture
def rebuilds(database: Database, limits: Settings) -> PostgresRebuilds:
    """Return the parts of rebuilds."""
    return PostgresRebuilds(database, limits)


def one(db: psycopg.Connection, query: str, *values: object) -> Any:
    """Ask for one value."""
    row = db.execute(query, values).fetchone()
    assert row is not None
    return row[0]


def state(db: psycopg.Connection) -> dict[str, list[str]]:
    """Tell everything that the pipeline keeps."""
    return {
        table: sorted(map(repr, db.execute(f"SELECT * FROM memory_pipeline.{table}")))
        for table in TABLES
    }


def pending(db: psycopg.Connection) -> list[int | None]:
    """Tell which memories wait, confirms included."""
    return [m for (m,) in db.execute("SELECT memory_id FROM memory_pipeline.change ORDER BY seq")]


def confirms(db: psycopg.Connection) -> dict[int, tuple[datetime, int | None]]:
    """Tell the confirms that are scheduled: when, and the token that has them."""
    return {
        memory_id: (not_before, token)
        for memory_id, not_before, token in db.execute(
            "SELECT memory_id, not_before, claim_token FROM memory_pipeline.change WHERE confirm"
        )
    }


def expire(db: psycopg.Connection) -> None:
    """Let ada's lease end, as if its holder had been frozen."""
    db.execute(
        "UPDATE memory_pipeline.tenant SET lease_until = clock_timestamp() - interval '1 s'"
        " WHERE tenant = 'ada'"
    )


def taken(outbox: PostgresOutbox) -> PostgresLease:
    """Take ada's lease, which has to be free."""
    lease = outbox.acquire_lease(ADA)
    assert lease is not None
    return lease


def acked(outbox: PostgresOutbox, lease: PostgresLease, claim: Claim) -> int:
    """Ack everything as landed."""
    return outbox.ack(
        lease,
        claim,
        landed=dict.fromkeys(claim.memory_ids, ProvenanceUpdate(PROVENANCE)),
        failures=[],
        missed=[],
        recheck=[],
    )


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

    assert tokens == [1, 2, 3, 4]


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


@pytest.mark.parametrize("act", ["hold", "claim", "ack", "go live", "abandon", "register"])
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
        "go live": lambda: registry.go_live(lease, generation),
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

    assert pending(db) == []


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
    assert len(pending(db)) == 2


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

    assert pending(db) == [memory_id]
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

    assert pending(db) == [memory_id, memory_id]


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
        assert None not in pending(db)
        frozen.rollback()
    outbox.pending_tenants()
    assert None in pending(db)


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


def begun(registry: PostgresRegistry) -> Generation:
    """Begin a generation of ada's on a server that is registered, and nothing else."""
    server = uuid4()
    registry.register_server(server, "http://nowhere:1")
    return registry.begin_generation(ADA, server, model="m", config_hash="c", memories=0)


def owned(rebuilds: PostgresRebuilds, rebuild: str = "the rebuild") -> RebuildPart:
    """Ask for a rebuild of ada and become its owner."""
    rebuilds.request(RebuildId(rebuild), [ADA], re_embed=False)
    build = rebuilds.acquire_part(RebuildId(rebuild), ADA)
    assert build is not None
    return build


@pytest.fixture
def new(
    registry: PostgresRegistry, rebuilds: PostgresRebuilds, outbox: PostgresOutbox
) -> tuple[PostgresLease, Generation, RebuildPart]:
    """Have ada's lease, and a generation and a rebuild of hers that were just begun."""
    return taken(outbox), begun(registry), owned(rebuilds)


@pytest.mark.parametrize("act", ["begin", "go live", "register"])
def test_who_comes_while_a_server_is_given_up_is_refused(
    db: psycopg.Connection,
    database: Database,
    registry: PostgresRegistry,
    new: tuple[PostgresLease, Generation, RebuildPart],
    act: str,
) -> None:
    """What broke: a tenant went live on it, or built on it, for ever."""
    lease, generation, build = new
    server, rebuilds = generation.server, PostgresRebuilds(database, Settings.load())
    acts: dict[str, Callable[[], object]] = {
        "begin": lambda: registry.begin_generation(
            ADA, server, model="m", config_hash="c", memories=0
        ),
        "go live": lambda: registry.go_live(lease, generation),
        "register": lambda: rebuilds.register_building(build, lease, generation),
    }

    def retire(connection: Connection) -> None:
        queries().retire_server(connection, id=server)
        queries().lose_generations(connection, id=server)
        queries().stop_building(connection, id=server)

    with pytest.raises((Fenced, ServerLost)):
        one_after_the_other(database, db, retire, acts[act])

    assert one(db, "SELECT coalesce(live, building) FROM memory_pipeline.tenant") is None
    assert one(db, "SELECT array_agg(state) FROM memory_pipeline.generation") == ["lost"]


@pytest.mark.parametrize("act", ["begin", "go live", "register"])
def test_what_begins_while_a_server_is_given_up_is_lost_with_it(
    db: psycopg.Connection,
    database: Database,
    registry: PostgresRegistry,
    new: tuple[PostgresLease, Generation, RebuildPart],
    act: str,
) -> None:
    """The other order: giving up waits, and sees then what it could not see before."""
    lease, generation, build = new
    another = {"server": generation.server, "model": "m", "config_hash": "c", "memories": 0}
    same = {"tenant": ADA, "token": lease.token, "collection_id": uuid4()}
    part = {"id": build.rebuild, "owner": build.owner, "generation": generation.id}
    acts: dict[str, Callable[[Connection], object]] = {
        "begin": lambda c: queries().begin_generation(c, tenant=ADA, id=uuid4(), **another),
        "go live": lambda c: queries().go_live(c, id=generation.id, **same),
        "register": lambda c: queries().register_building(c, **part, **same),
    }

    def begin(connection: Connection) -> None:
        assert acts[act](connection) == 1

    one_after_the_other(database, db, begin, lambda: registry.retire_server(generation.server))

    states = one(db, "SELECT array_agg(DISTINCT state) FROM memory_pipeline.generation")
    assert states == ["lost"]
    assert one(db, "SELECT building FROM memory_pipeline.tenant") is None
    assert (None in pending(db)) == (act != "begin")


def one_after_the_other(
    database: Database,
    db: psycopg.Connection,
    first: Callable[[Connection], object],
    second: Callable[[], object],
) -> None:
    """Do the first in a transaction that is committed once the second waits for it."""
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    with ThreadPoolExecutor(1) as threads:
        with database.transaction() as connection:
            first(connection)
            late = threads.submit(second)
            deadline = time.monotonic() + 5
            while not one(db, waits):
                assert time.monotonic() < deadline
                time.sleep(0.01)
        late.result(timeout=5)


def test_a_claim_names_the_generations_of_this_moment(
    registry: PostgresRegistry, rebuilds: PostgresRebuilds, outbox: PostgresOutbox
) -> None:
    """Nobody writes to a target that was remembered from an earlier claim."""
    old, new = begun(registry), begun(registry)
    lease, build = taken(outbox), owned(rebuilds)
    registry.go_live(lease, old)
    assert [g.id for g in outbox.claim(lease).targets] == [old.id]
    rebuilds.register_building(build, lease, new)
    assert [(g.id, g.state) for g in outbox.claim(lease).targets] == [
        (old.id, "live"),
        (new.id, "building"),
    ]
    registry.abandon(lease, old.id)
    assert [g.id for g in outbox.claim(lease).targets] == [new.id]

    rebuilds.flip(build, lease, new, memories=0)

    assert [(g.id, g.state) for g in outbox.claim(taken(outbox)).targets] == [(new.id, "live")]


def test_a_building_generation_that_fails_is_abandoned_alone(
    registry: PostgresRegistry, rebuilds: PostgresRebuilds, outbox: PostgresOutbox
) -> None:
    """The live generation stays live."""
    live, building = begun(registry), begun(registry)
    lease, build = taken(outbox), owned(rebuilds)
    registry.go_live(lease, live)
    rebuilds.register_building(build, lease, building)

    registry.abandon(lease, building.id)

    assert [(g.id, g.state) for g in outbox.claim(lease).targets] == [(live.id, "live")]
    assert registry.building(ADA) is None
    assert not rebuilds.may_fill(build, lease, building)


def test_of_many_processes_one_owns_a_tenants_part(
    db: psycopg.Connection, registry: PostgresRegistry, rebuilds: PostgresRebuilds
) -> None:
    """One rebuild a tenant, however many ask at the same moment, and for however many rebuilds."""
    for round_ in range(30):
        names = [RebuildId(f"{round_} {n // 2}") for n in range(8)]
        for name in names:
            rebuilds.request(name, [ADA], re_embed=False)
        together = Barrier(len(names))

        def own(name: RebuildId, together: Barrier = together) -> RebuildPart | None:
            together.wait()
            return rebuilds.acquire_part(name, ADA)

        with ThreadPoolExecutor(len(names)) as threads:
            builds = list(threads.map(own, names))

        (build,) = [build for build in builds if build]
        assert one(db, "SELECT count(*) FROM memory_pipeline.rebuild WHERE state = 'running'") == 1
        rebuilds.fail_part(build, "enough")


def test_a_claim_beside_a_flip_names_the_old_pointers_or_is_fenced(
    db: psycopg.Connection,
    registry: PostgresRegistry,
    rebuilds: PostgresRebuilds,
    outbox: PostgresOutbox,
) -> None:
    """A flip ends the lease, so a claim names the pointers of before, or none."""
    old, new = begun(registry), begun(registry)
    lease, build = taken(outbox), owned(rebuilds)
    registry.go_live(lease, old)
    rebuilds.register_building(build, lease, new)
    together = Barrier(2)

    def claim() -> list[object]:
        together.wait()
        try:
            return [g.id for g in outbox.claim(lease).targets]
        except Fenced:
            return []

    def flip() -> None:
        together.wait()
        rebuilds.flip(build, lease, new, memories=0)

    with ThreadPoolExecutor(2) as threads:
        claiming, flipping = threads.submit(claim), threads.submit(flip)
        flipping.result()

    assert claiming.result() in ([], [old.id, new.id])
    assert one(db, "SELECT live FROM memory_pipeline.tenant") == new.id


def test_what_a_writer_commits_after_the_registration_is_not_covered(
    db: psycopg.Connection,
    database_url: str,
    registry: PostgresRegistry,
    rebuilds: PostgresRebuilds,
    outbox: PostgresOutbox,
) -> None:
    """T1, P1: a change that was not committed yet may be about a row that is read before it is."""
    covered = remember(db)
    build = owned(rebuilds)
    generation, lease = begun(registry), taken(outbox)
    with psycopg.connect(database_url) as slow:
        late = remember(slow)
        rebuilds.register_building(build, lease, generation)
        assert not outbox.has_due_changes(ADA)
        slow.commit()

    assert outbox.has_due_changes(ADA)
    assert outbox.claim(lease).memory_ids == (late,)
    rebuilds.flip(build, lease, generation, memories=0)
    assert pending(db) == [late]
    assert covered != late


def test_a_flip_acks_nothing_that_somebody_has_claimed(
    db: psycopg.Connection,
    registry: PostgresRegistry,
    rebuilds: PostgresRebuilds,
    outbox: PostgresOutbox,
) -> None:
    """P1: whoever claimed a change may have sent it, so it is written again, whatever covers it."""
    claimed, covered = remember(db), remember(db)
    build, lease, generation = owned(rebuilds), taken(outbox), begun(registry)
    rebuilds.register_building(build, lease, generation)
    db.execute("UPDATE memory_pipeline.change SET claim_token = 1 WHERE memory_id = %s", (claimed,))

    rebuilds.flip(build, lease, generation, memories=0)

    assert pending(db) == [claimed]
    assert outbox.claim(taken(outbox)).memory_ids == (claimed,)
    assert list(confirms(db)) == [claimed]
    assert covered != claimed


# -- What a verify may overlook: Postgres alone.


def test_what_waits_or_is_buried_is_an_excuse(
    db: psycopg.Connection, outbox: PostgresOutbox
) -> None:
    """A difference that is on its way to be mended is no finding, whoever has claimed it."""
    waits, claimed, buried, right = (MemoryId(remember(db)) for _ in range(4))
    lease = taken(outbox)
    claim = outbox.claim(lease)
    outbox.ack(
        lease,
        claim.without([claimed]),
        landed=dict.fromkeys([waits, right], ProvenanceUpdate(PROVENANCE)),
        failures=[Failure(buried, "poison")],
        missed=[],
        recheck=[waits],
    )
    db.execute("UPDATE memory_pipeline.failure SET buried_at = now()")
    db.execute("DELETE FROM memory_pipeline.change WHERE memory_id = %s", (buried,))

    excuses = outbox.expected_differences(ADA, [waits, claimed, buried, right])

    assert excuses.pending == {waits, claimed}
    assert excuses.buried == {buried}
    assert [excuses.cover(m) for m in (waits, claimed, buried, right)] == [True, True, True, False]
    assert outbox.expected_differences(ADA, [right]).pending == frozenset()
    assert outbox.expected_differences(TenantId("bob"), [waits, buried]).pending == frozenset()
    assert outbox.expected_differences(TenantId("bob"), [waits, buried]).buried == frozenset()


def test_a_failure_that_is_tried_again_excuses_by_its_change_alone(
    db: psycopg.Connection, outbox: PostgresOutbox
) -> None:
    """A memory that failed and is not buried has a change that waits: that is the excuse."""
    memory_id = MemoryId(remember(db))
    lease = taken(outbox)
    outbox.ack(
        lease,
        outbox.claim(lease),
        landed={},
        failures=[Failure(memory_id, "poison")],
        missed=[],
        recheck=[],
    )

    excuses = outbox.expected_differences(ADA, [memory_id])

    assert excuses.pending == {memory_id}
    assert excuses.buried == frozenset()


@pytest.mark.parametrize("what", ["reset", "truncation"])
def test_what_is_about_everything_excuses_everything(
    db: psycopg.Connection, registry: PostgresRegistry, outbox: PostgresOutbox, what: str
) -> None:
    """While a whole tenant waits to be reconciled no memory of it is judged."""
    memory_id = MemoryId(remember(db))
    db.execute("DELETE FROM memory_pipeline.change")
    assert not outbox.expected_differences(ADA, [memory_id]).cover(memory_id)

    db.execute("TRUNCATE memory_logs")
    if what == "reset":
        outbox.pending_tenants()

    assert outbox.expected_differences(ADA, [memory_id]).everything
    assert outbox.expected_differences(ADA, [memory_id]).cover(memory_id)


def test_what_a_rebuild_under_way_covers_is_no_excuse(
    db: psycopg.Connection,
    registry: PostgresRegistry,
    rebuilds: PostgresRebuilds,
    outbox: PostgresOutbox,
) -> None:
    """It has to stand in the new collection before the flip acks it; given up, it waits again."""
    memory_id = MemoryId(remember(db))
    build, lease, generation = owned(rebuilds), taken(outbox), begun(registry)
    rebuilds.register_building(build, lease, generation)
    assert not outbox.expected_differences(ADA, [memory_id]).cover(memory_id)

    db.execute("UPDATE memory_pipeline.change SET claim_token = 1")
    assert outbox.expected_differences(ADA, [memory_id]).cover(memory_id)

    db.execute("UPDATE memory_pipeline.change SET claim_token = NULL")
    registry.abandon(lease, generation.id)
    assert outbox.expected_differences(ADA, [memory_id]).cover(memory_id)


# -- The embedding backup beside the application: Postgres alone.


def test_the_backup_skips_what_the_application_holds(
    db: psycopg.Connection, database_url: str, memories: PostgresMemories
) -> None:
    """P6: the backup waits for nobody, so no application can be a deadlock's victim."""
    free, held = (MemoryId(remember(db)) for _ in range(2))
    rows, _ = memories.read([free, held])
    with ThreadPoolExecutor(1) as threads, psycopg.connect(database_url) as application:
        application.execute("SET lock_timeout = '200ms'")
        application.execute("UPDATE memory_logs SET raw_data = '1' WHERE id = %s", (held,))
        backing_up = threads.submit(
            memories.back_up, {i: (rows[i], OURS, PROVENANCE) for i in (held, free)}
        )
        try:
            assert backing_up.result(timeout=5) == {free}
        finally:
            application.execute("UPDATE memory_logs SET raw_data = '2' WHERE id = %s", (free,))
            application.commit()

    assert one(db, "SELECT raw_data FROM memory_logs WHERE id = %s", held) == 1
    assert one(db, "SELECT raw_data FROM memory_logs WHERE id = %s", free) == 2


def test_a_backup_that_stops_after_its_statement_holds_no_row(
    db: psycopg.Connection,
    database_url: str,
    memories: PostgresMemories,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """P6: frozen there, or cut off from Postgres, it would make the application wait till it ends.

    What broke: a stalled link between the statement and its commit, and an UPDATE waited for it.
    """
    memory = MemoryId(remember(db))
    rows, _ = memories.read([memory])
    back_up = queries().back_up

    def stopped(connection: psycopg.Connection, **what: Any) -> list[Any]:
        done = list(back_up(connection, **what))
        with psycopg.connect(database_url, autocommit=True) as application:
            application.execute("SET lock_timeout = '200ms'")
            application.execute("UPDATE memory_logs SET raw_data = '1' WHERE id = %s", (memory,))
        return done

    monkeypatch.setattr(queries(), "back_up", stopped)
    assert memories.back_up({memory: (rows[memory], OURS, PROVENANCE)}) == {memory}
    assert one(db, "SELECT count(*) FROM memory_pipeline.provenance") == 1


def test_a_backup_waits_for_nobody_while_it_holds_rows(
    db: psycopg.Connection, database_url: str, memories: PostgresMemories
) -> None:
    """P6: not for another worker either, frozen in the middle of an ack; it comes again later."""
    memory = MemoryId(remember(db))
    rows, _ = memories.read([memory])
    given = {memory: (rows[memory], OURS, PROVENANCE)}
    with psycopg.connect(database_url) as other:
        other.execute(
            "INSERT INTO memory_pipeline.provenance (memory_id, text_hash, model, vector_hash)"
            " VALUES (%s, 'a', 'b', 'c')",
            (memory,),
        )
        with ThreadPoolExecutor(1) as threads:
            assert threads.submit(memories.back_up, given).result(timeout=5) == frozenset()
    assert one(db, "SELECT embedding IS NULL FROM memory_logs WHERE id = %s", memory)
    assert memories.back_up(given) == {memory}


def test_a_repeatable_read_application_is_spared_in_every_row_that_it_touched(
    db: psycopg.Connection, database_url: str, memories: PostgresMemories
) -> None:
    """Only a row that it reads first and writes after the backup remains, as is said."""
    touched, other = (MemoryId(remember(db)) for _ in range(2))
    rows, _ = memories.read([touched, other])
    with psycopg.connect(database_url) as application:
        application.isolation_level = IsolationLevel.REPEATABLE_READ
        application.execute("SET LOCAL lock_timeout = '200ms'")
        application.execute("SELECT FROM memory_logs WHERE id = %s FOR UPDATE", (touched,))
        with ThreadPoolExecutor(1) as threads:
            stored = threads.submit(
                memories.back_up, {i: (rows[i], OURS, PROVENANCE) for i in rows}
            ).result(timeout=5)
        application.execute("UPDATE memory_logs SET raw_data = '[]' WHERE id = %s", (touched,))

    assert stored == {other}


def test_with_the_backup_off_a_repeatable_read_application_never_has_to_retry(
    db: psycopg.Connection, database_url: str, database: Database, limits: Settings
) -> None:
    """The named residual goes away with backup=off."""
    memory_id = MemoryId(remember(db))
    memories = PostgresMemories(database, limits.model_copy(update={"backup": "off"}))
    rows, _ = memories.read([memory_id])
    with psycopg.connect(database_url) as application:
        application.isolation_level = IsolationLevel.REPEATABLE_READ
        application.execute("SELECT FROM memory_logs")
        assert memories.back_up({memory_id: (rows[memory_id], OURS, PROVENANCE)}) == {memory_id}
        application.execute("UPDATE memory_logs SET raw_data = '[]'")

    assert one(db, "SELECT embedding IS NULL FROM memory_logs")


@pytest.mark.parametrize(
    "write",
    [
        "UPDATE memory_logs SET embedding = array_fill(0.25, ARRAY[768])::vector",
        "UPDATE memory_logs SET raw_data = '{}'",
        "UPDATE memory_logs SET user_id = 'bob'",
        "UPDATE memory_logs SET id = 99",
        "DELETE FROM memory_logs",
    ],
)
def test_the_backup_overwrites_nothing_that_moved_since_it_was_read(
    db: psycopg.Connection, memories: PostgresMemories, write: str
) -> None:
    """Compare-and-set on the row's version; neither vector nor provenance is stored."""
    memory_id = MemoryId(remember(db))
    rows, _ = memories.read([memory_id])
    db.execute(write)
    before = list(db.execute("SELECT id, user_id, raw_data, embedding::text FROM memory_logs"))

    assert memories.back_up({memory_id: (rows[memory_id], OURS, PROVENANCE)}) == frozenset()

    assert before == list(
        db.execute("SELECT id, user_id, raw_data, embedding::text FROM memory_logs")
    )
    assert one(db, "SELECT count(*) FROM memory_pipeline.provenance") == 0


# -- The whole way, with the real Chroma.


def drain(pipeline: Pipeline) -> None:
    """Sync until nothing can be claimed."""
    for outcome in pipeline.drain().run(paused=True):
        assert outcome.verdict in {"done", "damaged"}, outcome


def live(pipeline: Pipeline, tenant: str = "ada") -> Generation:
    """Return the generation that a tenant's searches go to."""
    generation = pipeline.registry.live(TenantId(tenant))
    assert generation is not None
    return generation


def indexed(pipeline: Pipeline, tenant: str = "ada") -> set[str]:
    """Tell which documents a tenant's collection holds."""
    return set(pipeline.index.hashes(live(pipeline, tenant), renew=lambda: 5.0))


def vector_of(pipeline: Pipeline, memory_id: int) -> Vector:
    """Return the vector that Chroma has for a memory of ada's."""
    generation = live(pipeline)
    with pipeline.servers.client(generation.server).collection(generation, 5.0) as collection:
        found: Any = collection.get(ids=[document_id(MemoryId(memory_id))], include=["embeddings"])
    return np.asarray(found["embeddings"][0], dtype=np.float32)


def stored_vector(db: psycopg.Connection, memory_id: int) -> Vector:
    """Return the vector that Postgres has for a memory."""
    text = one(db, "SELECT embedding::text FROM memory_logs WHERE id = %s", memory_id)
    return np.fromstring(text.strip("[]"), dtype=np.float32, sep=",")


def test_a_slow_transaction_with_a_lower_number_still_arrives(
    pipeline: Pipeline, db: psycopg.Connection, database_url: str
) -> None:
    """T1, P1: commit order is not id order, and no cursor passes over it."""
    with psycopg.connect(database_url) as slow:
        early = remember(slow, summary="the slow one")
        late = remember(db, summary="the fast one")
        drain(pipeline)
        assert indexed(pipeline) == {f"memory_log_{late}"}
        slow.commit()

    drain(pipeline)

    assert indexed(pipeline) == {f"memory_log_{early}", f"memory_log_{late}"}


def test_a_memory_that_the_application_holds_stays_pending_and_arrives_as_it_was_committed(
    pipeline: Pipeline,
    db: psycopg.Connection,
    database_url: str,
    wait_until: Callable[..., None],
) -> None:
    """A missed backup leaves the change pending, and the next read is the truth."""
    memory_id = remember(db, summary="before")
    with psycopg.connect(database_url) as application:
        application.execute('UPDATE memory_logs SET raw_data = \'{"summary": "after"}\'')
        outcome = pipeline.sync().run(ADA)
        assert (outcome.verdict, outcome.written) == ("done", 0)
        assert pending(db) == [memory_id]
        application.commit()

    def done() -> bool:
        drain(pipeline)
        return pipeline.outbox.pending(ADA) == 0

    wait_until(done)
    hits = pipeline.search.search(ADA, "after")
    assert [(h.memory_id, h.memory) for h in hits] == [(memory_id, {"summary": "after"})]
    assert vector_hash(vector_of(pipeline, memory_id)) == vector_hash(
        pipeline.embedder.embed(["after"])[0]
    )


@pytest.mark.parametrize(
    "write",
    [
        pytest.param("UPDATE memory_logs SET embedding = NULL", id="nulled"),
        pytest.param(
            "UPDATE memory_logs SET embedding = array_fill(0.25, ARRAY[768])::vector",
            id="replaced",
        ),
    ],
)
def test_a_vector_that_the_application_touched_is_never_taken_for_ours(
    pipeline: Pipeline, db: psycopg.Connection, write: str
) -> None:
    """The text is the same and the provenance is there, but it is not that vector's."""
    memory_id = remember(db, summary="the same text")
    drain(pipeline)
    ours = stored_vector(db, memory_id)
    db.execute(write)

    drain(pipeline)

    assert np.array_equal(stored_vector(db, memory_id), ours)
    assert np.allclose(vector_of(pipeline, memory_id), ours, atol=1e-6)
    assert pending(db) == []


def test_a_vector_of_the_application_is_used_where_it_is_trusted(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """With vectors=trust what the application stores is the model's, before and after."""
    migrate(pipeline.settings, vectors="trust")
    memory_id = remember(db, summary="the same text")
    drain(pipeline)
    db.execute("UPDATE memory_logs SET embedding = array_fill(0.25, ARRAY[768])::vector")

    drain(pipeline)

    theirs = np.full(768, 0.25, dtype=np.float32)
    assert np.array_equal(stored_vector(db, memory_id), theirs)
    assert np.allclose(vector_of(pipeline, memory_id), theirs, atol=1e-6)


def test_a_vector_nulled_under_trust_is_computed(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """Trust covers what is there, not what is missing."""
    migrate(pipeline.settings, vectors="trust")
    memory_id = remember(db, summary="the same text")
    drain(pipeline)
    ours = stored_vector(db, memory_id)
    db.execute("UPDATE memory_logs SET embedding = NULL")

    drain(pipeline)

    assert np.array_equal(stored_vector(db, memory_id), ours)


def test_two_workers_of_one_tenant_never_write_at_once(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """One writer a tenant: the second says busy, and nothing is written twice or lost."""
    ids = {f"memory_log_{remember(db, summary=f'memory {n}')}" for n in range(30)}
    sync = pipeline.sync()
    together = Barrier(3)

    def run(_: int) -> str:
        together.wait()
        return sync.run(ADA).verdict

    with ThreadPoolExecutor(3) as threads:
        verdicts = list(threads.map(run, range(3)))
    drain(pipeline)

    assert set(verdicts) <= {"done", "busy"}
    assert indexed(pipeline) == ids
    assert one(db, "SELECT count(*) FROM memory_pipeline.generation") == 1
    assert pending(db) == []


def test_search_shows_nothing_that_was_deleted_or_moved_while_chroma_still_has_it(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P3, P4: existence and tenant are read from Postgres on each search."""
    gone, moved, kept = (remember(db, summary=f"tea number {n}") for n in range(3))
    drain(pipeline)
    db.execute("DELETE FROM memory_logs WHERE id = %s", (gone,))
    db.execute("UPDATE memory_logs SET user_id = 'bob' WHERE id = %s", (moved,))
    assert len(indexed(pipeline)) == 3

    assert [h.memory_id for h in pipeline.search.search(ADA, "tea")] == [kept]
    assert pipeline.search.search(TenantId("bob"), "tea") == []

    drain(pipeline)
    assert indexed(pipeline) == {f"memory_log_{kept}"}
    assert indexed(pipeline, "bob") == {f"memory_log_{moved}"}


def test_an_id_that_a_truncate_gave_to_another_tenant_is_not_shown_to_the_old_one(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P3: not even before the reset, which then empties the old one."""
    first = remember(db, "ada", "a secret of ada")
    drain(pipeline)
    db.execute("TRUNCATE memory_logs RESTART IDENTITY")
    assert remember(db, "bob", "a secret of bob") == first
    assert indexed(pipeline) == {f"memory_log_{first}"}

    assert pipeline.search.search(ADA, "secret") == []

    drain(pipeline)
    assert indexed(pipeline) == set()
    assert [h.memory for h in pipeline.search.search(TenantId("bob"), "secret")] == [
        {"summary": "a secret of bob"}
    ]


def test_a_search_follows_the_pointer_at_once(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """No search goes to a generation that was replaced; until then, every one does."""
    memory_id = remember(db, summary="tea")
    drain(pipeline)
    old = live(pipeline)
    assert [h.memory_id for h in pipeline.search.search(ADA, "tea")] == [memory_id]
    lease = pipeline.outbox.acquire_lease(ADA)
    assert lease is not None
    pipeline.registry.abandon(lease, old.id)
    pipeline.outbox.release_lease(lease)
    assert live(pipeline).id == old.id
    assert [h.memory_id for h in pipeline.search.search(ADA, "tea")] == [memory_id]

    drain(pipeline)
    pipeline.index.drop(old, seconds=5.0)

    assert live(pipeline).id != old.id
    assert [h.memory_id for h in pipeline.search.search(ADA, "tea")] == [memory_id]


def test_a_memory_that_is_rewritten_is_there_at_every_moment(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """No delete before the upsert, so no reader ever misses a memory that exists."""
    ids = [remember(db, summary=f"version 0 of {n}") for n in range(20)]
    drain(pipeline)
    generation, updated = live(pipeline), Event()
    names = [document_id(MemoryId(i)) for i in ids]

    def read() -> list[int]:
        counts: list[int] = []
        while not updated.is_set():
            with pipeline.servers.client(generation.server).collection(generation, 5.0) as c:
                counts.append(len(c.get(ids=names, include=[])["ids"]))
        return counts

    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(read)
        try:
            for version in range(1, 11):
                db.execute(
                    "UPDATE memory_logs SET raw_data ="
                    " jsonb_build_object('summary', 'version ' || %s || ' of ' || id)",
                    (str(version),),
                )
                drain(pipeline)
        finally:
            updated.set()

    assert set(reading.result()) == {20}


def test_a_memory_that_is_rewritten_is_found_by_its_new_vector(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """After many changes of vectors each memory is still found by what it says now."""
    ids = [remember(db, summary=f"apple {n}") for n in range(60)]
    drain(pipeline)
    for word in ("pear", "plum", "fig"):
        db.execute(
            "UPDATE memory_logs SET raw_data = jsonb_build_object('summary', %s || ' ' || id)",
            (word,),
        )
        drain(pipeline)

    unfound = [
        i for i in ids if i not in {h.memory_id for h in pipeline.search.search(ADA, f"fig {i}")}
    ]
    assert unfound == []


def test_a_late_write_of_a_dead_worker_is_mended_by_the_confirm(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: Callable[..., None]
) -> None:
    """P1, P2: what landed after the takeover's write is overwritten once the confirm is due."""
    memory_id = remember(db, summary="old text")
    drain(pipeline)
    generation = live(pipeline)
    with pipeline.servers.client(generation.server).collection(generation, 5.0) as collection:
        late: Any = collection.get(
            ids=[document_id(MemoryId(memory_id))], include=["embeddings", "metadatas"]
        )
    db.execute('UPDATE memory_logs SET raw_data = \'{"summary": "new text"}\'')
    dying = pipeline.outbox.acquire_lease(ADA)
    assert dying is not None
    pipeline.outbox.claim(dying)
    expire(db)
    drain(pipeline)
    right = pipeline.index.hashes(generation, renew=lambda: 5.0)
    assert len(pending(db)) == 1

    with pipeline.servers.client(generation.server).collection(generation, 5.0) as collection:
        collection.upsert(
            ids=late["ids"], embeddings=late["embeddings"], metadatas=late["metadatas"]
        )
    assert pipeline.index.hashes(generation, renew=lambda: 5.0) != right

    def confirmed() -> bool:
        drain(pipeline)
        return pipeline.outbox.pending(ADA) == 0

    wait_until(confirmed, within=10)
    assert pipeline.index.hashes(generation, renew=lambda: 5.0) == right


@pytest.mark.parametrize("column", ["raw_data", "created_at", "updated_at"])
def test_a_memory_with_a_null_delays_no_other(
    pipeline: Pipeline, db: psycopg.Connection, column: str
) -> None:
    """P5: an attached table may lack NOT NULL; such a row harms itself alone."""
    db.execute(f"ALTER TABLE memory_logs ALTER COLUMN {column} DROP NOT NULL")
    odd = remember(db, summary="odd")
    db.execute(f"UPDATE memory_logs SET {column} = NULL WHERE id = %s", (odd,))
    good = remember(db, summary="good")

    drain(pipeline)

    assert f"memory_log_{good}" in indexed(pipeline)
