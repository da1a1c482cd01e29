"""A verify while an application writes, over the world in memory."""

import pytest

from memory_pipeline.content.document import recipe_from
from memory_pipeline.domain.types import TenantId
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.settings import Settings
from memory_pipeline.verify.double_check import Sides
from memory_pipeline.verify.tenant import Verify
from memory_pipeline_tests.fakes import (
    FakeIndex,
    FakeMemories,
    FakeOutbox,
    FakeRegistry,
    FakeWorld,
)

ADA = TenantId("ada")


@pytest.fixture
def world() -> FakeWorld:
    """Return a world in which ada is registered."""
    world = FakeWorld(Settings.load())
    FakeRegistry(world).register(ADA)
    return world


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
        if step == "memories.ids":
            world.put("ada", '{"text": "just now"}')

    world.watch = write
    verified = Verify(parts, FakeRegistry(world), 5.0).run(ADA)
    assert world.rows
    assert verified.findings == ()
