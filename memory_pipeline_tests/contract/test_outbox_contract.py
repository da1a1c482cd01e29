"""What the outbox and the leases promise: fake and Postgres alike."""

import pytest

from memory_pipeline.domain.changes import Change, Claim
from memory_pipeline.domain.outcomes import Failure
from memory_pipeline.domain.types import MemoryId, TenantId
from memory_pipeline.errors import Fenced
from memory_pipeline_tests.contract.worlds import (
    ADA,
    BOB,
    World,
    ack,
    drained,
    taken,
)

# ---- leases


def test_only_one_worker_has_a_tenant(world: World) -> None:
    """A lease that stands keeps everybody else out, and no other tenant."""
    taken(world)
    assert world.outbox.acquire_lease(ADA) is None
    assert world.outbox.acquire_lease(BOB) is not None


def test_an_unregistered_tenant_has_no_lease(world: World) -> None:
    """A tenant is registered before it is written."""
    assert world.outbox.acquire_lease(TenantId("nobody")) is None


def test_a_released_lease_can_be_taken_with_a_larger_token(world: World) -> None:
    """The token only grows, so an old one can never be mistaken for a new one."""
    first = taken(world)
    world.outbox.release_lease(first)
    second = taken(world)
    assert second.token > first.token


def test_a_lease_runs_out_and_its_holder_is_fenced(world: World) -> None:
    """A worker that stopped renewing loses the tenant: nothing it says counts from then on."""
    memory = world.put("ada")
    stale = taken(world)
    claim = world.outbox.claim(stale)
    world.pass_time(world.settings.lease_seconds + 1)
    with pytest.raises(Fenced):
        stale.renew()
    with pytest.raises(Fenced):
        world.outbox.claim(stale)
    with pytest.raises(Fenced):
        ack(world, stale, claim)
    taker = taken(world)
    world.outbox.release_lease(stale, error="too late")
    assert world.outbox.acquire_lease(ADA) is None
    assert world.outbox.claim(taker).memory_ids == (memory,)


def test_holding_renews_and_tells_less_time_than_the_lease(world: World) -> None:
    """A call made under a lease ends before the lease does."""
    lease = taken(world)
    for _ in range(3):
        world.pass_time(world.settings.lease_seconds - 1)
        assert 0 < lease.renew() <= world.settings.request_seconds
    assert world.outbox.acquire_lease(ADA) is None


# ---- claim and ack


def test_a_claim_takes_the_oldest_changes_first_and_no_more_than_a_batch(world: World) -> None:
    """Changes are claimed in the order in which they were made, a batch at a time."""
    memories = [world.put("ada") for _ in range(6)]
    other = world.put("bob")
    lease = taken(world)
    claim = world.outbox.claim(lease)
    assert [c.memory_id for c in claim.changes] == memories[:4]
    assert [c.seq for c in claim.changes] == sorted(c.seq for c in claim.changes)
    ack(world, lease, claim)
    assert world.outbox.claim(lease).memory_ids == tuple(memories[4:])
    assert world.pending(BOB) == 1
    assert other not in memories


def test_what_was_acked_is_forgotten(world: World) -> None:
    """After the ack nothing is pending, and no confirm is needed."""
    world.put("ada")
    assert drained(world) != []
    assert world.pending(ADA) == 0


def test_a_change_made_after_the_claim_survives_the_ack(world: World) -> None:
    """An update that comes while its memory is being written is not lost with the older change."""
    memory = world.put("ada")
    lease = taken(world)
    claim = world.outbox.claim(lease)
    world.put("ada", '{"n": 2}', memory_id=memory)
    ack(world, lease, claim)
    assert world.outbox.claim(lease).memory_ids == (memory,)


def test_a_move_is_a_change_of_both_tenants(world: World) -> None:
    """The old tenant has something to delete, the new one something to write."""
    memory = world.put("ada")
    drained(world)
    world.put("bob", memory_id=memory)
    assert drained(world, ADA) == [memory]
    assert drained(world, BOB) == [memory]


def test_a_delete_is_a_change(world: World) -> None:
    """A memory that is gone is looked at once more."""
    memory = world.put("ada")
    drained(world)
    world.delete(memory)
    assert drained(world) == [memory]


def test_a_truncate_is_a_reset_of_every_registered_tenant(world: World) -> None:
    """TRUNCATE names no rows, so each tenant is reconciled as a whole."""
    world.put("ada")
    drained(world)
    world.truncate()
    assert set(world.due_tenants()) == {"ada", "bob"}
    for tenant in (ADA, BOB):
        claim = world.outbox.claim(taken(world, tenant))
        assert claim.resets
        assert claim.memory_ids == ()


# ---- what is enqueued, what is due


def test_what_is_enqueued_is_looked_at_as_if_it_had_changed(world: World) -> None:
    """Each memory once, whether it exists or not; and nothing where nothing is named."""
    world.outbox.enqueue(ADA, [MemoryId(5), MemoryId(-7), MemoryId(5)])
    world.outbox.enqueue(ADA, [])
    assert world.pending(ADA) == 2
    assert world.pending(BOB) == 0
    assert drained(world) == [-7, 5]


