"""What the outbox, the leases, the memories and the registry promise: fake and Postgres alike."""

from typing import Protocol
from uuid import UUID, uuid4

import psycopg
import pytest

from memory_pipeline.errors import Fenced
from memory_pipeline.model import (
    Change,
    Claim,
    Failure,
    Generation,
    MemoryId,
    Provenance,
    TenantId,
)
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.ports import Lease, Memories, Outbox, Registry
from memory_pipeline.settings import Settings
from memory_pipeline_tests.fakes import (
    FakeMemories,
    FakeOutbox,
    FakeRegistry,
    FakeWorld,
    a_vector,
)

ADA, BOB = TenantId("ada"), TenantId("bob")
OURS = Provenance("text", "model", "vector")
A_LONG_TIME_SECONDS = 1000.0


class World(Protocol):
    """What a test needs beside the ports: an application, a clock and a look at the tables."""

    outbox: Outbox
    memories: Memories
    registry: Registry
    settings: Settings

    def put(self, tenant: str, raw: str = '{"n": 1}', *, memory_id: int | None = None) -> MemoryId:
        """Insert a memory, or change the one with this id."""
        ...

    def delete(self, memory_id: MemoryId) -> None:
        """Delete a memory."""
        ...

    def truncate(self) -> None:
        """Truncate the table."""
        ...

    def pass_time(self, seconds: float) -> None:
        """Let every deadline come nearer."""
        ...

    def pending(self, tenant: TenantId) -> int:
        """Count what waits, due or not."""
        ...

    def confirms(self, tenant: TenantId) -> set[int | None]:
        """Return the memories that have a confirm."""
        ...

    def due_tenants(self, *, paused: bool = False) -> list[str]:
        """Tell who has changes to claim, oldest first."""
        ...

    def attempts(self, tenant: TenantId, memory_id: MemoryId) -> tuple[int, bool] | None:
        """Return the failed attempts of a memory, and whether it is buried."""
        ...

    def server(self) -> UUID:
        """Return a Chroma server that is registered."""
        ...


