"""What the parts of rebuilds promise, fake and Postgres alike: who fills what, and how far."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from uuid import uuid4

import pytest

from memory_pipeline.domain.types import (
    Checkpoint,
    Generation,
    MemoryId,
    ProvenanceUpdate,
    RebuildId,
    RebuildPart,
)
from memory_pipeline.errors import Fenced
from memory_pipeline.ports import Lease
from memory_pipeline_tests.contract.worlds import (
    ADA,
    BOB,
    OURS,
    World,
    begun,
    damage,
    drained,
    flipped,
    owned,
    registered,
    taken,
    went_live,
)

FIRST, SECOND = RebuildId("first"), RebuildId("second")


def _died(world: World) -> None:
    """Let every lease and every ownership run out, as if their holders had been frozen."""
    world.pass_time(world.rebuilds.redo_seconds + 1)


def _chunk(
    world: World,
    part: RebuildPart,
    lease: Lease,
    generation: Generation,
    through: int,
    *,
    recheck: tuple[int, ...] = (),
) -> None:
    """Record a chunk of five documents as done; three of them had their vectors."""
    world.rebuilds.record_chunk(
        part,
        lease,
        generation,
        through=MemoryId(through),
        provenance={MemoryId(through): ProvenanceUpdate(OURS)},
        recheck=[MemoryId(i) for i in recheck],
        landed=[MemoryId(i) for i in range(through - 4, through + 1)],
        embedded=2,
    )


# ---- who owns a part


def test_a_part_has_one_owner_at_a_time(world: World) -> None:
    """The second who asks is refused while the first lives, and nothing is done yet."""
    world.ask(FIRST, ADA)
    assert world.rebuilds.part_state(FIRST, ADA) == "waiting"
    owned(world, FIRST)
    assert world.rebuilds.acquire_part(FIRST, ADA) is None
    assert world.rebuilds.part_state(FIRST, ADA) == "running"


def test_an_owner_whose_time_has_run_out_is_taken_over(world: World) -> None:
    """Another process goes on with the part, and what the first says counts no more."""
    dead = owned(world, FIRST)
    generation = registered(world, dead)
    _died(world)
    successor = world.rebuilds.acquire_part(FIRST, ADA)
    assert successor is not None
    assert successor.owner != dead.owner
    lease = taken(world)
    assert not world.rebuilds.may_fill(dead, lease, generation)
    assert world.rebuilds.may_fill(successor, lease, generation)
    before = world.everything()
    with pytest.raises(Fenced):
        world.rebuilds.renew_part(dead)
    world.rebuilds.fail_part(dead, "too late")
    assert world.everything() == before


def test_an_owner_that_goes_on_saying_so_keeps_its_part(world: World) -> None:
    """However long a rebuild takes, nobody takes over from an owner that lives."""
    part = owned(world, FIRST)
    for _ in range(3):
        world.pass_time(world.rebuilds.redo_seconds - 1)
        world.rebuilds.renew_part(part)
    assert world.rebuilds.acquire_part(FIRST, ADA) is None


def test_an_owner_whose_time_has_run_out_unnoticed_goes_on(world: World) -> None:
    """Time alone takes nothing away: only somebody who took over does."""
    part = owned(world, FIRST)
    _died(world)
    world.rebuilds.renew_part(part)
    assert world.rebuilds.acquire_part(FIRST, ADA) is None


def test_an_ownership_lasts_as_long_as_a_request_may_be_on_its_way(world: World) -> None:
    """Who takes over can write the last chunk again at once: what was sent has landed or died."""
    settings = world.settings
    assert world.rebuilds.redo_seconds >= settings.lease_seconds
    assert world.rebuilds.redo_seconds >= settings.request_seconds + settings.grace_seconds
    owned(world, FIRST)
    world.pass_time(world.rebuilds.redo_seconds - 1)
    assert world.rebuilds.acquire_part(FIRST, ADA) is None


def test_two_rebuilds_never_have_the_same_tenant(world: World) -> None:
    """The second waits for the first; of other tenants it has its own part."""
    owned(world, FIRST)
    world.ask(SECOND, ADA, BOB)
    assert world.rebuilds.acquire_part(SECOND, ADA) is None
    assert world.rebuilds.part_state(SECOND, ADA) == "waiting"
    assert world.rebuilds.acquire_part(SECOND, BOB) is not None


def test_a_rebuild_whose_process_is_gone_gives_way_to_another(world: World) -> None:
    """The tenant is the second's; the first may have its part again when that has ended."""
    dead = owned(world, FIRST)
    _died(world)
    part = owned(world, SECOND)
    with pytest.raises(Fenced):
        world.rebuilds.renew_part(dead)
    assert world.rebuilds.part_state(FIRST, ADA) == "failed"
    assert world.rebuilds.acquire_part(FIRST, ADA) is None
    world.rebuilds.fail_part(part, "stopped")
    assert world.rebuilds.acquire_part(FIRST, ADA) is not None


