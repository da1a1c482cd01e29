"""Which server stands at which address, and what is wrong: decided here, asked and done elsewhere.

The cases are those of the table in chroma/servers.py.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from memory_pipeline.domain.epoch import EpochStamp
from memory_pipeline.domain.types import Server
from memory_pipeline.errors import ChromaUnavailable, ServerLost


@dataclass(frozen=True, slots=True)
class Marker:
    """Which server this is, whose, and what it was last told of Postgres."""

    server: UUID
    installation: UUID
    stamp: EpochStamp | None = None

    @property
    def database_id(self) -> str | None:
        """From where it was last written."""
        return self.stamp.database_id if self.stamp else None


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What an address said when it was asked for its marker; nothing of the three: there is none.

    ``asked_at`` is a moment of this process's monotonic clock.
    """

    url: str
    asked_at: float
    marker: Marker | None = None
    unreachable: str = ""
    strange: str = ""


@dataclass(frozen=True, slots=True)
class ServerProblem:
    """Why an address or a server cannot be used.

    ``lost``: waiting does not help. ``url``: the address to ask before anything can have changed.
    """

    message: str
    lost: bool = False
    url: str = ""

    def error(self) -> ChromaUnavailable:
        """Return it as the error that a caller gets: nothing was sent."""
        if self.lost:
            return ServerLost(self.message)
        return ChromaUnavailable(self.message, sent=False)


@dataclass(frozen=True, slots=True)
class ServerMap:
    """Where every server is, as far as the addresses tell.

    ``found``: the address of each server that can be used. ``idle``: the addresses that cannot.
    ``absent``: every other registered server that is not retired. ``lost``: those of them whose
    data is gone, each with the unmarked address in its place. ``new``: addresses to be marked.
    """

    found: Mapping[UUID, str] = field(default_factory=dict)
    idle: Mapping[str, ServerProblem] = field(default_factory=dict)
    absent: Mapping[UUID, ServerProblem] = field(default_factory=dict)
    lost: Mapping[UUID, str] = field(default_factory=dict)
    new: tuple[str, ...] = ()

    def problems(self) -> list[ServerProblem]:
        """Return everything that is not fine, once each, the addresses first."""
        return list(dict.fromkeys([*self.idle.values(), *self.absent.values()]))

    def trouble(self, server: UUID) -> ServerProblem:
        """Return why a server that is not among those found cannot be used."""
        unknown = f"Chroma server {server} is retired or not registered: its collections are lost"
        return self.absent.get(server) or ServerProblem(unknown, lost=True)


def identify_servers(
    answers: Sequence[ProbeResult],
    registered: Sequence[Server],
    installation: UUID,
    database_id: str | None = None,
) -> ServerMap:
    """Tell servers by what the addresses answer and by what was registered before that.

    ``database_id``: where the database is now; None: no matter.
    """
    found, idle = _by_marker(answers, registered, installation, database_id)
    missing = [s for s in registered if s.state != "retired" and s.id not in found]
    unmarked = [a.url for a in answers if a.marker is None and a.url not in idle]
    down = [a.url for a in answers if a.unreachable]
    # Who was last seen at an address that cannot be reached is taken to be there still.
    absent = {s.id: idle[s.url] for s in missing if s.url in down}
    gone = [s for s in missing if s.id not in absent]
    unknown = [url for url in down if url not in {s.url for s in missing}]
    if gone and unknown:
        idle |= {url: _left_alone(url, gone, unknown) for url in unmarked}
        absent |= {s.id: _perhaps_there(s, unknown) for s in gone}
        return ServerMap(found, _in_order(idle, answers), absent)
    lost: dict[UUID, str] = {}
    for places, owners in _places(gone, unmarked):
        idle |= {url: _emptied(url, owners) for url in places}
        absent |= {s.id: idle[places[0]] for s in owners}
        lost |= {s.id: places[0] for s in owners}
    absent |= {s.id: _nowhere(s) for s in gone if s.id not in lost}
    new = tuple(url for url in unmarked if url not in idle)
    return ServerMap(found, _in_order(idle, answers), absent, lost, new)


