"""What is left behind when something ends: generations, servers, memories. The fake and Postgres.

Each of these was found by the simulation.
"""

import numpy as np
import pytest

from memory_pipeline.content.document import vector_hash
from memory_pipeline.domain.outcomes import Failure
from memory_pipeline.domain.types import DIMENSION, MemoryId, Provenance
from memory_pipeline.errors import Fenced
from memory_pipeline_tests.contract.worlds import (
    ADA,
    World,
    ack,
    begun,
    damage,
    drained,
    flipped,
    owned,
    registered,
    taken,
    went_live,
)


def test_given_up_before_anything_was_live_it_leaves_a_reset(world: World) -> None:
    """What was acked stood in the building generation alone, so all of it has to be brought again.

    A reset, not a mark for a rebuild: nobody rebuilds a tenant of which nothing is live.
    """
    world.put("ada")
    building = registered(world, owned(world))
    world.put("ada")
    drained(world)
    lease = taken(world)
    world.registry.abandon(lease, building.id)
    assert world.outbox.claim(lease).resets


def test_a_first_generation_that_is_left_half_built_waits_for_a_rebuild(world: World) -> None:
    """What waits is covered by it, so no batch would ever make the tenant searchable."""
    world.put("ada")
    build = owned(world)
    registered(world, build)
    assert world.damaged() == []
    world.pass_time(world.rebuilds.redo_seconds + 1)
    assert world.damaged() == ["ada"]
    world.rebuilds.fail_part(build, "its process ended")
    assert world.damaged() == ["ada"]


def test_given_up_beside_a_live_one_it_leaves_nothing(world: World) -> None:
    """The live generation has everything: a reset would compare it for nothing."""
    went_live(world)
    building = registered(world, owned(world))
    lease = taken(world)
    world.registry.abandon(lease, building.id)
    assert world.pending(ADA) == 0


def test_another_that_is_given_up_is_not_the_one_that_is_building(world: World) -> None:
    """Whoever comes too late with the name of an older generation takes nothing away."""
    build = owned(world)
    older = registered(world, build)
    lease = taken(world)
    world.registry.abandon(lease, older.id)
    world.outbox.release_lease(lease)
    drained(world)
    newer = registered(world, build)
    lease = taken(world)
    world.registry.abandon(lease, older.id)
    found = world.registry.building(ADA)
    assert found is not None
    assert found.id == newer.id
    assert world.pending(ADA) == 0


def test_a_server_given_up_before_anything_was_live_leaves_a_reset(world: World) -> None:
    """Nothing marks such a tenant for a rebuild, so the changes have to come again."""
    building = registered(world, owned(world))
    world.put("ada")
    drained(world)
    world.retire(building.server)
    lease = taken(world)
    assert world.outbox.claim(lease).resets


def test_nobody_goes_live_on_a_server_that_was_given_up_meanwhile(world: World) -> None:
    """Otherwise a collection that is lost would be called live, and waited for for ever."""
    lease, lost = taken(world), begun(world)
    world.retire(lost.server)
    with pytest.raises(Fenced):
        world.registry.flip_first(lease, lost)
    assert world.registry.live(ADA) is None
    assert world.state(lost.id) == "lost"


def test_nobody_builds_on_a_server_that_was_given_up_meanwhile(world: World) -> None:
    """A rebuild that began there begins again elsewhere."""
    build, lost = owned(world), begun(world)
    world.retire(lost.server)
    with pytest.raises(Fenced):
        world.rebuilds.register_building(build, taken(world), lost)
    assert world.registry.building(ADA) is None
    assert world.state(lost.id) == "lost"


def _refused(world: World, memory: MemoryId) -> None:
    lease = taken(world)
    claim = world.outbox.claim(lease)
    assert memory in claim.memory_ids
    ack(world, lease, claim, failures=(Failure(memory, "refused"),))
    world.outbox.release_lease(lease)


def test_a_reset_forgets_the_failures_of_memories_that_are_gone(world: World) -> None:
    """A TRUNCATE tells of no single memory: without this a dead letter would stand for ever."""
    gone, stays = world.put("ada"), world.put("ada", '{"n": 2}')
    _refused(world, gone)
    world.truncate()
    world.put("ada", '{"n": 3}', memory_id=stays)
    _refused(world, stays)
    world.due_tenants()  # which tells everybody of the TRUNCATE
    drained_once = taken(world)
    world.pass_time(world.settings.retry_seconds + 1)
    claim = world.outbox.claim(drained_once)
    assert claim.resets
    ack(world, drained_once, claim, failures=(Failure(stays, "refused"),))
    assert world.attempts(ADA, gone) is None
    assert world.attempts(ADA, stays) == (2, False)


