"""Wake-up hints from Postgres, on a connection of their own. Polling finds what they miss."""

import random
import threading
from collections.abc import Callable

import psycopg

from memory_pipeline.logs import get_logger
from memory_pipeline.postgres.database import CONNECT_SECONDS

log = get_logger("memory_pipeline.listener")

CHANNEL = "memory_pipeline"
# How often it is looked whether the thread shall end.
TURN_SECONDS = 2.0
RETRY_SECONDS = 1.0
RETRY_MAX_SECONDS = 30.0


class Listener:
    """Calls ``wake`` whenever Postgres hints at changes, for as long as it runs.

    Hints may be off, or a pooler may swallow them; a connection that breaks is opened again.
    """

    def __init__(self, url: str, wake: Callable[[], None]) -> None:
        self._url = url
        self._wake = wake
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening; returns once the connection is closed."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        pause_seconds = RETRY_SECONDS
        while not self._stop.is_set():
            try:
                with psycopg.connect(
                    self._url, autocommit=True, connect_timeout=CONNECT_SECONDS
                ) as connection:
                    connection.execute(f"LISTEN {CHANNEL}")
                    self._wake()  # what was hinted at before nobody has heard
                    pause_seconds = RETRY_SECONDS
                    while not self._stop.is_set():
                        for _ in connection.notifies(timeout=TURN_SECONDS, stop_after=1):
                            self._wake()
            except psycopg.Error as error:
                log.warning("hints_lost", reason=str(error).partition("\n")[0])
                self._stop.wait(pause_seconds * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
                pause_seconds = min(RETRY_MAX_SECONDS, pause_seconds * 2)
