"""Work ahead of whoever needs the results: one thread, one bounded queue."""

import threading
from collections.abc import Generator, Iterable
from queue import Full, Queue
from typing import TypeVar

T = TypeVar("T")

# How soon a thread notices that nobody waits for its results any more.
NOTICE_SECONDS = 0.2


class _End:
    """Marks the end, and the error that it came with."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def ahead(source: Iterable[T], *, depth: int) -> Generator[T]:
    """Iterate over ``source`` in a thread of its own, at most ``depth`` results ahead.

    The results come in order; an error of the source is raised where its result would have come.
    Closing the iterator, or leaving it to its end, ends the thread.
    """
    results: Queue[T | _End] = Queue(depth)
    unwanted = threading.Event()

    def hand_over(result: T | _End) -> None:
        while not unwanted.is_set():
            try:
                results.put(result, timeout=NOTICE_SECONDS)
            except Full:
                continue
            return

    def work() -> None:
        error: BaseException | None = None
        try:
            for result in source:
                hand_over(result)
                if unwanted.is_set():
                    return
        except BaseException as raised:  # noqa: BLE001 - raised again below, where it is awaited
            error = raised
        hand_over(_End(error))

    thread = threading.Thread(target=work, name="ahead", daemon=True)
    thread.start()
    try:
        while not isinstance(result := results.get(), _End):
            yield result
        if result.error is not None:
            raise result.error
    finally:
        unwanted.set()
        thread.join()