def test_a_reset_forgets_the_failures_of_memories_that_went_to_others(world: World) -> None:
    """Under an id that was used again the memory may be another tenant's."""
    memory = world.put("ada")
    _refused(world, memory)
    world.truncate()
    world.put("bob", memory_id=memory)
    world.due_tenants()
    world.pass_time(world.settings.retry_seconds + 1)
    lease = taken(world)
    claim = world.outbox.claim(lease)
    assert claim.resets
    world.outbox.ack(lease, claim, landed={}, failures=(), missed=(), recheck=())
    assert world.attempts(ADA, memory) is None


def test_a_flip_forgets_the_failures_of_memories_that_are_gone(world: World) -> None:
    """The delete that would have told of it may be among what the rebuild has covered."""
    went_live(world)
    gone, stays = world.put("ada"), world.put("ada", '{"n": 2}')
    lease = taken(world)
    refused = (Failure(gone, "refused"), Failure(stays, "refused"))
    ack(world, lease, world.outbox.claim(lease), failures=refused)
    world.outbox.release_lease(lease)
    damage(world)
    world.delete(gone)
    build = owned(world)
    flipped(world, build, registered(world, build))
    assert world.attempts(ADA, gone) is None
    assert world.attempts(ADA, stays) == (1, False)


OLD, NEW = (np.full(DIMENSION, value, dtype=np.float32) for value in (0.25, 0.5))


def test_without_backup_a_vector_of_an_older_text_is_known_as_one(world: World) -> None:
    """The row keeps it; no later look may take it for one that the application has just set."""
    memory = world.put("ada")
    rows, _ = world.memories.read([memory])
    first = Provenance("a text", "model", vector_hash(OLD))
    world.memories.back_up({memory: (rows[memory], OLD, first)})
    world.put("ada", '{"n": 2}', memory_id=memory)
    memories = world.with_backup("off")
    rows, _ = memories.read([memory])
    second = Provenance("another text", "model", vector_hash(NEW))
    assert memories.back_up({memory: (rows[memory], NEW, second)}) == {memory}
    row = memories.read([memory])[0][memory]
    assert row.embedding is not None
    assert row.embedding[0] == OLD[0]
    assert row.provenance is not None
    assert row.provenance.vector_hash == vector_hash(OLD)
    assert row.provenance.text_hash not in {first.text_hash, second.text_hash}


def test_without_backup_a_row_without_a_vector_has_nothing_noted(world: World) -> None:
    """There is no vector that could be mistaken for another text's."""
    memory = world.put("ada")
    memories = world.with_backup("off")
    rows, _ = memories.read([memory])
    made = Provenance("a text", "model", vector_hash(NEW))
    assert memories.back_up({memory: (rows[memory], NEW, made)}) == {memory}
    assert memories.read([memory])[0][memory].provenance is None


# ---- what the simulation relies on, beside the ports of the heart


def test_a_write_that_changes_nothing_of_a_document_makes_no_change(world: World) -> None:
    """Whoever writes a row as it was, or its time alone, gives nobody anything to do."""
    memory = world.put("ada")
    drained(world)
    world.put("ada", memory_id=memory)
    world.touch(memory)
    assert world.pending(ADA) == 0
    world.put("ada", '{"n": 2}', memory_id=memory)
    assert world.pending(ADA) == 1


def test_what_waits_or_is_buried_is_excused(world: World) -> None:
    """Claimed or not, due or not; of other memories and of other tenants it says nothing."""
    waits, claimed, right = (world.put("ada", f'{{"n": {n}}}') for n in range(3))
    lease = taken(world)
    world.outbox.ack(
        lease,
        world.outbox.claim(lease),
        landed=dict.fromkeys((right,)),
        failures=(),
        missed=(waits,),
        recheck=(),
    )
    other = world.put("bob")
    excuses = world.expected_differences(ADA, [waits, claimed, right, other])
    assert excuses.pending == {waits, claimed}
    assert excuses.buried == frozenset()
    assert not excuses.everything
    assert world.expected_differences(ADA, [right]).pending == frozenset()


def test_a_truncate_excuses_everybody_until_it_is_told(world: World) -> None:
    """It is about every memory of everyone; the reset that it becomes is about those of one."""
    memory = world.put("ada")
    drained(world)
    world.truncate()
    assert world.expected_differences(ADA, [memory]).everything
    world.due_tenants()
    assert world.expected_differences(ADA, [memory]).everything
    lease = taken(world)
    ack(world, lease, world.outbox.claim(lease))
    assert not world.expected_differences(ADA, [memory]).everything


def test_what_a_rebuild_covers_is_excused_by_nothing(world: World) -> None:
    """Before the flip it has to stand in the building generation, which is what is verified."""
    went_live(world)
    damage(world)
    memory = world.put("ada")
    assert world.expected_differences(ADA, [memory]).pending == {memory}
    registered(world, owned(world))
    assert world.expected_differences(ADA, [memory]).pending == frozenset()
