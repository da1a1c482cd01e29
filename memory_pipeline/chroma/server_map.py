"""What the addresses of Chroma answer, and which server is where: facts, decided elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from memory_pipeline.domain.epoch import EpochStamp
from memory_pipeline.errors import ChromaUnavailable, ServerLost


@dataclass(frozen=True, slots=True)
class Marker:
    """Which server this is, of which installation, and the last state of Postgres it was sent."""

    server: UUID
    installation: UUID
    stamp: EpochStamp | None = None

    @property
    def database_id(self) -> str | None:
        """The database that wrote the stamp; None before the first one."""
        return self.stamp.database_id if self.stamp else None


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What an address answered when its marker was read; none of the three: it has no marker.

    ``probed_at``: the start of the probe, on this process's monotonic clock. ``unreachable``: why
    there was no answer. ``strange``: why the marker is none of ours.
    """

    url: str
    probed_at: float
    marker: Marker | None = None
    unreachable: str = ""
    strange: str = ""


@dataclass(frozen=True, slots=True)
class ServerProblem:
    """Why an address or a server cannot be used.

    ``lost``: waiting does not help. ``url``: the one address where it can change; empty: it can
    change at any.
    """

    message: str
    lost: bool = False
    url: str = ""

    def error(self) -> ChromaUnavailable:
        """Return the error that a caller gets: nothing was sent."""
        if self.lost:
            return ServerLost(self.message)
        return ChromaUnavailable(self.message, sent=False)


@dataclass(frozen=True, slots=True)
class ServerMap:
    """Where every server is, as far as the addresses show.

    ``found``: the address of each usable server. ``idle``: the addresses that cannot be used.
    ``absent``: every other registered server that is not retired. ``lost``: the absent servers
    whose data is gone, each with the unmarked address in its place. ``new``: addresses to mark.
    """

    found: Mapping[UUID, str] = field(default_factory=dict)
    idle: Mapping[str, ServerProblem] = field(default_factory=dict)
    absent: Mapping[UUID, ServerProblem] = field(default_factory=dict)
    lost: Mapping[UUID, str] = field(default_factory=dict)
    new: tuple[str, ...] = ()

    def problems(self) -> list[ServerProblem]:
        """Return every problem once, those of addresses first."""
        return list(dict.fromkeys([*self.idle.values(), *self.absent.values()]))

    def problem_of(self, server: UUID) -> ServerProblem:
        """Return why a server that was not found cannot be used."""
        unknown = f"Chroma server {server} is retired or not registered: its collections are lost"
        return self.absent.get(server) or ServerProblem(unknown, lost=True)