class FakeSide:
    """The fake behind the test's words."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.world = FakeWorld(settings)
        self.outbox: Outbox = FakeOutbox(self.world)
        self.memories: Memories = FakeMemories(self.world)
        self.registry: Registry = FakeRegistry(self.world)

    def put(self, tenant: str, raw: str = '{"n": 1}', *, memory_id: int | None = None) -> MemoryId:
        """Insert a memory, or change the one with this id."""
        return self.world.put(tenant, raw, memory_id=memory_id)

    def delete(self, memory_id: MemoryId) -> None:
        """Delete a memory."""
        self.world.delete(memory_id)

    def truncate(self) -> None:
        """Truncate the table."""
        self.world.truncate()

    def pass_time(self, seconds: float) -> None:
        """Let every deadline come nearer."""
        self.world.now += seconds

    def pending(self, tenant: TenantId) -> int:
        """Count what waits, due or not."""
        return FakeOutbox(self.world).pending(tenant)

    def confirms(self, tenant: TenantId) -> set[int | None]:
        """Return the memories that have a confirm."""
        changes = self.world.changes.values()
        return {c.memory_id for c in changes if c.confirm and c.tenant == tenant}

    def due_tenants(self, *, paused: bool = False) -> list[str]:
        """Tell who has changes to claim, oldest first."""
        return list(FakeOutbox(self.world).pending_tenants(paused=paused))

    def attempts(self, tenant: TenantId, memory_id: MemoryId) -> tuple[int, bool] | None:
        """Return the failed attempts of a memory, and whether it is buried."""
        found = self.world.failures.get((tenant, memory_id))
        return None if found is None else (found.attempts, found.buried)

    def server(self) -> UUID:
        """Return a Chroma server that is registered."""
        return self.world.server


class RealSide:
    """Postgres behind the test's words; its clock is moved by moving every deadline."""

    def __init__(self, pipeline: Pipeline, db: psycopg.Connection) -> None:
        self.settings = pipeline.settings
        self.outbox: Outbox = pipeline.outbox
        self.memories: Memories = pipeline.memories
        self.registry: Registry = pipeline.registry
        self._outbox = pipeline.outbox
        self._registry = pipeline.registry
        self._db = db

    def put(self, tenant: str, raw: str = '{"n": 1}', *, memory_id: int | None = None) -> MemoryId:
        """Insert a memory, or change the one with this id."""
        row = self._db.execute(
            "INSERT INTO memory_logs (id, user_id, raw_data) VALUES"
            " (coalesce(%(id)s, nextval(pg_get_serial_sequence('memory_logs', 'id'))),"
            " %(tenant)s, %(raw)s::jsonb)"
            " ON CONFLICT (id) DO UPDATE SET user_id = EXCLUDED.user_id,"
            " raw_data = EXCLUDED.raw_data RETURNING id",
            {"id": memory_id, "tenant": tenant, "raw": raw},
        ).fetchone()
        assert row is not None
        return MemoryId(row[0])

    def delete(self, memory_id: MemoryId) -> None:
        """Delete a memory."""
        self._db.execute("DELETE FROM memory_logs WHERE id = %s", (memory_id,))

    def truncate(self) -> None:
        """Truncate the table."""
        self._db.execute("TRUNCATE memory_logs")

    def pass_time(self, seconds: float) -> None:
        """Let every deadline come nearer."""
        self._db.execute(
            "UPDATE memory_pipeline.tenant SET"
            " lease_until = lease_until - make_interval(secs => %(s)s),"
            " retry_at = retry_at - make_interval(secs => %(s)s)",
            {"s": seconds},
        )
        self._db.execute(
            "UPDATE memory_pipeline.change SET"
            " not_before = not_before - make_interval(secs => %(s)s)",
            {"s": seconds},
        )

    def pending(self, tenant: TenantId) -> int:
        """Count what waits, due or not."""
        return self._outbox.pending(tenant)

    def confirms(self, tenant: TenantId) -> set[int | None]:
        """Return the memories that have a confirm."""
        rows = self._db.execute(
            "SELECT memory_id FROM memory_pipeline.change WHERE confirm AND tenant = %s", (tenant,)
        )
        return {row[0] for row in rows}

    def due_tenants(self, *, paused: bool = False) -> list[str]:
        """Tell who has changes to claim, oldest first."""
        return [p.tenant for p in self._outbox.pending_tenants(paused=paused)]

    def attempts(self, tenant: TenantId, memory_id: MemoryId) -> tuple[int, bool] | None:
        """Return the failed attempts of a memory, and whether it is buried."""
        row = self._db.execute(
            "SELECT attempts, buried_at IS NOT NULL FROM memory_pipeline.failure"
            " WHERE tenant = %s AND memory_id = %s",
            (tenant, memory_id),
        ).fetchone()
        return None if row is None else (row[0], row[1])

    def server(self) -> UUID:
        """Return a Chroma server that is registered."""
        server = uuid4()
        self._registry.register_server(server, "http://127.0.0.1:1")
        return server