def test_nobody_owns_what_was_never_asked_for(world: World) -> None:
    """A part is noted before it is begun, so that a rebuild that was cut off is known."""
    assert world.rebuilds.acquire_part(FIRST, ADA) is None
    assert world.rebuilds.part_state(FIRST, ADA) is None
    world.ask(FIRST, BOB)
    assert world.rebuilds.acquire_part(FIRST, ADA) is None


def test_asking_again_changes_nothing(world: World) -> None:
    """A rebuild that goes on keeps what it was asked for, and what it has done."""
    world.ask(FIRST, ADA, re_embed=True)
    world.ask(FIRST, ADA, BOB)
    part = world.rebuilds.acquire_part(FIRST, ADA)
    assert part is not None
    assert part.re_embed
    flipped(world, part, registered(world, part))
    world.ask(FIRST, ADA, re_embed=True)
    assert world.rebuilds.part_state(FIRST, ADA) == "done"
    other = world.rebuilds.acquire_part(FIRST, BOB)
    assert other is not None
    assert not other.re_embed


def test_what_is_done_is_owned_by_nobody_again(world: World) -> None:
    """A rebuild that was cut off passes over the tenants that it has done."""
    part = owned(world, FIRST)
    flipped(world, part, registered(world, part))
    assert world.rebuilds.acquire_part(FIRST, ADA) is None
    assert world.rebuilds.part_state(FIRST, ADA) == "done"
    with pytest.raises(Fenced):
        world.rebuilds.renew_part(part)
    assert world.rebuilds.acquire_part(SECOND, ADA) is None
    world.ask(SECOND, ADA)
    assert world.rebuilds.acquire_part(SECOND, ADA) is not None


def test_a_part_that_failed_can_be_owned_again_by_the_same_rebuild(world: World) -> None:
    """What was filled stays, and is gone on with."""
    part = owned(world, FIRST)
    generation = registered(world, part)
    _chunk(world, part, taken(world), generation, 7)
    world.rebuilds.fail_part(part, "Chroma is down")
    assert world.rebuilds.part_state(FIRST, ADA) == "failed"
    with pytest.raises(Fenced):
        world.rebuilds.renew_part(part)
    recheck = world.rebuilds.acquire_part(FIRST, ADA)
    assert recheck is not None
    building = world.registry.building(ADA)
    assert building is not None
    assert building.id == generation.id
    assert world.rebuilds.checkpoint(building) == Checkpoint(MemoryId(7))
    assert world.rebuilds.may_fill(recheck, taken(world), building)


def test_a_part_that_is_laid_down_is_free_at_once(world: World) -> None:
    """Whoever was told to stop leaves what was filled; this rebuild or another goes on with it."""
    part = owned(world, FIRST)
    generation = registered(world, part)
    _chunk(world, part, taken(world), generation, 7)
    world.rebuilds.release_part(part)
    assert world.rebuilds.part_state(FIRST, ADA) == "waiting"
    assert world.rebuilds.checkpoint(generation) == Checkpoint(MemoryId(7))
    with pytest.raises(Fenced):
        world.rebuilds.renew_part(part)
    second = owned(world, SECOND)
    world.rebuilds.release_part(second)
    recheck = world.rebuilds.acquire_part(FIRST, ADA)
    assert recheck is not None
    assert world.rebuilds.may_fill(recheck, taken(world), generation)


