"""Repeated work in a thread of its own."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeating(name: str, every_seconds: float, work: Callable[[], None]) -> Iterator[None]:
    """Call ``work`` every so many seconds in a thread, until the block ends."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.wait(every_seconds):
            work()

    thread = threading.Thread(target=repeat, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