CHOSEN = {
    "retry_seconds": 2.0,
    "retry_limit_seconds": 60.0,
    "max_attempts": 3,
    "batch_size": 4,
    "batch_bytes": 100_000,
}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Return the settings of the real side, with the figures that both sides share."""
    return settings.model_copy(update=CHOSEN)


@pytest.fixture(params=["fake", "real"])
def world(request: pytest.FixtureRequest) -> World:
    """Return either world, with two tenants registered."""
    side: World
    if request.param == "fake":
        side = FakeSide(Settings.load(**CHOSEN))
    else:
        side = RealSide(request.getfixturevalue("pipeline"), request.getfixturevalue("db"))
    for tenant in (ADA, BOB):
        side.registry.register(tenant)
    return side


def _taken(world: World, tenant: TenantId = ADA) -> Lease:
    lease = world.outbox.take(tenant)
    assert lease is not None
    return lease


def _ack(
    world: World,
    lease: Lease,
    claim: Claim,
    *,
    failures: tuple[Failure, ...] = (),
    missed: tuple[MemoryId, ...] = (),
    again: tuple[MemoryId, ...] = (),
) -> int:
    """Ack everything of a claim that neither failed nor was missed."""
    apart = {*missed, *(f.memory_id for f in failures)}
    return world.outbox.ack(
        lease,
        claim,
        landed={i: OURS for i in claim.memory_ids if i not in apart},
        failures=failures,
        missed=missed,
        again=again,
    )


def _drained(world: World, tenant: TenantId = ADA) -> list[MemoryId]:
    """Claim and ack until nothing is due; return what was claimed, in order."""
    lease = _taken(world, tenant)
    seen: list[MemoryId] = []
    while (claim := world.outbox.claim(lease)).changes:
        seen.extend(claim.memory_ids)
        _ack(world, lease, claim)
    world.outbox.release(lease)
    return seen


# ---- leases


def test_only_one_worker_has_a_tenant(world: World) -> None:
    """A lease that stands keeps everybody else out, and no other tenant."""
    _taken(world)
    assert world.outbox.take(ADA) is None
    assert world.outbox.take(BOB) is not None


def test_an_unregistered_tenant_has_no_lease(world: World) -> None:
    """A tenant is registered before it is written."""
    assert world.outbox.take(TenantId("nobody")) is None


def test_a_released_lease_can_be_taken_with_a_larger_token(world: World) -> None:
    """The token only grows, so an old one can never be mistaken for a new one."""
    first = _taken(world)
    world.outbox.release(first)
    second = _taken(world)
    assert second.token > first.token


def test_a_lease_runs_out_and_its_holder_is_fenced(world: World) -> None:
    """A worker that stopped renewing loses the tenant: nothing it says counts from then on."""
    memory = world.put("ada")
    stale = _taken(world)
    claim = world.outbox.claim(stale)
    world.pass_time(world.settings.lease_seconds + 1)
    with pytest.raises(Fenced):
        stale.hold()
    with pytest.raises(Fenced):
        world.outbox.claim(stale)
    with pytest.raises(Fenced):
        _ack(world, stale, claim)
    taker = _taken(world)
    world.outbox.release(stale, error="too late")
    assert world.outbox.take(ADA) is None
    assert world.outbox.claim(taker).memory_ids == (memory,)


def test_holding_renews_and_tells_less_time_than_the_lease(world: World) -> None:
    """A call made under a lease ends before the lease does."""
    lease = _taken(world)
    for _ in range(3):
        world.pass_time(world.settings.lease_seconds - 1)
        assert 0 < lease.hold() <= world.settings.request_seconds
    assert world.outbox.take(ADA) is None


# ---- claim and ack


def test_a_claim_takes_the_oldest_changes_first_and_no_more_than_a_batch(world: World) -> None:
    """Changes are claimed in the order in which they were made, a batch at a time."""
    memories = [world.put("ada") for _ in range(6)]
    other = world.put("bob")
    lease = _taken(world)
    claim = world.outbox.claim(lease)
    assert [c.memory_id for c in claim.changes] == memories[:4]
    assert [c.seq for c in claim.changes] == sorted(c.seq for c in claim.changes)
    _ack(world, lease, claim)
    assert world.outbox.claim(lease).memory_ids == tuple(memories[4:])
    assert world.pending(BOB) == 1
    assert other not in memories


def test_what_was_acked_is_forgotten(world: World) -> None:
    """After the ack nothing is pending, and no confirm is needed."""
    world.put("ada")
    assert _drained(world) != []
    assert world.pending(ADA) == 0


def test_a_change_made_after_the_claim_survives_the_ack(world: World) -> None:
    """An update that comes while its memory is being written is not lost with the older change."""
    memory = world.put("ada")
    lease = _taken(world)
    claim = world.outbox.claim(lease)
    world.put("ada", '{"n": 2}', memory_id=memory)
    _ack(world, lease, claim)
    assert world.outbox.claim(lease).memory_ids == (memory,)


def test_a_move_is_a_change_of_both_tenants(world: World) -> None:
    """The old tenant has something to delete, the new one something to write."""
    memory = world.put("ada")
    _drained(world)
    world.put("bob", memory_id=memory)
    assert _drained(world, ADA) == [memory]
    assert _drained(world, BOB) == [memory]


def test_a_delete_is_a_change(world: World) -> None:
    """A memory that is gone is looked at once more."""
    memory = world.put("ada")
    _drained(world)
    world.delete(memory)
    assert _drained(world) == [memory]


def test_a_truncate_is_a_reset_of_every_registered_tenant(world: World) -> None:
    """TRUNCATE names no rows, so each tenant is reconciled as a whole."""
    world.put("ada")
    _drained(world)
    world.truncate()
    assert set(world.due_tenants()) == {"ada", "bob"}
    for tenant in (ADA, BOB):
        claim = world.outbox.claim(_taken(world, tenant))
        assert claim.resets
        assert claim.memory_ids == ()


# ---- takeovers and confirms


def test_a_takeover_schedules_a_confirm_after_the_grace(world: World) -> None:
    """What a lost worker may have sent can land late, so it is looked at again when it cannot."""
    memory = world.put("ada")
    lost = _taken(world)
    world.outbox.claim(lost)
    world.pass_time(world.settings.lease_seconds + 1)
    assert _drained(world) == [memory]
    assert world.confirms(ADA) == {memory}
    assert world.pending(ADA) == 1
    assert _drained(world) == []
    world.pass_time(world.settings.request_seconds + world.settings.grace_seconds)
    assert _drained(world) == [memory]
    assert world.pending(ADA) == 0


def test_the_confirm_of_memory_nought_is_scheduled_too(world: World) -> None:
    """Nought is an id like any other: what was claimed before gets its confirm."""
    world.put("ada", memory_id=0)
    world.outbox.claim(_taken(world))
    world.pass_time(world.settings.lease_seconds + 1)
    world.outbox.claim(_taken(world))
    assert world.confirms(ADA) == {0}


def test_claiming_again_under_the_same_token_schedules_a_confirm(world: World) -> None:
    """An unknown outcome of one's own is as dangerous as somebody else's."""
    memory = world.put("ada")
    lease = _taken(world)
    world.outbox.claim(lease)
    claim = world.outbox.claim(lease)
    _ack(world, lease, claim)
    assert world.confirms(ADA) == {memory}


def test_another_takeover_moves_the_confirm_out(world: World) -> None:
    """A confirm that is itself taken over waits for the newest request that may be on its way."""
    memory = world.put("ada")
    world.outbox.claim(_taken(world))
    world.pass_time(world.settings.lease_seconds + 1)
    world.outbox.claim(_taken(world))
    world.pass_time(world.settings.request_seconds + world.settings.grace_seconds - 1)
    world.pass_time(world.settings.lease_seconds)
    lease = _taken(world)
    claim = world.outbox.claim(lease)
    assert claim.memory_ids == (memory,)
    _ack(world, lease, claim)
    assert world.confirms(ADA) == {memory}
    assert world.outbox.claim(lease).changes == ()


def test_what_is_let_go_needs_no_confirm(world: World) -> None:
    """Nothing was sent for it, so nothing can land late."""
    memory = world.put("ada")
    lease = _taken(world)
    world.outbox.let_go(lease, world.outbox.claim(lease))
    claim = world.outbox.claim(lease)
    assert claim.memory_ids == (memory,)
    assert world.confirms(ADA) == set()


def test_a_reset_that_is_taken_over_needs_no_confirm_of_its_own(world: World) -> None:
    """A reset writes nothing by itself: what it finds is enqueued by name."""
    world.truncate()
    world.due_tenants()
    world.outbox.claim(_taken(world))
    world.pass_time(world.settings.lease_seconds + 1)
    assert world.outbox.claim(_taken(world)).resets
    assert world.confirms(ADA) == set()


def test_an_ack_forgets_only_what_its_own_token_claimed(world: World) -> None:
    """A claim that another token has taken over meanwhile is no longer one's to forget."""
    world.put("ada")
    lease = _taken(world)
    claim = world.outbox.claim(lease)
    forged = Claim(tuple(Change(c.seq + 10**6, c.memory_id) for c in claim.changes), claim.targets)
    _ack(world, lease, forged)
    assert world.pending(ADA) == 1


