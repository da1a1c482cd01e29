"""Doing something every few seconds beside the rest."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def beside(name: str, every: float, do: Callable[[], None]) -> Iterator[None]:
    """Do it every so many seconds in a thread, until the block ends."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.wait(every):
            do()

    thread = threading.Thread(target=repeat, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
