"""Wake-up hints from Postgres, on a connection of their own. Polling finds what they miss."""

import threading
from collections.abc import Callable

import psycopg

from memory_pipeline.backoff import Backoff
from memory_pipeline.logs import get_logger
from memory_pipeline.postgres.connection import CONNECT_SECONDS, is_pooled

log = get_logger("memory_pipeline.postgres.listener")

CHANNEL = "memory_pipeline"
CHECK_SECONDS = 2.0  # the longest that ``stop`` waits
BACKOFF = Backoff(1.0, 30.0)


class Listener:
    """Calls ``wake`` whenever Postgres hints at changes, from ``start`` until ``stop``.

    Hints may be off. A lost connection is opened again, and wakes. Behind a connection pooler it
    does not listen: the hints would go to another client of the same session, whose state LISTEN
    would change.

    Args:
        url: the database.
        wake: called in the listener's thread.
        check_seconds: how often the thread checks whether it was stopped.
        backoff: the pauses between attempts to connect.
        may_connect: whether a lost connection may be opened again now.

    """

    def __init__(
        self,
        url: str,
        wake: Callable[[], None],
        *,
        check_seconds: float = CHECK_SECONDS,
        backoff: Backoff = BACKOFF,
        may_connect: Callable[[], bool] = lambda: True,
    ) -> None:
        self._url = url
        self._wake = wake
        self._check_seconds = check_seconds
        self._backoff = backoff
        self._may_connect = may_connect
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening; return once the connection is closed."""
        self._stop.set()
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether its thread runs: it ends with ``stop``, and at once behind a pooler."""
        return self._thread.is_alive()

    def _run(self) -> None:
        pause, connected = 0.0, False
        while not self._stop.is_set():
            try:
                with psycopg.connect(
                    self._url, autocommit=True, connect_timeout=CONNECT_SECONDS
                ) as connection:
                    if is_pooled(connection):
                        self._decline()
                        return
                    connection.execute(f"LISTEN {CHANNEL}")
                    self._wake()  # hints sent before the LISTEN are lost
                    pause, connected = 0.0, True
                    while not self._stop.is_set():
                        for _ in connection.notifies(timeout=self._check_seconds, stop_after=1):
                            self._wake()
            except psycopg.Error as error:
                pause = self._backoff.following(pause)
                log.warning(
                    "listen_connection_lost",
                    reason=str(error).partition("\n")[0],
                    next="polling finds changes; the listener connects again in a few seconds, "
                    "or with the next poll of a worker that rests",
                )
                self._stop.wait(self._backoff.jittered(pause))
                # A database that went to sleep closed the connection; a new one would wake it.
                while connected and not self._stop.is_set() and not self._may_connect():
                    self._stop.wait(self._check_seconds)
                connected = False

    def _decline(self) -> None:
        log.warning(
            "listen_behind_pooler",
            next="polling finds changes; for hints set MEMORY_PIPELINE_LISTEN_URL to the address "
            "of the server itself",
        )


class NoListener:
    """Listens to nothing, where no hints are sent: no connection is kept open for them."""

    def __init__(self, _wake: Callable[[], None]) -> None:
        pass

    def start(self) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""