# ---- failures


def test_attempts_are_counted_and_the_memory_is_buried_at_the_limit(world: World) -> None:
    """A memory that always fails is tried so often and no more; then nothing of it is pending."""
    memory = world.put("ada")
    buried = []
    for _ in range(world.settings.max_attempts):
        lease = _taken(world)
        claim = world.outbox.claim(lease)
        buried.append(_ack(world, lease, claim, failures=(Failure(memory, "refused"),)))
        assert world.outbox.claim(lease).changes == ()
        world.outbox.release(lease)
        world.pass_time(world.settings.retry_seconds)
    assert buried == [0, 0, 1]
    assert world.attempts(ADA, memory) == (3, True)
    assert world.pending(ADA) == 0


def test_attempts_survive_an_update(world: World) -> None:
    """A memory that is updated all the time is buried all the same."""
    memory = world.put("ada")
    for n in range(world.settings.max_attempts):
        lease = _taken(world)
        claim = world.outbox.claim(lease)
        _ack(world, lease, claim, failures=(Failure(memory, "refused"),))
        world.outbox.release(lease)
        world.put("ada", f'{{"n": {n + 10}}}', memory_id=memory)
    assert world.attempts(ADA, memory) == (3, True)


def test_success_clears_the_attempts(world: World) -> None:
    """What landed starts anew."""
    memory = world.put("ada")
    lease = _taken(world)
    _ack(world, lease, world.outbox.claim(lease), failures=(Failure(memory, "refused"),))
    world.pass_time(world.settings.retry_seconds)
    lease.hold()
    _ack(world, lease, world.outbox.claim(lease))
    assert world.attempts(ADA, memory) is None


