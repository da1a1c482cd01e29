"""What dead letters promise: fake and Postgres alike."""

from dataclasses import replace

import pytest

from memory_pipeline.domain.dead_letters import Cause, DeadLetterFilter
from memory_pipeline.domain.outcomes import Failure
from memory_pipeline.domain.types import MemoryId, TenantId
from memory_pipeline_tests.contract.worlds import (
    ADA,
    BOB,
    World,
    ack,
    damage,
    drained,
    flipped,
    owned,
    registered,
    taken,
    went_live,
)

ALL = DeadLetterFilter()
NOW = Cause.of_now("model", "config")
LATER = replace(NOW, version="99")


def refused(
    world: World, memory: MemoryId, content: str = "a", tenant: TenantId = ADA, *, times: int = 1
) -> int:
    """Let what is due of a tenant be claimed so often, and this memory be refused each time."""
    buried = 0
    for _ in range(times):
        lease = taken(world, tenant)
        claim = world.outbox.claim(lease)
        assert memory in claim.memory_ids
        failure = Failure(memory, "refused", "index", content)
        buried += ack(world, lease, claim, failures=(failure,))
        world.outbox.release_lease(lease)
        world.pass_time(world.settings.retry_seconds)
    return buried


def buried(world: World, tenant: TenantId = ADA, content: str = "a") -> MemoryId:
    """Store a memory that is refused until it is a dead letter."""
    memory = world.put(tenant)
    assert refused(world, memory, content, tenant, times=world.settings.max_attempts) == 1
    assert world.pending(tenant) == 0
    return memory


def waive(world: World, which: DeadLetterFilter = ALL) -> int:
    """Let dead letters be."""
    return world.letters.waive(which, by="a person", because="known")


# ---- replay


def test_a_replay_is_a_change_with_all_attempts_anew(world: World) -> None:
    """It is tried as often as the first time, and no more."""
    memory = buried(world)
    assert world.letters.replay(ALL) == 1
    assert world.pending(ADA) == 1
    assert world.attempts(ADA, memory) == (0, False)
    assert refused(world, memory, times=world.settings.max_attempts) == 1
    assert world.attempts(ADA, memory) == (world.settings.max_attempts, True)
    assert world.pending(ADA) == 0


def test_a_replay_is_our_own_doing_and_not_an_application_s(world: World) -> None:
    """So it counts as no lag, and no look follows it."""
    buried(world)
    world.letters.replay(ALL)
    claim = world.outbox.claim(taken(world))
    assert [c.recheck for c in claim.changes] == [True]


def test_a_replay_that_lands_clears_the_dead_letter(world: World) -> None:
    """Nothing of it is left."""
    memory = buried(world)
    world.letters.replay(ALL)
    assert drained(world) == [memory]
    assert world.attempts(ADA, memory) is None
    assert world.letters.replay(ALL) == 0


def test_a_second_replay_finds_nothing_to_do(world: World) -> None:
    """However often a person presses the button, one change waits."""
    buried(world)
    assert [world.letters.replay(ALL) for _ in range(3)] == [1, 0, 0]
    assert world.pending(ADA) == 1


def test_what_is_still_being_tried_is_not_replayed(world: World) -> None:
    """It has its change, and its attempts stay counted."""
    memory = world.put("ada")
    refused(world, memory)
    assert world.letters.replay(ALL) == 0
    assert world.attempts(ADA, memory) == (1, False)


@pytest.mark.parametrize("by", ["tenant", "id"])
def test_a_replay_is_of_those_that_are_meant(world: World, by: str) -> None:
    """And leaves the others buried."""
    mine, other = buried(world), buried(world, BOB)
    which = (
        DeadLetterFilter(tenants=[ADA]) if by == "tenant" else DeadLetterFilter(memory_ids=[mine])
    )
    assert world.letters.replay(which) == 1
    assert (world.pending(ADA), world.pending(BOB)) == (1, 0)
    assert world.attempts(BOB, other) == (world.settings.max_attempts, True)


