"""The Chroma server of the stack: faults break it, and whoever runs it keeps it alive otherwise."""

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

from memory_pipeline.local.chroma import ChromaProcess
from memory_pipeline.local.processes import ServiceFailed

# Longer than any fault of the link lasts that a probe of the server itself does not see anyway.
CLOSED_SECONDS = 30.0
ENDED = "chroma started again that had ended by itself"
CLOSED = "chroma restarted that took no write for half a minute"


@dataclass(slots=True)
class TendedChroma:
    """A server; a fault that holds it decides alone when it runs again.

    ``takes_writes`` asks the server itself, around whatever breaks the way to it. What was done by
    hand, because nothing of the product does it, is counted in ``helped``.
    """

    chroma: ChromaProcess
    takes_writes: Callable[[], bool]
    helped: Counter[str]
    closed_seconds: float = CLOSED_SECONDS
    _closed_since: float | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Leave it to a fault."""
        with self._lock:
            try:
                yield
            finally:
                self._closed_since = None

    def signal(self, number: signal.Signals) -> psutil.Process:
        """Send it a signal; only while it is held.

        Raises:
            ServiceFailed: it is not there.

        """
        identity = self.chroma.service.identity
        process = identity.process() if identity else None
        if process is None:
            raise ServiceFailed("Chroma was not there to be broken")
        process.send_signal(number)
        return process

    def kill(self) -> None:
        """Kill it where it still lives; only while it is held."""
        service = self.chroma.service
        identity = service.identity
        process = identity.process() if identity else None
        if process is not None:
            process.kill()
        service.stop()  # takes note of its end

    def start(self) -> None:
        """Start it on what it has on disk; only while it is held."""
        self.chroma.service.start()
        self.chroma.service.wait_until_healthy()

    def tend(self) -> None:
        """Start it again where it has ended by itself, or has taken no write for too long."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            why = self._wrong()
            if why:
                self.kill()
                self.start()
                self.helped[why] += 1
                self._closed_since = None
        except ServiceFailed:
            return  # the next look tries again
        finally:
            self._lock.release()

    def _wrong(self) -> str:
        if not self.chroma.alive():
            return ENDED
        if self.takes_writes():
            self._closed_since = None
            return ""
        if self._closed_since is None:
            self._closed_since = time.monotonic()
        return CLOSED if time.monotonic() - self._closed_since >= self.closed_seconds else ""