def test_a_missed_memory_is_tried_again_soon_and_charged_nothing(world: World) -> None:
    """A row that moved or was locked is nobody's fault."""
    missed, landed = world.put("ada"), world.put("ada")
    lease = _taken(world)
    claim = world.outbox.claim(lease)
    _ack(world, lease, claim, missed=(missed,))
    assert world.outbox.claim(lease).changes == ()
    world.pass_time(1)
    claim = world.outbox.claim(lease)
    assert claim.memory_ids == (missed,)
    assert world.attempts(ADA, missed) is None
    assert world.confirms(ADA) == set()
    assert landed != missed


def test_what_is_enqueued_again_is_pending_after_the_ack(world: World) -> None:
    """What a reset found different is looked at by name, and the reset itself is done."""
    world.truncate()
    world.due_tenants()
    lease = _taken(world)
    claim = world.outbox.claim(lease)
    _ack(world, lease, claim, again=(MemoryId(5), MemoryId(-7)))
    claim = world.outbox.claim(lease)
    assert claim.memory_ids == (-7, 5)
    assert not claim.resets


# ---- pauses


def test_a_tenant_waits_after_an_error_longer_each_time(world: World) -> None:
    """An outage is not hammered; asking for paused tenants shows them all the same."""
    world.put("ada")
    for pause_seconds in (2.0, 4.0, 8.0):
        world.outbox.release(_taken(world), error="Chroma is down")
        assert world.due_tenants() == []
        assert world.due_tenants(paused=True) == ["ada"]
        world.pass_time(pause_seconds * 0.7)
        assert world.due_tenants() == []
        world.pass_time(pause_seconds * 0.6)
        assert world.due_tenants() == ["ada"]


def test_success_ends_the_pause(world: World) -> None:
    """After a sync that went well the next error pauses for the shortest time again."""
    world.put("ada")
    world.outbox.release(_taken(world), error="Chroma is down")
    world.outbox.release(_taken(world))
    assert world.due_tenants() == ["ada"]
    world.outbox.release(_taken(world), error="Chroma is down")
    world.pass_time(2.0 * 1.3)
    assert world.due_tenants() == ["ada"]


def test_tenants_with_the_oldest_change_come_first(world: World) -> None:
    """Nobody waits behind a tenant that came later."""
    world.put("bob")
    world.put("ada")
    world.put("bob")
    assert world.due_tenants() == ["bob", "ada"]


# ---- memories


def test_reading_tells_the_rows_as_they_stand(world: World) -> None:
    """A row that is gone is not there; one that was changed shows its newest content."""
    memory, gone = world.put("ada"), world.put("ada")
    world.put("bob", '{"n": 2}', memory_id=memory)
    world.delete(gone)
    rows, left_out = world.memories.read([memory, gone])
    assert set(rows) == {memory}
    assert (rows[memory].tenant, rows[memory].raw) == (BOB, '{"n": 2}')
    assert rows[memory].provenance is None
    assert left_out == ()


def test_a_batch_is_bounded_by_bytes_but_never_empty(world: World) -> None:
    """What does not fit is named, so that it stays pending; a giant alone still fits."""
    noise = "".join(f"{uuid4()}" for _ in range(4000))
    giants = [world.put("ada", f'{{"text": "{noise}{n}"}}') for n in range(3)]
    rows, left_out = world.memories.read(giants)
    assert set(rows) == {giants[0]}
    assert left_out == tuple(giants[1:])


