"""What the supervisor keeps running: a service or the embedded Postgres, and when to try again."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from memory_pipeline.errors import PipelineError
from memory_pipeline.local.postgres import EmbeddedPostgres
from memory_pipeline.local.processes import Identity
from memory_pipeline.logs import get_logger

PAUSE_SECONDS = 0.5
PAUSE_LIMIT_SECONDS = 30.0
# A service that has lived this long has not been ending all the time.
SETTLED_SECONDS = 60.0

log = get_logger("memory_pipeline.local")


class ManagedService(Protocol):
    """Something that is started, watched and stopped."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def identity(self) -> Identity | None:
        """Its process."""

    @property
    def port(self) -> int | None:
        """Where it listens; None: not on TCP."""

    @property
    def log_file(self) -> Path:
        """Where it writes what it does."""

    def start(self) -> None:
        """Start it."""

    def alive(self) -> bool:
        """Whether its process runs."""

    def end_if_stuck(self) -> bool:
        """End it where it runs and will never work again; True: it was ended."""

    def stop(self) -> None:
        """Stop it and wait for its end."""


@dataclass(frozen=True, slots=True)
class ManagedPostgres:
    """The embedded Postgres as a part; it is no child and outlives a supervisor that is killed."""

    server: EmbeddedPostgres
    name: str = "postgres"
    port: int | None = None

    @property
    def identity(self) -> Identity | None:
        """The running server's process."""
        return self.server.identity()

    @property
    def log_file(self) -> Path:
        """The folder of its logs."""
        return self.server.place.data / "log"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.server.ensure_running()

    def alive(self) -> bool:
        """Whether it runs."""
        return self.server.alive()

    def end_if_stuck(self) -> bool:
        """Leave it alone: it ends by itself when it can work no more."""
        return False

    def stop(self) -> None:
        """Stop it; what is committed stays."""
        self.server.stop()


@dataclass(slots=True)
class Watched:
    """A part with the memory of how often it has ended."""

    part: ManagedService
    ended: int = 0
    started_at: float = field(default_factory=time.monotonic)
    start_again_at: float | None = None

    def look(self) -> bool:
        """Start the part again where it has ended and its pause is over; True: it was."""
        now = time.monotonic()
        if self.start_again_at is None:
            alive = self.part.alive()
            stuck = alive and self.part.end_if_stuck()
            if alive and not stuck:
                return False
            self.ended = 1 if now - self.started_at > SETTLED_SECONDS else self.ended + 1
            self._pause(now, "service was stuck and is killed" if stuck else "service ended")
            return False
        if now < self.start_again_at:
            return False
        self.started_at, self.start_again_at = now, None
        try:
            self.part.start()
        except (PipelineError, OSError) as error:  # a full disk ends by itself, the stack need not
            self.ended += 1
            self._pause(now, str(error))
            return False
        log.warning("service started again", service=self.part.name, ended=self.ended)
        return True

    def _pause(self, now: float, what: str) -> None:
        seconds = min(PAUSE_SECONDS * 2 ** min(self.ended - 1, 10), PAUSE_LIMIT_SECONDS)
        self.start_again_at = now + seconds
        log.warning(
            what, service=self.part.name, pause_seconds=seconds, log=str(self.part.log_file)
        )