# ---- a memory that goes


def test_a_deleted_memory_has_no_dead_letter(world: World) -> None:
    """The delete lands, which is all that there was to do."""
    memory = buried(world)
    waive(world)
    world.delete(memory)
    drained(world)
    assert world.attempts(ADA, memory) is None


def test_a_truncate_leaves_no_dead_letter_of_what_is_gone(world: World) -> None:
    """No change names them: the reset does. One that is still there stays, and so do others'."""
    gone, other = buried(world), buried(world, BOB)
    world.truncate()
    kept = world.put("ada")
    refused(world, kept)
    world.due_tenants()
    lease = taken(world)
    claim = world.outbox.claim(lease)
    assert claim.resets
    ack(world, lease, claim, failures=(Failure(kept, "refused", "index", "a"),))
    assert world.attempts(ADA, gone) is None
    assert world.attempts(ADA, kept) is not None
    assert world.attempts(BOB, other) is not None


def test_a_memory_that_moves_leaves_no_dead_letter_behind(world: World) -> None:
    """Each tenant has its own: the old one's goes, the new one is tried in full."""
    memory = buried(world)
    world.put("bob", memory_id=memory)
    drained(world)
    assert world.attempts(ADA, memory) is None
    assert refused(world, memory, tenant=BOB) == 0
    assert world.attempts(BOB, memory) == (1, False)


# ---- waivers


def test_a_waived_memory_stays_buried_and_counted(world: World) -> None:
    """A person lets it be; it is neither tried nor forgotten."""
    memory = buried(world)
    assert waive(world) == 1
    assert waive(world) == 0
    assert world.waived(ADA, memory)
    assert world.pending(ADA) == 0
    assert world.attempts(ADA, memory) == (world.settings.max_attempts, True)


def test_a_waiver_holds_while_the_content_is_the_same(world: World) -> None:
    """A verify, a reset or a rebuild may have it looked at again."""
    memory = buried(world)
    waive(world)
    world.outbox.enqueue(ADA, [memory])
    assert refused(world, memory, "a") == 1
    assert world.waived(ADA, memory)
    assert world.pending(ADA) == 0


def test_a_waiver_ends_with_the_content_that_it_was_given_for(world: World) -> None:
    """The new content is tried, and shows as a dead letter that nobody has looked at."""
    memory = buried(world)
    waive(world)
    world.put("ada", '{"n": 2}', memory_id=memory)
    refused(world, memory, "b")
    assert not world.waived(ADA, memory)
    assert world.attempts(ADA, memory) == (world.settings.max_attempts + 1, True)


def test_a_waived_memory_that_lands_is_cleared(world: World) -> None:
    """There is nothing left to let be."""
    memory = buried(world)
    waive(world)
    world.put("ada", '{"n": 2}', memory_id=memory)
    drained(world)
    assert world.attempts(ADA, memory) is None


def test_a_waiver_can_be_taken_back(world: World) -> None:
    """Of those that have one."""
    memory = buried(world)
    assert world.letters.unwaive(ALL) == 0
    waive(world)
    assert world.letters.unwaive(ALL) == 1
    assert not world.waived(ADA, memory)


def test_waived_ones_can_be_passed_over_and_named(world: World) -> None:
    """A replay of everything that is not waived; and of one that is, which stays waived."""
    memory = buried(world)
    waive(world)
    assert world.letters.replay(DeadLetterFilter(waived=False)) == 0
    assert world.letters.replay(DeadLetterFilter(memory_ids=[memory])) == 1
    refused(world, memory, times=world.settings.max_attempts)
    assert world.attempts(ADA, memory) == (world.settings.max_attempts, True)
    assert world.waived(ADA, memory)


# ---- causes


def live_and_buried(world: World) -> MemoryId:
    """Bury a memory of a tenant whose collection was built with the settings of now."""
    went_live(world)
    return buried(world)