def _by_marker(
    answers: Sequence[ProbeResult],
    registered: Sequence[Server],
    installation: UUID,
    database_id: str | None,
) -> tuple[dict[UUID, str], dict[str, ServerProblem]]:
    """Take each marker at its word, where it may be taken; return the rest as trouble."""
    usual = {s.id: s.url for s in registered}
    free = {s.id for s in registered if s.database_id is None}
    retired = {s.id for s in registered if s.state == "retired"}
    found: dict[UUID, str] = {}
    idle: dict[str, ServerProblem] = {}
    # The usual address first: of two that answer as one server, the other one is the copy.
    for answer in sorted(
        answers, key=lambda a: not (a.marker and usual.get(a.marker.server) == a.url)
    ):
        url, marker = answer.url, answer.marker
        if answer.unreachable:
            idle[url] = ServerProblem(answer.unreachable, url=url)
        elif answer.strange:
            idle[url] = ServerProblem(answer.strange, lost=True)
        elif marker is None:
            continue
        elif marker.installation != installation:
            idle[url] = _foreign(url, marker)
        elif marker.server in retired:
            idle[url] = _returned(url, marker)
        elif marker.server in found:
            idle[url] = _twin(url, marker, found[marker.server])
        elif (
            database_id
            and marker.database_id not in {None, database_id}
            and marker.server not in free
        ):
            idle[url] = _elsewhere(url, marker.database_id, database_id)
        else:
            found[marker.server] = url
    return found, idle


def _places(
    gone: Sequence[Server], unmarked: Sequence[str]
) -> Iterator[tuple[list[str], list[Server]]]:
    """Pair unmarked addresses with the servers whose places they are.

    A server that was last seen at such an address has lost its data there. The others may have been
    at any of those that are left.
    """
    for url in unmarked:
        owners = [s for s in gone if s.url == url]
        if owners:
            yield [url], owners
    others = [s for s in gone if s.url not in unmarked]
    left = [url for url in unmarked if url not in {s.url for s in gone}]
    if others and left:
        yield left, others


def _in_order(
    idle: Mapping[str, ServerProblem], answers: Sequence[ProbeResult]
) -> dict[str, ServerProblem]:
    return {a.url: idle[a.url] for a in answers if a.url in idle}


def _foreign(url: str, marker: Marker) -> ServerProblem:
    return ServerProblem(
        f"Chroma at {url} belongs to another installation ({marker.installation}): point "
        "MEMORY_PIPELINE_CHROMA_URL or MEMORY_PIPELINE_CHROMA_URLS at a server of this one",
        lost=True,
    )


def _returned(url: str, marker: Marker) -> ServerProblem:
    return ServerProblem(
        f"Chroma at {url} is server {marker.server}, which was given up as lost: its collections "
        "are of the past; empty its volume, and it is taken as a new server",
        lost=True,
    )


def _twin(url: str, marker: Marker, other: str) -> ServerProblem:
    return ServerProblem(
        f"Chroma at {url} answers as server {marker.server}, as {other} does: name one address a "
        "server, and empty a copied volume",
        lost=True,
    )


def _elsewhere(url: str, there: str | None, database_id: str) -> ServerProblem:
    return ServerProblem(
        f"Chroma at {url} is used by a copy of this database, or this one is the copy: it was last "
        f"written from {there}, and this is {database_id}. If that one is gone for good: "
        "`memory-pipeline migrate --take-over`; otherwise give this one a Chroma of its own",
        lost=True,
    )


def _emptied(url: str, owners: Sequence[Server]) -> ServerProblem:
    return ServerProblem(
        f"Chroma at {url} has lost its data (no marker; expected server {_named(owners)}): "
        "bring its volume back, or give it up with `memory-pipeline rebuild`",
        lost=True,
        url=url,
    )


def _nowhere(server: Server) -> ServerProblem:
    return ServerProblem(
        f"Chroma server {server.id}, last seen at {server.url}, is at none of the addresses that "
        "are set: add its address to MEMORY_PIPELINE_CHROMA_URLS",
        lost=True,
    )


def _perhaps_there(server: Server, unknown: Sequence[str]) -> ServerProblem:
    return ServerProblem(
        f"Chroma server {server.id}, last seen at {server.url}, may be at {', '.join(unknown)}, "
        "which cannot be reached"
    )


def _left_alone(url: str, gone: Sequence[Server], unknown: Sequence[str]) -> ServerProblem:
    return ServerProblem(
        f"Chroma at {url} has no marker, and gets none while {', '.join(unknown)} cannot be "
        f"reached: server {_named(gone)} may be there, or have been here"
    )


def _named(servers: Iterable[Server]) -> str:
    return ", ".join(str(s.id) for s in servers)
