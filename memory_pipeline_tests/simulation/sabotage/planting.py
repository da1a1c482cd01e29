"""How a bug is named and planted."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from memory_pipeline.ports import Lease
from memory_pipeline_tests.fakes import (
    FakeWorld,
)
from memory_pipeline_tests.simulation.world import SimulatedWorld


@dataclass(frozen=True, slots=True)
class Bug:
    """A bug that can be planted.

    ``guard``: what it takes away. ``harm``: collections are harmed beside it. ``behind``: a second
    guard, which makes it harmless; most of these are planted once more, without that one.
    """

    plant: Callable[[], AbstractContextManager[None]]
    guard: str
    harm: bool
    behind: str


BUGS: dict[str, Bug] = {}
Planting = Callable[[], Iterator[None]]


def bug(
    name: str, guard: str, *, harm: bool = True, behind: str = ""
) -> Callable[[Planting], Planting]:
    """Name a bug, and the guard that it takes away."""

    def named(planting: Planting) -> Planting:
        BUGS[name] = Bug(contextmanager(planting), guard, harm, behind)
        return planting

    return named


def together(name: str, guard: str, *bugs: str, harm: bool = True) -> None:
    """Name the bug of several at once: one, and what takes away the guard behind it."""

    @bug(name, guard, harm=harm)
    def _() -> Iterator[None]:
        with ExitStack() as planted:
            for each in bugs:
                planted.enter_context(BUGS[each].plant())
            yield


def instead(where: Any, name: str, made: Callable[[Any], Any]) -> Any:
    """Put something in the place of a method; it is made from the method itself."""
    return patch.object(where, name, made(getattr(where, name)))


# ---- the fourteen that every such pipeline has to notice


RENEWED = "S11 a lease is renewed without its token"

# ---- tools of the bugs


@contextmanager
def _unfenced(*steps: str) -> Iterator[None]:
    """Let these steps of the fakes go on under a dead token."""

    def made_fence(fence: Any) -> Any:
        def lenient(self: SimulatedWorld, lease: Lease) -> None:
            if self.doing not in steps:
                fence(self, lease)

        return lenient

    def made_holds(holds: Any) -> Any:
        def lenient(self: SimulatedWorld, lease: Lease) -> bool:
            return self.doing in steps or holds(self, lease)

        return lenient

    with instead(FakeWorld, "fence", made_fence), instead(FakeWorld, "holds", made_holds):
        yield
