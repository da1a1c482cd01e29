"""What is dropped of ended collections, what is kept, and what is logged of it."""

import logging
from collections.abc import Iterator, Sequence
from uuid import UUID, uuid4

import pytest

from memory_pipeline.domain.types import Generation, GenerationState, TenantId
from memory_pipeline.errors import ChromaUnavailable, Corrupt
from memory_pipeline.maintenance.cleanup import drop_in_batches, drop_retired

ADA = TenantId("ada")


class Clock:
    """A clock that moves by a second with each question."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        """Return the next second."""
        self.now += 1.0
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


class Registry:
    """Ended generations."""

    def __init__(self, *ended: Generation) -> None:
        self.ended = list(ended)

    def droppable(self, *, grace_seconds: float, limit: int) -> Sequence[Generation]:
        """Return those whose collections exist."""
        del grace_seconds
        return self.ended[:limit]

    def dropped(self, generation: UUID) -> None:
        """Record that one is dropped."""
        self.ended = [g for g in self.ended if g.id != generation]


class Index:
    """Collections of so many batches each; those of ``away`` cannot be reached."""

    def __init__(self, batches: int = 0, *, away: UUID | None = None) -> None:
        self.batches = batches
        self.away = away
        self.calls: list[str] = []

    def delete_batch(self, generation: Generation, *, seconds: float) -> bool:
        """Delete one batch."""
        del seconds
        self.calls.append("delete_batch")
        if generation.server == self.away:
            raise ChromaUnavailable("connection refused")
        self.batches -= 1
        return self.batches >= 0

    def drop(self, generation: Generation, *, seconds: float) -> None:
        """Drop one."""
        del generation, seconds
        self.calls.append("drop")


def ended(state: GenerationState = "retired", *, server: UUID | None = None) -> Generation:
    """Make a generation that has ended."""
    return Generation(uuid4(), ADA, server or uuid4(), None, "m", "c", state)


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Return the lines that are logged."""
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, handler = logging.getLogger("memory_pipeline.maintenance.cleanup"), Lines()
    monkeypatch.setattr(logger, "propagate", False)
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def test_ended_collections_are_dropped_up_to_the_limit() -> None:
    """And recorded, so that none is dropped twice."""
    registry, index = Registry(ended(), ended(), ended()), Index()
    assert drop_retired(registry, index, grace_seconds=0, limit=2, clock=Clock()) == 2
    assert len(registry.ended) == 1
    assert drop_retired(registry, index, grace_seconds=0, clock=Clock()) == 1


def test_a_large_collection_is_emptied_in_batches_before_it_is_dropped() -> None:
    """A drop of all of it would block its server, searches too."""
    index = Index(batches=2)
    assert drop_in_batches(index, ended(), until=100.0, clock=Clock())
    assert index.calls == ["delete_batch", "delete_batch", "delete_batch", "drop"]


def test_a_collection_that_takes_too_long_is_kept_for_the_next_call() -> None:
    """What was deleted of it stays deleted, and it is not recorded as dropped."""
    registry, index = Registry(ended()), Index(batches=10)
    assert drop_retired(registry, index, grace_seconds=0, seconds=3.0, clock=Clock()) == 0
    assert len(registry.ended) == 1
    assert drop_retired(registry, index, grace_seconds=0, seconds=30.0, clock=Clock()) == 1


@pytest.mark.parametrize("state", ["corrupt", "abandoned", "lost"])
def test_a_damaged_collection_is_not_read(state: GenerationState) -> None:
    """It would answer with errors; the drop reads nothing."""
    index = Index(batches=5)
    assert drop_in_batches(index, ended(state), until=100.0, clock=Clock())
    assert index.calls == ["drop"]


def test_a_collection_found_damaged_while_it_is_emptied_is_dropped() -> None:
    """Nothing else can be done with it."""

    class Damaged(Index):
        def delete_batch(self, generation: Generation, *, seconds: float) -> bool:
            del seconds
            raise Corrupt("it is gone", generation=generation.id)

    index = Damaged()
    assert drop_in_batches(index, ended(), until=100.0, clock=Clock())
    assert index.calls == ["drop"]


def test_an_unreachable_server_delays_no_other(logged: list[str]) -> None:
    """It is tried once a call, and the log names tenant, generation, server and what follows."""
    away = uuid4()
    registry = Registry(ended(server=away), ended(server=away), ended())
    first, index = registry.ended[0], Index(away=away)
    assert drop_retired(registry, index, grace_seconds=0, clock=Clock()) == 1
    assert [g.server for g in registry.ended] == [away, away]
    [line] = logged
    assert "collection_drop_failed" in line
    for named in ("tenant=ada", f"generation={first.id}", f"server={away}", "reason=", "next="):
        assert named in line
