"""The watch for a Postgres that went back: when it sweeps, and what a sweep may drop."""

from collections.abc import Collection, Sequence
from uuid import UUID, uuid4

import pytest

from memory_pipeline.domain.types import Generation, Server
from memory_pipeline.errors import ChromaUnavailable
from memory_pipeline.maintenance.restore_watch import FORGOTTEN_SECONDS, RestoreWatch

NEAR, FAR = uuid4(), uuid4()
OURS = uuid4()


class World:
    """Two servers and an installation; all the parts of a watch in one."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.due = True
        self.in_use: list[UUID] = [NEAR, FAR]
        self.known: set[UUID] = set()
        self.collections: dict[UUID, list[UUID]] = {NEAR: [], FAR: []}

    def stamp(self, *, seconds: float) -> None:
        """Compare and rotate."""
        self.events.append(f"stamp {seconds:g}")

    def usable(self) -> Collection[UUID]:
        """Return the servers that were identified."""
        return self.in_use

    def sweep_is_due(self, *, seconds: float) -> bool:
        """Whether a rollback is old enough."""
        assert seconds == FORGOTTEN_SECONDS
        return self.due

    def unknown(self, generations: Sequence[UUID]) -> Sequence[UUID]:
        """Return those that the registry does not know."""
        return [g for g in generations if g not in self.known]

    def record_sweep(self) -> None:
        """Record it."""
        self.events.append("swept")

    def servers(self) -> Sequence[Server]:
        """Return what is registered; a lost server is never swept."""
        return [
            Server(NEAR, "http://near", "ready", 0),
            Server(FAR, "http://far", "ready", 0),
            Server(uuid4(), "http://lost", "lost", 0),
        ]

    def installation(self) -> UUID:
        """Return whose collections they are."""
        return OURS

    def generations(self, server: UUID, installation: UUID, *, seconds: float) -> Sequence[UUID]:
        """Return the collections of this installation on a server."""
        del seconds
        assert installation == OURS
        return self.collections[server]

    def delete_batch(self, generation: Generation, *, seconds: float) -> bool:
        """Find it small."""
        del generation, seconds
        return False

    def drop(self, generation: Generation, *, seconds: float) -> None:
        """Drop it."""
        del seconds
        self.collections[generation.server].remove(generation.id)


@pytest.fixture
def world() -> World:
    """Return one."""
    return World()


def watching(world: World) -> RestoreWatch:
    """Return the watch over it."""
    return RestoreWatch(world, world, world, world)


def test_the_markers_are_compared_before_anything_is_swept(world: World) -> None:
    """A rollback that is noticed now starts the hour again."""
    watching(world).watch(seconds=7)
    assert world.events == ["stamp 7", "swept"]


def test_nothing_is_swept_before_it_is_due(world: World) -> None:
    """Another database that still uses the collections has an hour to write the markers."""
    world.due = False
    forgotten = uuid4()
    world.collections[NEAR] = [forgotten]
    watching(world).watch()
    assert world.collections[NEAR] == [forgotten]
    assert "swept" not in world.events


def test_only_collections_that_the_registry_does_not_know_are_dropped(world: World) -> None:
    """On every server; a generation is registered before its collection is created."""
    registered = uuid4()
    world.known.add(registered)
    world.collections = {NEAR: [uuid4(), registered], FAR: [uuid4()]}
    assert watching(world).sweep() == 2
    assert world.collections == {NEAR: [registered], FAR: []}
    assert world.events == ["swept"]


def test_a_sweep_that_missed_a_server_is_not_recorded(world: World) -> None:
    """The other servers are swept, and the next watch tries again."""
    world.collections = {NEAR: [uuid4()], FAR: [uuid4()]}
    world.in_use = [NEAR]
    assert watching(world).sweep() == 1
    assert world.events == []
    with pytest.raises(ChromaUnavailable, match="not in use"):
        watching(world).forgotten(FAR)
