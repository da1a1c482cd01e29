"""The Chroma server of the stack: faults break it, and it is restarted as `up` restarts its own."""

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
class SupervisedChroma:
    """A server; while a fault holds it, only the fault starts it again."""

    server: ChromaProcess
    # How often it was restarted because it had ended by itself, or was stuck.
    restarts: int = 0
    _watched: WatchedService = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Watch the server from now on."""
        self._watched = WatchedService(self.server.service)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Suspend restarts during the block: a fault has the server to itself."""
        with self._lock:
            yield

    def signal(self, number: signal.Signals) -> psutil.Process:
        """Send the server a signal; only while it is held.

        Raises:
            ServiceFailed: it is not running.

        """
        identity = self.server.service.identity
        process = identity.process() if identity else None
        if process is None:
            raise ServiceFailed("Chroma is not running, so it gets no signal")
        process.send_signal(number)
        return process

    def kill(self) -> None:
        """Kill the server if it runs; only while it is held."""
        service = self.server.service
        identity = service.identity
        process = identity.process() if identity else None
        if process is not None:
            process.kill()
        service.stop()  # records that it has ended

    def start(self) -> None:
        """Start the server on its files and wait until it answers; only while it is held."""
        self.server.service.start()
        self.server.service.wait_until_healthy()

    def restart_if_needed(self) -> None:
        """Restart the server if it has ended by itself or is stuck, unless a fault holds it."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            self.restarts += self._watched.restart_if_ended()
        finally:
            self._lock.release()
