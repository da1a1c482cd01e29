"""Compute results before the caller needs them: one thread, a bounded number of results."""

import threading
from collections.abc import Generator, Iterable
from queue import SimpleQueue
from typing import Protocol, TypeVar

T = TypeVar("T")


class Prefetch(Protocol):
    """A way to compute results ahead, as ``prefetch`` does."""

    def __call__(self, source: Iterable[T], *, depth: int) -> Generator[T]:
        """Iterate over ``source``, at most ``depth`` results ahead."""
        ...


class _End:
    """Marks the end of the results, with the error that ended them."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def prefetch(source: Iterable[T], *, depth: int) -> Generator[T]:
    """Iterate over ``source`` in a thread of its own, at most ``depth`` results ahead.

    No result is begun before there is space for it: memory holds ``depth`` results and the one that
    the caller has. Results keep their order; an error of the source is raised where its result
    would have come. Closing or exhausting the iterator ends the thread.
    """
    results: SimpleQueue[T | _End] = SimpleQueue()
    space = threading.Semaphore(depth)
    unwanted = threading.Event()

    def work() -> None:
        error: BaseException | None = None
        try:
            space.acquire()
            for result in source:
                if unwanted.is_set():
                    return
                results.put(result)
                del result  # it is the caller's now
                space.acquire()
        except BaseException as raised:  # noqa: BLE001 - raised again below, in the caller's thread
            error = raised
        results.put(_End(error))

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while not isinstance(result := results.get(), _End):
            space.release()
            yield result
        if result.error is not None:
            raise result.error
    finally:
        unwanted.set()
        space.release()
        thread.join()
