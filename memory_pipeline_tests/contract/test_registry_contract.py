"""What the registry promises: fake and Postgres alike."""

from uuid import uuid4

import pytest

from memory_pipeline.errors import Fenced
from memory_pipeline.postgres.registry import RECENT_SECONDS
from memory_pipeline_tests.contract.worlds import (
    ADA,
    BOB,
    World,
    begun,
    damage,
    flipped,
    owned,
    registered,
    taken,
    went_live,
)


def test_a_generation_goes_live_under_the_lease_with_a_reset(world: World) -> None:
    """A first collection is filled from all that the tenant has; claims name it from then on."""
    lease, first = taken(world), begun(world)
    assert world.registry.live(ADA) is None
    world.registry.flip_first(lease, first)
    live = world.registry.live(ADA)
    assert live is not None
    assert (live.id, live.collection_id, live.state) == (first.id, first.collection_id, "live")
    claim = world.outbox.claim(lease)
    assert claim.resets
    assert [target.id for target in claim.targets] == [first.id]


def test_nobody_goes_live_without_the_lease_or_twice(world: World) -> None:
    """A pointer moves only under the tenant's token, and never over another's."""
    lost, first = taken(world), begun(world)
    world.pass_time(world.settings.lease_seconds + 1)
    with pytest.raises(Fenced):
        world.registry.flip_first(lost, first)
    assert world.registry.live(ADA) is None
    lease, second = taken(world), begun(world)
    world.registry.flip_first(lease, first)
    with pytest.raises(Fenced) as refused:
        world.registry.flip_first(lease, second)
    assert "is lost" not in str(refused.value)  # the lease is held: something else is wrong


def test_nobody_goes_live_beside_a_rebuild(world: World) -> None:
    """The first collection of a tenant under rebuild is the one that the rebuild fills."""
    registered(world, owned(world))
    lease, second = taken(world), begun(world)
    before = world.everything()
    with pytest.raises(Fenced):
        world.registry.flip_first(lease, second)
    assert world.everything() == before


def test_a_damaged_live_generation_stays_the_pointer_and_is_not_written(world: World) -> None:
    """Searches go on asking what they asked; whoever claims finds nothing to write to."""
    live = went_live(world)
    assert world.damaged() == []
    damage(world)
    found = world.registry.live(ADA)
    assert found is not None
    assert (found.id, found.state) == (live.id, "corrupt")
    world.put("ada")
    assert world.outbox.claim(taken(world)).targets == ()
    assert world.damaged() == ["ada"]


def test_beside_a_damaged_live_generation_the_building_one_is_written(world: World) -> None:
    """What will take its place is kept fresh, and alone."""
    went_live(world)
    building = registered(world, owned(world))
    damage(world)
    world.put("ada")
    assert [g.id for g in world.outbox.claim(taken(world)).targets] == [building.id]


def test_a_building_generation_that_fails_is_given_up_alone(world: World) -> None:
    """The live one stays live and written, and nobody waits for a rebuild."""
    live = went_live(world)
    building = registered(world, owned(world))
    lease = taken(world)
    world.registry.abandon(lease, building.id)
    assert world.registry.building(ADA) is None
    assert (world.state(building.id), world.state(live.id)) == ("abandoned", "live")
    assert [g.id for g in world.outbox.claim(lease).targets] == [live.id]
    assert world.damaged() == []


def test_nobody_abandons_without_the_lease(world: World) -> None:
    """A worker that lost the tenant cannot take its collection away."""
    lease, first = taken(world), begun(world)
    world.registry.flip_first(lease, first)
    world.pass_time(world.settings.lease_seconds + 1)
    before = world.everything()
    with pytest.raises(Fenced):
        world.registry.abandon(lease, first.id)
    assert world.everything() == before
    taken(world)
    before = world.everything()
    with pytest.raises(Fenced):
        world.registry.abandon(lease, first.id)
    assert world.everything() == before


def test_who_is_rebuilt_by_somebody_is_not_waiting_for_a_rebuild(world: World) -> None:
    """Two never do it at once; where the one has died it is for the next."""
    went_live(world)
    went_live(world, BOB)
    damage(world)
    damage(world, BOB)
    build = owned(world)
    assert world.damaged() == ["bob"]
    world.pass_time(world.rebuilds.redo_seconds + 1)
    assert world.damaged() == ["ada", "bob"]
    build = owned(world)
    flipped(world, build, registered(world, build))
    assert world.damaged() == ["bob"]


def test_a_tenant_that_is_damaged_again_and_again_is_left_to_a_person(world: World) -> None:
    """After the fourth damage within an hour nobody rebuilds it by himself, until the hour is over.

    What it searches stays, and other tenants are not counted with it.
    """
    went_live(world)
    went_live(world, BOB)
    damage(world, BOB)
    for number in range(3):
        damage(world)
        assert world.damaged() == ["ada", "bob"]
        build = owned(world, f"r{number}")
        flipped(world, build, registered(world, build))
    damage(world)
    assert world.damaged() == ["bob"]
    assert world.registry.live(ADA) is not None
    world.pass_time(3600)
    assert world.damaged() == ["ada", "bob"]


def test_on_a_server_that_is_given_up_every_generation_is_lost(world: World) -> None:
    """Searches still name it, nobody writes it, and a rebuild that filled one there is stopped."""
    lost = begun(world)
    lease = taken(world)
    world.registry.flip_first(lease, lost)
    world.outbox.release_lease(lease)
    build = owned(world)
    building = registered(world, build, server=lost.server)
    world.retire(lost.server)
    live = world.registry.live(ADA)
    assert live is not None
    assert (live.id, live.state) == (lost.id, "lost")
    assert world.registry.building(ADA) is None
    assert world.state(building.id) == "lost"
    lease = taken(world)
    assert not world.rebuilds.may_fill(build, lease, building)
    assert world.outbox.claim(lease).targets == ()
    world.rebuilds.fail_part(build, "its server was given up")
    assert world.damaged() == ["ada"]


def test_a_server_serves_those_who_were_synced_of_late(world: World) -> None:
    """A rebuild writes less at once where others sync: not itself, and not on another server."""
    server = went_live(world, BOB).server
    lease = taken(world, BOB)
    world.outbox.release_lease(lease)
    assert world.registry.serves_others(server, ADA)
    assert not world.registry.serves_others(server, BOB)
    assert not world.registry.serves_others(uuid4(), ADA)
    world.pass_time(RECENT_SECONDS + 1)
    assert not world.registry.serves_others(server, ADA)


def test_registering_twice_is_registering_once(world: World) -> None:
    """A tenant keeps its partition key."""
    assert world.registry.register(ADA) == world.registry.register(ADA)
