"""What the simulation has found in the heart and in verify, each in its shortest form."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from memory_pipeline.content.document import recipe_from
from memory_pipeline.domain.types import Document, Generation, MemoryId, RebuildId, TenantId
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.errors import Poison
from memory_pipeline.ports import RenewLease
from memory_pipeline.settings import Settings
from memory_pipeline.sync.tenant import Sync
from memory_pipeline.verify.double_check import Sides
from memory_pipeline.verify.tenant import Verify
from memory_pipeline_tests.fakes import (
    FakeIndex,
    FakeMemories,
    FakeOutbox,
    FakeRebuilds,
    FakeRegistry,
    FakeWorld,
    a_document,
    no_lease,
)

ADA = TenantId("ada")


@pytest.fixture
def world() -> FakeWorld:
    """Return a world in which ada is registered."""
    world = FakeWorld(Settings.load())
    FakeRegistry(world).register(ADA)
    return world


def _sync(world: FakeWorld, index: FakeIndex | None = None) -> Sync:
    return Sync(
        outbox=FakeOutbox(world),
        memories=FakeMemories(world),
        registry=FakeRegistry(world),
        index=index or FakeIndex(world),
        embedder=HashingEmbedder(),
        recipe=recipe_from(world.settings),
        trust=True,
        slice_seconds=2.0,
    )


def _building(world: FakeWorld) -> Generation:
    """Let a rebuild begin a generation for ada, and nobody go on with it."""
    rebuilds = FakeRebuilds(world)
    rebuilds.request(RebuildId("r"), [ADA], re_embed=False)
    build = rebuilds.acquire_part(RebuildId("r"), ADA)
    lease = FakeOutbox(world).acquire_lease(ADA)
    assert build is not None
    assert lease is not None
    begun = _sync(world).generations.begin(ADA, renew=no_lease)
    rebuilds.register_building(build, lease, replace(begun, state="building"))
    rebuilds.return_lease(lease)
    return begun


def test_a_reset_takes_out_of_a_building_generation_what_is_gone(world: FakeWorld) -> None:
    """The rebuild may have verified it before the TRUNCATE, and flips to it next."""
    building = _building(world)
    index = FakeIndex(world)
    index.write(building, [a_document(7), a_document(8)], [], renew=no_lease)
    world.put("ada", '{"text": "stays"}', memory_id=8)
    world.truncate()
    world.put("ada", '{"text": "stays"}', memory_id=8)
    FakeOutbox(world).pending_tenants()
    assert _sync(world).run(ADA).verdict == "done"
    assert set(index.hashes(building, renew=no_lease)) == {"memory_log_8"}


class RefusesDeletes(FakeIndex):
    """Collections that take documents and refuse every delete."""

    def write(
        self,
        generation: Generation,
        documents: Sequence[Document],
        deletes: Sequence[MemoryId],
        *,
        renew: RenewLease,
        add_only: bool = False,
    ) -> None:
        """Write; refuse to delete."""
        if deletes:
            raise Poison("unprocessable")
        super().write(generation, documents, (), renew=renew, add_only=add_only)


def test_a_collection_that_refuses_deletes_is_damaged(world: FakeWorld) -> None:
    """Nothing in a delete can be refused: trying again for ever would hold up the whole tenant."""
    memory = world.put("ada", '{"text": "a memory"}')
    index = RefusesDeletes(world)
    assert _sync(world, index).run(ADA).verdict == "done"
    world.delete(memory)
    assert _sync(world, index).run(ADA).verdict == "damaged"


def test_a_building_generation_that_refuses_deletes_is_given_up_alone(world: FakeWorld) -> None:
    """The live one is written all the same."""
    memory = world.put("ada", '{"text": "a memory"}')
    sync = _sync(world)
    sync.run(ADA)
    live = FakeRegistry(world).live(ADA)
    assert live is not None
    building = _building(world)
    world.delete(memory)

    class Refusing(FakeIndex):
        def write(
            self,
            generation: Generation,
            documents: Sequence[Document],
            deletes: Sequence[MemoryId],
            *,
            renew: RenewLease,
            add_only: bool = False,
        ) -> None:
            if deletes and generation.id == building.id:
                raise Poison("unprocessable")
            super().write(generation, documents, deletes, renew=renew, add_only=add_only)

    assert _sync(world, Refusing(world)).run(ADA).verdict == "done"
    assert FakeIndex(world).hashes(live, renew=no_lease) == {}
    assert FakeRegistry(world).building(ADA) is None


def test_a_memory_written_during_a_verify_makes_no_finding(world: FakeWorld) -> None:
    """A tenant without a collection whose first memory comes just now has a change that waits."""
    settings = world.settings
    parts = Sides(
        memories=FakeMemories(world),
        outbox=FakeOutbox(world),
        index=FakeIndex(world),
        recipe=recipe_from(settings),
        model=HashingEmbedder.model,
        trust=True,
    )

    def write(step: str) -> None:
        if step == "memories.count":
            world.put("ada", '{"text": "just now"}')

    world.watch = write
    verified = Verify(parts, FakeRegistry(world), 5.0).run(ADA)
    assert world.rows
    assert verified.findings == ()
