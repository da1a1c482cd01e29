"""The real parts of the pipeline, with functions of a test around some of their methods."""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, TypeVar, cast

from memory_pipeline.domain.types import Generation, MemoryId

T = TypeVar("T")


class Around:
    """A part whose named methods run through functions of the test; all others pass.

    ``functions``: by the name of a method; each is called with the real method and its arguments.
    """

    def __init__(self, inner: Any, functions: dict[str, Callable[..., Any]]) -> None:
        self._inner = inner
        self._functions = functions

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        function = self._functions.get(name)
        return method if function is None else partial(function, method)


def around(inner: T, **functions: Callable[..., Any]) -> T:
    """Return a part that is like another one, but for these methods."""
    return cast("T", Around(inner, functions))


class Killed(BaseException):
    """The process ends here: nothing catches this."""


def raises(error: BaseException, *, times: int = 10**9) -> Callable[..., None]:
    """Return a function that raises so often, and then returns."""
    left = [times]

    def fail(*_: object) -> None:
        if left[0] > 0:
            left[0] -= 1
            raise error

    return fail


def _nothing(*_: object) -> None:
    """Let nothing happen."""


def meddled_index(
    index: T,
    *,
    before: Callable[[Generation, Collection[MemoryId]], None] = _nothing,
    after: Callable[[Generation, Collection[MemoryId]], None] = _nothing,
    on_control: Callable[[], None] = _nothing,
    on_prime: Callable[[Generation], None] = _nothing,
    on_hashes: Callable[[Generation], None] = _nothing,
    hides: tuple[MemoryId, ...] = (),
) -> T:
    """Return an index in whose calls a test acts.

    ``before`` and ``after``: around a write of these memories; an empty write is left alone.
    ``hides``: documents that no query lists, besides the real ones.
    """

    def write(call: Any, generation: Generation, documents: Any, deletes: Any, **how: Any) -> None:
        ids = [*(d.memory_id for d in documents), *deletes]
        if ids:
            before(generation, ids)
        call(generation, documents, deletes, **how)
        if ids:
            after(generation, ids)

    def control_write(call: Any, generation: Generation, **how: Any) -> None:
        on_control()
        call(generation, **how)

    def prime(call: Any, generation: Generation, **how: Any) -> None:
        on_prime(generation)
        call(generation, **how)

    def hashes(call: Any, generation: Generation, **how: Any) -> Any:
        on_hashes(generation)
        return call(generation, **how)

    def unreachable(call: Any, generation: Generation, **how: Any) -> list[MemoryId]:
        return [*call(generation, **how), *hides]

    return around(
        index,
        write=write,
        control_write=control_write,
        prime=prime,
        hashes=hashes,
        unreachable=unreachable,
    )
