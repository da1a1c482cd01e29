"""When a service that has ended is started again: after a pause that doubles each time."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from memory_pipeline.backoff import Backoff
from memory_pipeline.clock import SYSTEM_CLOCK, Clock
from memory_pipeline.errors import PipelineError
from memory_pipeline.local.home import ListedService
from memory_pipeline.local.postgres import EmbeddedPostgres
from memory_pipeline.local.process_identity import Identity
from memory_pipeline.logs import get_logger

BACKOFF = Backoff(0.5, 30.0)
# A service that ran for longer than this was healthy: the pauses begin with the first one again.
SETTLED_SECONDS = 60.0

log = get_logger("memory_pipeline.local")


class ManagedService(Protocol):
    """A service that the supervisor starts, watches and stops."""

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
        """Where it logs."""

    def start(self) -> None:
        """Start the service."""

    def alive(self) -> bool:
        """Whether its process runs."""

    def kill_if_stuck(self) -> bool:
        """Kill the process if it will never work again; return whether it was killed."""

    def stop(self) -> None:
        """Stop the service and wait for its end."""


@dataclass(frozen=True, slots=True)
class ManagedPostgres:
    """The embedded Postgres as a service; no child: it outlives a supervisor that is killed."""

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
        return self.server.data / "log"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self.server.ensure_running()

    def alive(self) -> bool:
        """Whether the server runs."""
        return self.server.alive()

    def kill_if_stuck(self) -> bool:
        """Return False: a Postgres that cannot work any more ends by itself."""
        return False

    def stop(self) -> None:
        """Stop the server; nothing committed is lost."""
        self.server.stop()


@dataclass(slots=True)
class WatchedService:
    """A service, how often it has ended, and when it is started again."""

    service: ManagedService
    clock: Clock = SYSTEM_CLOCK
    ended: int = 0
    start_again_at: float | None = None
    _started_at: float = field(init=False)
    _last_pause: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        """Take this moment for its start."""
        self._started_at = self.clock.monotonic()

    def restart_if_ended(self) -> bool:
        """Start the service if it has ended and its pause is over; return whether it was started.

        A stuck service is killed, and so has ended. Never waits for the pause.
        """
        now = self.clock.monotonic()
        if self.start_again_at is None:
            alive = self.service.alive()
            stuck = alive and self.service.kill_if_stuck()
            if alive and not stuck:
                return False
            settled = now - self._started_at > SETTLED_SECONDS
            self.ended = 1 if settled else self.ended + 1
            self._last_pause = 0.0 if settled else self._last_pause
            self._pause(now)
            log.warning(
                "service_ended",
                service=self.service.name,
                reason="it was stuck, and was killed" if stuck else "its process ended by itself",
                log=str(self.service.log_file),
                next=f"the service is started again in {self._last_pause:g} s",
            )
            return False
        if now < self.start_again_at:
            return False
        self._started_at, self.start_again_at = now, None
        try:
            self.service.start()
        except (PipelineError, OSError) as error:  # a full disk passes: the other services go on
            self.ended += 1
            self._pause(now)
            log.warning(
                "service_start_failed",
                service=self.service.name,
                reason=str(error),
                log=str(self.service.log_file),
                next=f"the service is started again in {self._last_pause:g} s",
            )
            return False
        log.warning(
            "service_restarted",
            service=self.service.name,
            ended=self.ended,
            next="the service is watched as before",
        )
        return True

    def listed(self) -> ListedService | None:
        """Return the service as services.json lists it; None while it has no process."""
        identity = self.service.identity
        if identity is None:
            return None
        return ListedService(identity, self.service.port, str(self.service.log_file))

    def _pause(self, now: float) -> None:
        self._last_pause = BACKOFF.following(self._last_pause)
        self.start_again_at = now + self._last_pause