def test_a_backup_is_stored_with_its_provenance_and_makes_no_change(world: World) -> None:
    """The pipeline's own write of a vector is not looked at again."""
    memory = world.put("ada")
    _drained(world)
    rows, _ = world.memories.read([memory])
    assert world.memories.back_up({memory: (rows[memory], a_vector(1), OURS)}) == {memory}
    rows, _ = world.memories.read([memory])
    stored = rows[memory].embedding
    assert stored is not None
    assert stored.tolist() == a_vector(1).tolist()
    assert rows[memory].provenance == OURS
    assert world.pending(ADA) == 0


def test_a_backup_misses_a_row_that_moved(world: World) -> None:
    """A vector is stored only where the row is still the one that was read."""
    moved, still, gone = world.put("ada"), world.put("ada"), world.put("ada")
    rows, _ = world.memories.read([moved, still, gone])
    world.put("ada", '{"n": 2}', memory_id=moved)
    world.delete(gone)
    done = world.memories.back_up({i: (rows[i], a_vector(1), OURS) for i in rows})
    assert done == {still}
    rows, _ = world.memories.read([moved])
    assert rows[moved].embedding is None
    assert rows[moved].provenance is None


def test_acking_a_delete_forgets_the_provenance_of_what_is_gone(world: World) -> None:
    """An id used again starts without provenance; a memory that moved keeps its own."""
    gone, moved = world.put("ada"), world.put("ada")
    _drained(world)
    world.delete(gone)
    world.put("bob", memory_id=moved)
    lease = _taken(world)
    claim = world.outbox.claim(lease)
    deleted: dict[MemoryId, Provenance | None] = {gone: None, moved: None}
    world.outbox.ack(lease, claim, landed=deleted, failures=(), missed=(), again=())
    world.put("ada", memory_id=gone)
    rows, _ = world.memories.read([gone, moved])
    assert rows[gone].provenance is None
    assert rows[moved].provenance == OURS


def test_a_tenants_memories_are_counted_and_walked_in_id_order(world: World) -> None:
    """Reconciliation sees every memory of the tenant and none of another's."""
    mine = [world.put("ada", memory_id=n) for n in (3, -2, 0)]
    world.put("bob")
    assert world.memories.count(ADA) == 3
    assert [m.id for m in world.memories.of_tenant(ADA)] == sorted(mine)


# ---- registry


def _begun(world: World) -> Generation:
    return world.registry.begin(ADA, world.server(), model="model", config_hash="config")


def test_a_generation_goes_live_under_the_lease_with_a_reset(world: World) -> None:
    """A first collection is filled from all that the tenant has; claims name it from then on."""
    lease, begun = _taken(world), _begun(world)
    assert world.registry.live(ADA) is None
    world.registry.go_live(lease, begun)
    live = world.registry.live(ADA)
    assert live is not None
    assert live.id == begun.id
    claim = world.outbox.claim(lease)
    assert claim.resets
    assert [target.id for target in claim.targets] == [begun.id]


def test_nobody_goes_live_without_the_lease_or_twice(world: World) -> None:
    """A pointer moves only under the tenant's token, and never over another's."""
    lost, begun = _taken(world), _begun(world)
    world.pass_time(world.settings.lease_seconds + 1)
    with pytest.raises(Fenced):
        world.registry.go_live(lost, begun)
    assert world.registry.live(ADA) is None
    lease, second = _taken(world), _begun(world)
    world.registry.go_live(lease, begun)
    with pytest.raises(Fenced):
        world.registry.go_live(lease, second)


def test_an_abandoned_generation_is_live_no_more_and_counted(world: World) -> None:
    """The next sync builds another; how often that happened within an hour is known."""
    lease, begun = _taken(world), _begun(world)
    world.registry.go_live(lease, begun)
    assert world.registry.recently_abandoned(ADA) == 0
    world.registry.abandon(lease, begun.id)
    assert world.registry.live(ADA) is None
    assert world.registry.recently_abandoned(ADA) == 1
    assert world.registry.recently_abandoned(BOB) == 0


def test_nobody_abandons_without_the_lease(world: World) -> None:
    """A worker that lost the tenant cannot take its collection away."""
    lease, begun = _taken(world), _begun(world)
    world.registry.go_live(lease, begun)
    world.pass_time(world.settings.lease_seconds + 1)
    with pytest.raises(Fenced):
        world.registry.abandon(lease, begun.id)
    assert world.registry.live(ADA) is not None


def test_registering_twice_is_registering_once(world: World) -> None:
    """A tenant keeps its partition key."""
    assert world.registry.register(ADA) == world.registry.register(ADA)