def test_what_another_owns_by_now_is_not_laid_down(world: World) -> None:
    """Whoever stops too late stops nobody else."""
    dead = owned(world, FIRST)
    _died(world)
    assert world.rebuilds.acquire_part(FIRST, ADA) is not None
    before = world.everything()
    world.rebuilds.release_part(dead)
    assert world.everything() == before
    assert world.rebuilds.part_state(FIRST, ADA) == "running"


# ---- which generation is built


def test_a_generation_that_is_registered_is_written_by_every_batch(world: World) -> None:
    """From that moment on claims name it after the live one; searches do not see it."""
    live = went_live(world)
    part, generation = owned(world), begun(world)
    lease = taken(world)
    world.rebuilds.register_building(part, lease, generation)
    building = world.registry.building(ADA)
    assert building == replace(generation, state="building")
    found = world.registry.live(ADA)
    assert found is not None
    assert found.id == live.id
    assert [g.id for g in world.outbox.claim(lease).targets] == [live.id, generation.id]
    assert world.rebuilds.checkpoint(building) == Checkpoint()
    assert world.registry.building(BOB) is None


def test_what_is_being_filled_tells_whether_vectors_are_computed_anew(world: World) -> None:
    """Half of it with old vectors is of no use to a rebuild that computes all of them."""
    world.ask(FIRST, ADA, re_embed=True)
    part = world.rebuilds.acquire_part(FIRST, ADA)
    assert part is not None
    generation = registered(world, part)
    assert world.rebuilds.checkpoint(generation) == Checkpoint(None, re_embed=True)


def test_another_rebuild_goes_on_from_where_one_was_left(world: World) -> None:
    """Whoever filled it last knows how far it is."""
    first = owned(world, FIRST)
    generation = registered(world, first)
    _chunk(world, first, taken(world), generation, 5)
    _died(world)
    second = owned(world, SECOND)
    reading = world.rebuilds.checkpoint(generation)
    assert reading == Checkpoint(MemoryId(5))
    world.rebuilds.resume_part(second, generation, reading)
    assert world.rebuilds.may_fill(second, taken(world), generation)
    _died(world)
    _chunk(world, second, taken(world), generation, 9)
    assert world.rebuilds.checkpoint(generation) == Checkpoint(MemoryId(9))


def test_whoever_goes_on_again_knows_what_another_has_filled(world: World) -> None:
    """What broke: the part that began last was asked, also where an older one was gone on with."""
    world.ask(FIRST, ADA, re_embed=True)
    first = world.rebuilds.acquire_part(FIRST, ADA)
    assert first is not None
    generation = registered(world, first)
    _chunk(world, first, taken(world), generation, 5)
    _died(world)
    second = owned(world, SECOND)
    world.rebuilds.resume_part(second, generation, world.rebuilds.checkpoint(generation))
    _chunk(world, second, taken(world), generation, 10)
    _died(world)
    recheck = world.rebuilds.acquire_part(FIRST, ADA)
    assert recheck is not None
    world.rebuilds.resume_part(recheck, generation, world.rebuilds.checkpoint(generation))
    _chunk(world, recheck, taken(world), generation, 15)
    assert world.rebuilds.checkpoint(generation) == Checkpoint(MemoryId(15))


def test_nothing_is_known_of_a_generation_that_nobody_fills(world: World) -> None:
    """It is filled from its beginning."""
    registered(world, owned(world))
    assert world.rebuilds.checkpoint(begun(world)) == Checkpoint()


@dataclass(frozen=True, slots=True, eq=False)
class Filling:
    """What a rebuild has in its hands while it writes a chunk."""

    part: RebuildPart
    lease: Lease
    generation: Generation


@pytest.fixture
def filling(world: World) -> Filling:
    """Return a rebuild of ada in the middle of a chunk, beside a live generation."""
    went_live(world)
    part = owned(world, FIRST)
    generation = registered(world, part)
    return Filling(part, taken(world), generation)


def _stale_token(world: World, filling: Filling) -> Filling:
    """Let somebody else take the lease over."""
    world.pass_time(world.settings.lease_seconds + 1)
    taken(world)
    return filling


def _expired_lease(world: World, filling: Filling) -> Filling:
    """Let the lease run out, without anybody who takes it."""
    world.pass_time(world.settings.lease_seconds + 1)
    return filling