def test_the_same_cause_replays_nothing(world: World) -> None:
    """It would only be refused again."""
    live_and_buried(world)
    assert world.letters.replay_cured(NOW) == 0


def test_another_version_replays_once(world: World) -> None:
    """It may read what the old one could not; if not, it does not try for ever."""
    memory = live_and_buried(world)
    assert world.letters.replay_cured(LATER) == 1
    assert world.attempts(ADA, memory) == (0, False)
    assert world.pending(ADA) == 1
    refused(world, memory, times=world.settings.max_attempts)
    assert world.letters.replay_cured(LATER) == 0


def test_two_versions_side_by_side_do_not_replay_for_ever(world: World) -> None:
    """While one is rolled out over the other, each has its try and no more."""
    memory = live_and_buried(world)
    replayed = []
    for cause in (LATER, NOW, LATER, NOW):
        replayed.append(world.letters.replay_cured(cause))
        if replayed[-1]:
            refused(world, memory, times=world.settings.max_attempts)
    assert replayed == [1, 0, 0, 0]


def test_another_content_is_tried_under_every_cause_anew(world: World) -> None:
    """What was said of the old content says nothing of the new."""
    memory = live_and_buried(world)
    world.letters.replay_cured(LATER)
    refused(world, memory, times=world.settings.max_attempts)
    world.put("ada", '{"n": 2}', memory_id=memory)
    refused(world, memory, "b")
    assert world.letters.replay_cured(LATER) == 1


@pytest.mark.parametrize("change", [{"model": "newer"}, {"config_hash": "other"}])
def test_another_model_replays_once_the_collection_is_built_with_it(
    world: World, change: dict[str, str]
) -> None:
    """Before that the batch would be refused as a whole; the rebuild tries everything by itself."""
    live_and_buried(world)
    assert world.letters.replay_cured(replace(NOW, **change)) == 0


def test_what_is_waived_is_not_replayed_by_itself(world: World) -> None:
    """Somebody has looked at it."""
    live_and_buried(world)
    waive(world)
    assert world.letters.replay_cured(LATER) == 0


def test_nothing_is_replayed_into_a_damaged_collection(world: World) -> None:
    """It waits for its rebuild, which reads every memory anyway."""
    live_and_buried(world)
    damage(world)
    assert world.letters.replay_cured(LATER) == 0
    build = owned(world)
    flipped(world, build, registered(world, build))
    assert world.letters.replay_cured(LATER) == 1


# ---- rebuilds


def test_what_a_rebuild_could_write_is_a_dead_letter_until_live_has_it(world: World) -> None:
    """P1: the building generation may be given up yet, and live would lack it with nothing said."""
    memory = live_and_buried(world)
    build = owned(world)
    generation = registered(world, build)
    world.rebuilds.record_chunk(
        build,
        taken(world),
        generation,
        through=memory,
        provenance={},
        recheck=(),
        landed=(memory,),
        embedded=0,
    )
    assert world.attempts(ADA, memory) == (0, False)
    assert world.pending(ADA) == 1
    lease = taken(world)
    claim = world.outbox.claim(lease)
    assert claim.memory_ids == (memory,)
    ack(world, lease, claim)
    assert world.attempts(ADA, memory) is None


def test_a_failed_attempt_is_forgotten_after_the_rebuild_that_covered_it(world: World) -> None:
    """Where live is damaged the flip acks its change: one of ours is left, which clears it."""
    went_live(world)
    memory = world.put("ada")
    refused(world, memory)
    damage(world)
    build = owned(world)
    generation = registered(world, build)
    world.rebuilds.record_chunk(
        build,
        taken(world),
        generation,
        through=memory,
        provenance={},
        recheck=(),
        landed=(memory,),
        embedded=0,
    )
    flipped(world, build, generation)
    assert world.attempts(ADA, memory) == (1, False)
    assert drained(world) == [memory]
    assert world.attempts(ADA, memory) is None