def test_a_claim_tells_what_no_application_has_changed(world: World) -> None:
    """Who looks for what is hidden must not look at what he has had written again, for ever."""
    memory = world.put("ada")
    world.outbox.enqueue(ADA, [memory])
    assert [c.recheck for c in world.outbox.claim(taken(world)).changes] == [False, True]


def test_a_tenant_is_due_while_something_can_be_claimed(world: World) -> None:
    """What waits for its time is not due before it, and what was acked is not due at all."""
    assert not world.outbox.has_due_changes(ADA)
    memory = world.put("ada")
    assert world.outbox.has_due_changes(ADA)
    assert not world.outbox.has_due_changes(BOB)
    lease = taken(world)
    ack(world, lease, world.outbox.claim(lease), missed=(memory,))
    assert not world.outbox.has_due_changes(ADA)
    world.pass_time(1)
    assert world.outbox.has_due_changes(ADA)
    ack(world, lease, world.outbox.claim(lease))
    assert not world.outbox.has_due_changes(ADA)


def test_the_newest_change_is_told_whether_it_is_due_or_not(world: World) -> None:
    """A sync ends with what waited when it began, however fast an application writes."""
    assert world.outbox.newest_seq(ADA) == 0
    world.put("ada")
    first = world.outbox.newest_seq(ADA)
    world.put("bob")
    assert world.outbox.newest_seq(ADA) == first > 0
    missed = world.put("ada")
    lease = taken(world)
    claim = world.outbox.claim(lease)
    assert world.outbox.newest_seq(ADA) == claim.changes[-1].seq > first
    ack(world, lease, claim, missed=(missed,))
    assert world.outbox.newest_seq(ADA) == claim.changes[-1].seq
    assert not world.outbox.has_due_changes(ADA)


def test_what_somebody_else_has_claimed_is_due(world: World) -> None:
    """A claim is no promise: its holder may be dead, and the lease alone keeps others out."""
    world.put("ada")
    world.outbox.claim(taken(world))
    assert world.outbox.has_due_changes(ADA)


# ---- takeovers and confirms


def test_a_takeover_schedules_a_confirm_after_the_grace(world: World) -> None:
    """What a lost worker may have sent can land late, so it is looked at again when it cannot."""
    memory = world.put("ada")
    lost = taken(world)
    world.outbox.claim(lost)
    world.pass_time(world.settings.lease_seconds + 1)
    assert drained(world) == [memory]
    assert world.confirms(ADA) == {memory}
    assert world.pending(ADA) == 1
    assert drained(world) == []
    world.pass_time(world.settings.request_seconds + world.settings.grace_seconds)
    assert drained(world) == [memory]
    assert world.pending(ADA) == 0


def test_the_confirm_of_memory_nought_is_scheduled_too(world: World) -> None:
    """Nought is an id like any other: what was claimed before gets its confirm."""
    world.put("ada", memory_id=0)
    world.outbox.claim(taken(world))
    world.pass_time(world.settings.lease_seconds + 1)
    world.outbox.claim(taken(world))
    assert world.confirms(ADA) == {0}


def test_claiming_again_under_the_same_token_schedules_a_confirm(world: World) -> None:
    """An unknown outcome of one's own is as dangerous as somebody else's."""
    memory = world.put("ada")
    lease = taken(world)
    world.outbox.claim(lease)
    claim = world.outbox.claim(lease)
    ack(world, lease, claim)
    assert world.confirms(ADA) == {memory}


def test_another_takeover_moves_the_confirm_out(world: World) -> None:
    """A confirm that is itself taken over waits for the newest request that may be on its way."""
    memory = world.put("ada")
    world.outbox.claim(taken(world))
    world.pass_time(world.settings.lease_seconds + 1)
    world.outbox.claim(taken(world))
    world.pass_time(world.settings.request_seconds + world.settings.grace_seconds - 1)
    world.pass_time(world.settings.lease_seconds)
    lease = taken(world)
    claim = world.outbox.claim(lease)
    assert claim.memory_ids == (memory,)
    ack(world, lease, claim)
    assert world.confirms(ADA) == {memory}
    assert world.outbox.claim(lease).changes == ()


def test_what_is_let_go_needs_no_confirm(world: World) -> None:
    """Nothing was sent for it, so nothing can land late."""
    memory = world.put("ada")
    lease = taken(world)
    world.outbox.unclaim(lease, world.outbox.claim(lease))
    claim = world.outbox.claim(lease)
    assert claim.memory_ids == (memory,)
    assert world.confirms(ADA) == set()


def test_a_reset_that_is_taken_over_needs_no_confirm_of_its_own(world: World) -> None:
    """A reset writes nothing by itself: what it finds is enqueued by name."""
    world.truncate()
    world.due_tenants()
    world.outbox.claim(taken(world))
    world.pass_time(world.settings.lease_seconds + 1)
    assert world.outbox.claim(taken(world)).resets
    assert world.confirms(ADA) == set()