def _lease_given_back(world: World, filling: Filling) -> Filling:
    """Give the lease back too early."""
    world.rebuilds.return_lease(filling.lease)
    return filling


def _given_up(world: World, filling: Filling) -> Filling:
    """Let a batch give the generation up, because it could not write it."""
    world.registry.abandon(filling.lease, filling.generation.id)
    return filling


def _another_building(world: World, filling: Filling) -> Filling:
    """Let the generation be given up, and another be the building one."""
    world.registry.abandon(filling.lease, filling.generation.id)
    world.rebuilds.register_building(filling.part, filling.lease, begun(world))
    return filling


def _taken_over(world: World, filling: Filling) -> Filling:
    """Let another process own the part by now, while the lease is ours."""
    _died(world)
    assert world.rebuilds.acquire_part(FIRST, ADA) is not None
    return replace(filling, lease=taken(world))


def _closed(world: World, filling: Filling) -> Filling:
    """Close the part before."""
    world.rebuilds.fail_part(filling.part, "stopped")
    return filling


LOSSES = [
    _stale_token,
    _expired_lease,
    _lease_given_back,
    _given_up,
    _another_building,
    _taken_over,
    _closed,
]
Loss = Callable[[World, Filling], Filling]


@pytest.mark.parametrize(
    "loss",
    [_stale_token, _expired_lease, _lease_given_back, _taken_over, _closed],
)
def test_nobody_registers_a_generation_without_the_lease_and_the_part(
    world: World, loss: Loss
) -> None:
    """Which generation is built is said under the tenant's token, by the owner, or not at all."""
    went_live(world)
    filling = loss(world, Filling(owned(world, FIRST), taken(world), begun(world)))
    before = world.everything()
    with pytest.raises(Fenced):
        world.rebuilds.register_building(filling.part, filling.lease, filling.generation)
    assert world.everything() == before


def test_a_tenant_has_one_building_generation(world: World, filling: Filling) -> None:
    """Nobody's half-filled generation is forgotten for another: it is given up by name first."""
    second = begun(world)
    before = world.everything()
    with pytest.raises(Fenced):
        world.rebuilds.register_building(filling.part, filling.lease, second)
    assert world.everything() == before
    world.registry.abandon(filling.lease, filling.generation.id)
    world.rebuilds.register_building(filling.part, filling.lease, second)


@pytest.mark.parametrize("loss", [_taken_over, _closed])
def test_nobody_resumes_without_the_part(world: World, filling: Filling, loss: Loss) -> None:
    """How far a generation is filled is said by its owner alone."""
    filling = loss(world, filling)
    before = world.everything()
    with pytest.raises(Fenced):
        world.rebuilds.resume_part(filling.part, filling.generation, Checkpoint(MemoryId(99)))
    assert world.everything() == before


# ---- chunks


def test_a_chunk_that_is_done_is_recorded_and_gives_the_lease_back(
    world: World, filling: Filling
) -> None:
    """How far, how many, where vectors come from, what a batch shall see to: all at once."""
    memory = world.put("ada")
    _chunk(world, filling.part, filling.lease, filling.generation, memory, recheck=(3, -3, 3))
    assert world.rebuilds.checkpoint(filling.generation) == Checkpoint(memory)
    assert world.counted(FIRST, ADA) == (3, 2)
    rows, _ = world.memories.read([memory])
    assert rows[memory].provenance == OURS
    claim = world.outbox.claim(taken(world))
    assert [c.memory_id for c in claim.changes] == [memory, -3, 3]


def test_the_figures_of_chunks_add_up(world: World, filling: Filling) -> None:
    """A rebuild tells what it has done in all its attempts."""
    _chunk(world, filling.part, filling.lease, filling.generation, 5)
    _chunk(world, filling.part, taken(world), filling.generation, 10)
    assert world.counted(FIRST, ADA) == (6, 4)
    assert world.rebuilds.checkpoint(filling.generation) == Checkpoint(MemoryId(10))


