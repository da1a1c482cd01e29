"""What one check of a document concludes, and what two of them make a finding."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from memory_pipeline.content.document import recipe_from
from memory_pipeline.domain.outcomes import Finding
from memory_pipeline.domain.types import Generation, MemoryId, TenantId, document_id
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.settings import Settings
from memory_pipeline.sync.tenant import Sync
from memory_pipeline.verify.double_check import MAX_CHECKS, DoubleCheck, Sides
from memory_pipeline_tests.fakes import (
    FakeIndex,
    FakeMemories,
    FakeOutbox,
    FakeRegistry,
    FakeWorld,
    no_lease,
)

ADA = TenantId("ada")


@pytest.fixture
def world() -> FakeWorld:
    """Return a world in which ada has three memories in sync."""
    world = FakeWorld(Settings.load())
    FakeRegistry(world).register(ADA)
    for number in range(3):
        world.put("ada", f'{{"text": "memory {number}"}}')
    sync = Sync(
        outbox=FakeOutbox(world),
        memories=FakeMemories(world),
        registry=FakeRegistry(world),
        index=FakeIndex(world),
        embedder=HashingEmbedder(),
        recipe=recipe_from(world.settings),
        trust=True,
        slice_seconds=2.0,
    )
    assert sync.run(ADA).verdict == "done"
    return world


def live(world: FakeWorld) -> Generation:
    """Return ada's live generation."""
    generation = FakeRegistry(world).live(ADA)
    assert generation is not None
    return generation


def checking(world: FakeWorld, generation: Generation | None = None) -> DoubleCheck:
    """Return what checks ada's documents."""
    sides = Sides(
        memories=FakeMemories(world),
        outbox=FakeOutbox(world),
        index=FakeIndex(world),
        recipe=recipe_from(world.settings),
        model=HashingEmbedder.model,
        trust=True,
    )
    return DoubleCheck(sides, ADA, generation or live(world), no_lease)


def lose(world: FakeWorld, memory_id: MemoryId) -> None:
    """Take a document out of the live collection, unseen by the pipeline."""
    del world.collections[live(world).collection].documents[document_id(memory_id)]


def at_each(world: FakeWorld, step: str, act: Callable[[], None]) -> None:
    """Do something just before each step of this name."""

    def watch(name: str) -> None:
        if name == step:
            act()

    world.watch = watch


def touch(world: FakeWorld, memory_id: MemoryId) -> None:
    """Give a row another version, and the content that it had."""
    row = world.rows[memory_id]
    world.rows[memory_id] = replace(row, version=str(world.number()))


@pytest.mark.parametrize("closely", [False, True])
def test_a_right_document_is_no_doubt(world: FakeWorld, *, closely: bool) -> None:
    """Whether it is checked by its metadata or in full."""
    check = checking(world)
    assert check.doubt(list(world.rows), closely=closely) == set()
    assert list(check.confirm(list(world.rows), closely=closely)) == []


def test_a_document_that_was_wrong_twice_is_a_finding(world: FakeWorld) -> None:
    """It names the memory, and how the document differs; the others are not named."""
    first, *_ = world.rows
    lose(world, first)
    check = checking(world)
    assert check.doubt(list(world.rows), closely=False) == {first}
    [finding] = check.confirm(list(world.rows), closely=False)
    assert finding == Finding("missing", ADA, first, "no document is stored for it")


def test_a_document_that_was_right_once_is_no_finding(world: FakeWorld) -> None:
    """A write that was in progress has arrived since."""
    first, *_ = world.rows
    documents = world.collections[live(world).collection].documents
    missing = documents.pop(document_id(first))
    check = checking(world)
    assert check.doubt([first], closely=False) == {first}
    documents[document_id(first)] = missing
    assert list(check.confirm([first], closely=False)) == []


def test_a_row_that_changes_during_every_check_is_no_finding(world: FakeWorld) -> None:
    """Nothing can be concluded, and the check ends all the same."""
    first, *_ = world.rows
    lose(world, first)
    checks: list[MemoryId] = []

    def change() -> None:
        checks.append(first)
        touch(world, first)

    at_each(world, "memories.versions", change)
    assert list(checking(world).confirm([first], closely=False)) == []
    assert len(checks) == MAX_CHECKS


def test_a_row_that_changes_once_hides_nothing(world: FakeWorld) -> None:
    """Not every new version is a new content: the document is checked again."""
    first, *_ = world.rows
    lose(world, first)
    checks: list[MemoryId] = []

    def change_once() -> None:
        if not checks:
            touch(world, first)
        checks.append(first)

    at_each(world, "memories.versions", change_once)
    assert [f.memory_id for f in checking(world).confirm([first], closely=False)] == [first]
    assert len(checks) == 3


def test_a_pending_change_explains_a_difference(world: FakeWorld) -> None:
    """It is counted as pending, and is no doubt."""
    first, *_ = world.rows
    world.delete(first)
    check = checking(world)
    assert check.doubt(list(world.rows), closely=False) == set()
    assert check.doubt([first], closely=False) == set()
    assert check.pending == {first}


def test_a_reset_explains_nothing_but_strays_in_a_building_generation(world: FakeWorld) -> None:
    """A reset repairs all of the live generation, and of another only what was deleted."""
    first, *_ = world.rows
    lose(world, first)
    world.enqueue(ADA, None)
    building = replace(live(world), state="building")
    assert checking(world).doubt([first], closely=False) == set()
    assert checking(world, building).doubt([first], closely=False) == {first}
