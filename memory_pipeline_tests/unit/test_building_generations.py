"""What a batch does with a generation that a rebuild fills, and with refused deletes."""

from dataclasses import replace
from typing import Any

import pytest

from memory_pipeline.content.document import recipe_from
from memory_pipeline.domain.types import Generation, RebuildId, TenantId
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.errors import Poison
from memory_pipeline.settings import Settings
from memory_pipeline.sync.tenant import Sync
from memory_pipeline_tests.doubles import around
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


def refuse_deletes(
    call: Any, generation: Generation, documents: Any, deletes: Any, **how: Any
) -> None:
    """Write; refuse to delete."""
    if deletes:
        raise Poison("unprocessable")
    call(generation, documents, deletes, **how)


def test_a_collection_that_refuses_deletes_is_damaged(world: FakeWorld) -> None:
    """Nothing in a delete can be refused: trying again for ever would hold up the whole tenant."""
    memory = world.put("ada", '{"text": "a memory"}')
    index = around(FakeIndex(world), write=refuse_deletes)
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

    def write(call: Any, generation: Generation, documents: Any, deletes: Any, **how: Any) -> None:
        if deletes and generation.id == building.id:
            raise Poison("unprocessable")
        call(generation, documents, deletes, **how)

    assert _sync(world, around(FakeIndex(world), write=write)).run(ADA).verdict == "done"
    assert FakeIndex(world).hashes(live, renew=no_lease) == {}
    assert FakeRegistry(world).building(ADA) is None