def test_a_chunk_that_is_done_renews_the_ownership(world: World, filling: Filling) -> None:
    """An owner that gets on need not say anything else."""
    world.pass_time(world.settings.lease_seconds - 1)
    filling.lease.renew()
    _chunk(world, filling.part, filling.lease, filling.generation, 5)
    world.pass_time(world.rebuilds.redo_seconds - 1)
    assert world.rebuilds.acquire_part(FIRST, ADA) is None


@pytest.mark.parametrize("loss", LOSSES)
def test_a_chunk_is_recorded_only_by_who_could_write_it(
    world: World, filling: Filling, loss: Loss
) -> None:
    """Under a lost lease, for another generation or by a dead owner nothing is recorded at all."""
    filling = loss(world, filling)
    assert not world.rebuilds.may_fill(filling.part, filling.lease, filling.generation)
    before = world.everything()
    with pytest.raises(Fenced):
        _chunk(world, filling.part, filling.lease, filling.generation, 5, recheck=(3,))
    assert world.everything() == before


def test_who_may_fill_names_the_very_generation(world: World, filling: Filling) -> None:
    """The token alone is no leave to write somewhere else."""
    part, lease = filling.part, filling.lease
    assert world.rebuilds.may_fill(part, lease, filling.generation)
    assert not world.rebuilds.may_fill(part, lease, begun(world))
    assert not world.rebuilds.may_fill(replace(part, owner=uuid4().hex), lease, filling.generation)


# ---- the flip


def test_a_flip_lets_searches_go_to_what_was_built(world: World, filling: Filling) -> None:
    """The old generation is retired, the lease is free, the pause is over, the part is done."""
    old = world.registry.live(ADA)
    assert old is not None
    world.put("ada")
    world.outbox.release_lease(filling.lease, error="Chroma is down")
    lease = taken(world)
    world.rebuilds.flip(filling.part, lease, filling.generation, memories=5)
    live = world.registry.live(ADA)
    assert live == replace(filling.generation, state="live")
    assert world.registry.building(ADA) is None
    assert world.state(old.id) == "retired"
    assert world.rebuilds.part_state(FIRST, ADA) == "done"
    assert world.due_tenants() == ["ada"]
    assert [g.id for g in world.outbox.claim(taken(world)).targets] == [filling.generation.id]


@pytest.mark.parametrize("loss", LOSSES)
def test_nobody_flips_who_could_not_fill(world: World, filling: Filling, loss: Loss) -> None:
    """A pointer never moves under a lost lease, to another generation, or for a dead owner."""
    world.put("ada")
    filling = loss(world, filling)
    before = world.everything()
    with pytest.raises(Fenced):
        world.rebuilds.flip(filling.part, filling.lease, filling.generation, memories=0)
    assert world.everything() == before


def test_a_tenants_first_generation_may_come_from_a_rebuild(world: World) -> None:
    """Where nothing is live there is nothing to retire, and what waited is covered."""
    world.put("ada")
    part = owned(world)
    generation = registered(world, part)
    assert world.registry.live(ADA) is None
    flipped(world, part, generation)
    live = world.registry.live(ADA)
    assert live is not None
    assert live.id == generation.id
    assert world.pending(ADA) == 0


def test_a_damaged_generation_that_a_flip_replaces_is_not_called_retired(world: World) -> None:
    """That it was damaged stays known."""
    old = went_live(world)
    damage(world)
    part = owned(world)
    flipped(world, part, registered(world, part))
    assert world.state(old.id) == "corrupt"
    assert world.damaged() == []


# ---- what a rebuild covers


def test_beside_a_live_generation_every_change_is_claimed(world: World) -> None:
    """A tenant under rebuild stays as fresh as any other, and a flip acks nothing."""
    went_live(world)
    memory = world.put("ada")
    part = owned(world)
    generation = registered(world, part)
    assert world.outbox.has_due_changes(ADA)
    assert world.outbox.claim(taken(world)).memory_ids == (memory,)
    world.pass_time(world.settings.lease_seconds + 1)
    waiting = world.put("ada")
    flipped(world, part, generation)
    assert drained(world) == [memory, waiting]


