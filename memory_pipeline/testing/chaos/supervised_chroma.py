"""The Chroma server of the stack: faults break it, and it is watched as `up` watches its own."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

from memory_pipeline.local.chroma import ChromaProcess
from memory_pipeline.local.processes import ServiceFailed
from memory_pipeline.local.restarts import WatchedService


@dataclass(slots=True)
class TendedChroma:
    """A server; a fault that holds it decides alone when it runs again."""

    chroma: ChromaProcess
    # How often it was started again because it had ended, or was stuck.
    restarts: int = 0
    _watched: WatchedService = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Watch it from now on."""
        self._watched = WatchedService(self.chroma.service)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Leave it to a fault."""
        with self._lock:
            yield

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
        """Start it again where it has ended by itself, or is stuck."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            self.restarts += self._watched.restart_if_ended()
        finally:
            self._lock.release()