def test_an_ack_forgets_only_what_its_own_token_claimed(world: World) -> None:
    """A claim that another token has taken over meanwhile is no longer one's to forget."""
    world.put("ada")
    lease = taken(world)
    claim = world.outbox.claim(lease)
    forged = Claim(tuple(Change(c.seq + 10**6, c.memory_id) for c in claim.changes), claim.targets)
    ack(world, lease, forged)
    assert world.pending(ADA) == 1


# ---- failures


def test_attempts_are_counted_and_the_memory_is_buried_at_the_limit(world: World) -> None:
    """A memory that always fails is tried so often and no more; then nothing of it is pending."""
    memory = world.put("ada")
    buried = []
    for _ in range(world.settings.max_attempts):
        lease = taken(world)
        claim = world.outbox.claim(lease)
        buried.append(ack(world, lease, claim, failures=(Failure(memory, "refused"),)))
        assert world.outbox.claim(lease).changes == ()
        world.outbox.release_lease(lease)
        world.pass_time(world.settings.retry_seconds)
    assert buried == [0, 0, 1]
    assert world.attempts(ADA, memory) == (3, True)
    assert world.pending(ADA) == 0


def test_attempts_survive_an_update(world: World) -> None:
    """A memory that is updated all the time is buried all the same."""
    memory = world.put("ada")
    for n in range(world.settings.max_attempts):
        lease = taken(world)
        claim = world.outbox.claim(lease)
        ack(world, lease, claim, failures=(Failure(memory, "refused"),))
        world.outbox.release_lease(lease)
        world.put("ada", f'{{"n": {n + 10}}}', memory_id=memory)
    assert world.attempts(ADA, memory) == (3, True)


def test_success_clears_the_attempts(world: World) -> None:
    """What landed starts anew."""
    memory = world.put("ada")
    lease = taken(world)
    ack(world, lease, world.outbox.claim(lease), failures=(Failure(memory, "refused"),))
    world.pass_time(world.settings.retry_seconds)
    lease.renew()
    ack(world, lease, world.outbox.claim(lease))
    assert world.attempts(ADA, memory) is None


def test_a_missed_memory_is_tried_again_soon_and_charged_nothing(world: World) -> None:
    """A row that moved or was locked is nobody's fault."""
    missed, landed = world.put("ada"), world.put("ada")
    lease = taken(world)
    claim = world.outbox.claim(lease)
    ack(world, lease, claim, missed=(missed,))
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
    lease = taken(world)
    claim = world.outbox.claim(lease)
    ack(world, lease, claim, recheck=(MemoryId(5), MemoryId(-7)))
    claim = world.outbox.claim(lease)
    assert claim.memory_ids == (-7, 5)
    assert not claim.resets


# ---- pauses


def test_a_tenant_waits_after_an_error_longer_each_time(world: World) -> None:
    """An outage is not hammered; asking for paused tenants shows them all the same."""
    world.put("ada")
    for pause_seconds in (2.0, 4.0, 8.0):
        world.outbox.release_lease(taken(world), error="Chroma is down")
        assert world.due_tenants() == []
        assert world.due_tenants(paused=True) == ["ada"]
        world.pass_time(pause_seconds * 0.7)
        assert world.due_tenants() == []
        world.pass_time(pause_seconds * 0.6)
        assert world.due_tenants() == ["ada"]


def test_success_ends_the_pause(world: World) -> None:
    """After a sync that went well the next error pauses for the shortest time again."""
    world.put("ada")
    world.outbox.release_lease(taken(world), error="Chroma is down")
    world.outbox.release_lease(taken(world))
    assert world.due_tenants() == ["ada"]
    world.outbox.release_lease(taken(world), error="Chroma is down")
    world.pass_time(2.0 * 1.3)
    assert world.due_tenants() == ["ada"]


def test_tenants_with_the_oldest_change_come_first(world: World) -> None:
    """Nobody waits behind a tenant that came later."""
    world.put("bob")
    world.put("ada")
    world.put("bob")
    assert world.due_tenants() == ["bob", "ada"]


def test_what_is_in_hand_is_nobody_elses_to_do(world: World) -> None:
    """A change claimed under a lease that stands is not offered again; a newer one is."""
    world.put("ada")
    lease = taken(world)
    assert world.due_tenants() == ["ada"]
    claim = world.outbox.claim(lease)
    assert world.due_tenants() == []
    world.put("ada")
    assert world.due_tenants() == ["ada"]
    ack(world, lease, claim)
    world.outbox.release_lease(lease)
    assert world.due_tenants() == ["ada"]


def test_what_a_lost_worker_had_in_hand_is_offered_again(world: World) -> None:
    """Its lease has run out, so others may take it over."""
    world.put("ada")
    world.outbox.claim(taken(world))
    assert world.due_tenants() == []
    world.pass_time(world.settings.lease_seconds + 1)
    assert world.due_tenants() == ["ada"]