def test_without_a_live_generation_what_waits_is_covered_by_the_rebuild(world: World) -> None:
    """Reading the rows brings it along: nobody claims it, and the flip acks it."""
    went_live(world)
    damage(world)
    covered = [world.put("ada") for _ in range(3)]
    world.truncate()
    assert world.due_tenants() == ["ada", "bob"]
    drained(world, BOB)
    part = owned(world)
    generation = registered(world, part)
    assert world.due_tenants() == []
    assert not world.outbox.has_due_changes(ADA)
    assert world.outbox.claim(taken(world)).changes == ()
    assert world.pending(ADA) == len(covered) + 1
    world.pass_time(world.settings.lease_seconds + 1)
    flipped(world, part, generation)
    assert world.pending(ADA) == 0


def test_what_changes_after_the_registration_is_claimed_and_stays_at_the_flip(
    world: World,
) -> None:
    """The row may have been read before: only a batch brings it."""
    went_live(world)
    damage(world)
    memory = world.put("ada")
    part = owned(world)
    generation = registered(world, part)
    world.put("ada", '{"n": 2}', memory_id=memory)
    later = world.put("ada")
    assert world.outbox.has_due_changes(ADA)
    assert world.due_tenants() == ["ada"]
    flipped(world, part, generation)
    assert world.pending(ADA) == 2
    assert drained(world) == [memory, later]


def test_what_was_claimed_before_is_not_covered(world: World) -> None:
    """A request for it may still be on its way: it is written again, with a confirm."""
    went_live(world)
    sent = world.put("ada")
    world.outbox.claim(taken(world))
    world.pass_time(world.settings.lease_seconds + 1)
    damage(world)
    part = owned(world)
    generation = registered(world, part)
    flipped(world, part, generation)
    assert drained(world) == [sent]
    assert world.confirms(ADA) == {sent}


def test_a_confirm_is_not_covered(world: World) -> None:
    """It is about a request that may land in what is being built."""
    went_live(world)
    memory = world.put("ada")
    world.outbox.claim(taken(world))
    world.pass_time(world.settings.lease_seconds + 1)
    assert drained(world) == [memory]
    assert world.confirms(ADA) == {memory}
    damage(world)
    part = owned(world)
    flipped(world, part, registered(world, part))
    assert world.confirms(ADA) == {memory}


def test_another_tenants_changes_are_not_covered(world: World) -> None:
    """A rebuild of one tenant says nothing of another."""
    mine, other = world.put("ada"), world.put("bob")
    part = owned(world)
    generation = registered(world, part)
    assert world.due_tenants() == ["bob"]
    flipped(world, part, generation)
    assert drained(world, BOB) == [other]
    assert mine != other


def test_what_was_covered_is_claimed_again_when_the_generation_is_given_up(world: World) -> None:
    """Nobody reads the rows for it any more; a later rebuild covers it anew."""
    went_live(world)
    damage(world)
    memory = world.put("ada")
    part = owned(world)
    generation = registered(world, part)
    assert not world.outbox.has_due_changes(ADA)
    lease = taken(world)
    world.registry.abandon(lease, generation.id)
    assert world.outbox.has_due_changes(ADA)
    assert world.due_tenants() == ["ada"]
    claim = world.outbox.claim(lease)
    assert claim.memory_ids == (memory,)
    world.outbox.unclaim(lease, claim)
    second = begun(world)
    world.rebuilds.register_building(part, lease, second)
    assert not world.outbox.has_due_changes(ADA)
    world.rebuilds.flip(part, lease, second, memories=0)
    assert world.pending(ADA) == 0


# ---- leases


def test_a_lease_that_is_given_back_is_free_and_says_nothing_of_a_sync(world: World) -> None:
    """A rebuild that only looked does not end the pause after an error, nor clear it."""
    world.put("ada")
    world.outbox.release_lease(taken(world), error="Chroma is down")
    lease = taken(world)
    world.rebuilds.return_lease(lease)
    assert world.due_tenants() == []
    assert world.due_tenants(paused=True) == ["ada"]
    assert taken(world).token > lease.token


def test_a_lost_lease_cannot_be_given_back(world: World) -> None:
    """What another holds stays his."""
    lost = taken(world)
    world.pass_time(world.settings.lease_seconds + 1)
    taken(world)
    before = world.everything()
    world.rebuilds.return_lease(lost)
    assert world.everything() == before
    assert world.outbox.acquire_lease(ADA) is None
