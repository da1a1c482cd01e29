"""Which Chroma server is at which address: pure decisions. servers.py probes, and acts on them.

A server is known by the UUID in its marker collection, never by its address. The three tables are
applied one after the other; in each, the first row that holds decides.

1. What is at an address:

| case      | the probe found                            | so the address                          |
|-----------|--------------------------------------------|-----------------------------------------|
| DOWN      | no answer                                  | is probed again; see the second table   |
| STRANGE   | a marker that the pipeline never wrote     | is refused                              |
| UNMARKED  | no marker                                  | see the third table                     |
| FOREIGN   | another installation's marker              | is refused: servers are never shared    |
| RETIRED   | a retired server's marker                  | is refused: its collections were rebuilt|
| COPY      | a marker that another address has          | is refused: a copy, or a second name    |
| ELSEWHERE | a marker that another database wrote       | is refused until this database takes    |
|           | (see domain/database_identity.py)          | over                                    |
| OURS      | a marker of this installation              | is that server's, and is registered     |

2. Where each server is that is registered, not retired and was not found:

| case            | the addresses                                | so the server                   |
|-----------------|----------------------------------------------|---------------------------------|
| REFUSED         | one has its marker and is refused            | is there, and refused as well   |
| DOWN            | the one where it was last seen is DOWN       | is down                         |
| MAYBE_ELSEWHERE | one is DOWN where no missing server was seen | may be there: nothing is lost   |
| LOST            | the one where it was last seen is UNMARKED;  | lost its data: reported, never  |
|                 | or another UNMARKED one is nobody's          | silently created again          |
| REPLACED        | another server is where it was last seen     | is reported                     |
| NOWHERE         | none of these                                | is reported                     |

3. What an UNMARKED address is:

| case       | the missing servers                              | so the address                |
|------------|--------------------------------------------------|-------------------------------|
| LEFT_ALONE | one is MAYBE_ELSEWHERE                           | gets no marker for now        |
| EMPTIED    | one is LOST and may have been here               | gets no marker                |
| NEW        | all are accounted for                            | is marked and registered      |

One address that is down, lost or foreign stops no other.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from uuid import UUID

from memory_pipeline.chroma.server_cases import (
    MESSAGES,
    AddressCase,
    MissingCase,
    UnmarkedCase,
    problem,
)
from memory_pipeline.chroma.server_map import Marker, ProbeResult, ServerMap, ServerProblem
from memory_pipeline.domain.epoch import EpochStamp
from memory_pipeline.domain.types import Server


@dataclass(frozen=True, slots=True)
class _Fate:
    """What became of a missing server; ``where``: it is, may be or lost its data there."""

    server: Server
    case: MissingCase
    where: Sequence[str] = ()


def identify_servers(
    probes: Sequence[ProbeResult],
    registered: Sequence[Server],
    installation: UUID,
    foreign: Mapping[EpochStamp, str] = MappingProxyType({}),
) -> ServerMap:
    """Decide which server is where, from what the addresses answer and what was registered.

    ``foreign``: the stamps that another database wrote, each with the reason and what to do.
    """
    found, addresses = _by_marker(probes, registered, installation, foreign)
    missing = [s for s in registered if s.state != "retired" and s.id not in found]
    fates = _fates(missing, addresses, {p.marker.server: p.url for p in probes if p.marker})
    cases = {
        url: _unmarked(url, fates) if case is AddressCase.UNMARKED else case
        for url, case in addresses.items()
    }
    idle = {
        probe.url: _problem_at(probe, cases[probe.url], fates, found, foreign)
        for probe in probes
        if cases[probe.url] in MESSAGES
    }
    absent = {
        fate.server.id: _problem_of(fate) if fate.case in MESSAGES else idle[fate.where[0]]
        for fate in fates
    }
    lost = {fate.server.id: fate.where[0] for fate in fates if fate.case is MissingCase.LOST}
    new = tuple(probe.url for probe in probes if cases[probe.url] is UnmarkedCase.NEW)
    return ServerMap(found, idle, absent, lost, new)


def _by_marker(
    probes: Sequence[ProbeResult],
    registered: Sequence[Server],
    installation: UUID,
    foreign: Collection[EpochStamp],
) -> tuple[dict[UUID, str], dict[str, AddressCase]]:
    """Apply the first table: return the servers that were found, and each address's case."""
    known = {s.id: s for s in registered}
    found: dict[UUID, str] = {}

    def is_last_seen(probe: ProbeResult) -> bool:
        server = known.get(probe.marker.server) if probe.marker else None
        return server is not None and server.url == probe.url

    cases = {probe.url: _without_marker(probe) for probe in probes}
    # The address of before first: of two that have one marker, the other is the copy.
    for probe in sorted(probes, key=is_last_seen, reverse=True):
        if probe.marker is not None:
            server = known.get(probe.marker.server)
            case = _with_marker(probe.marker, server, found, installation, foreign)
            cases[probe.url] = case
            if case is AddressCase.OURS:
                found[probe.marker.server] = probe.url
    return found, cases


def _without_marker(probe: ProbeResult) -> AddressCase:
    if probe.unreachable:
        return AddressCase.DOWN
    return AddressCase.STRANGE if probe.strange else AddressCase.UNMARKED


def _with_marker(
    marker: Marker,
    server: Server | None,
    found: Mapping[UUID, str],
    installation: UUID,
    foreign: Collection[EpochStamp],
) -> AddressCase:
    if marker.installation != installation:
        return AddressCase.FOREIGN
    if server is not None and server.state == "retired":
        return AddressCase.RETIRED
    if marker.server in found:
        return AddressCase.COPY
    may_take_over = server is not None and server.database_id is None
    if marker.stamp in foreign and not may_take_over:
        return AddressCase.ELSEWHERE
    return AddressCase.OURS


def _fates(
    missing: Sequence[Server],
    addresses: Mapping[str, AddressCase],
    marked: Mapping[UUID, str],
) -> list[_Fate]:
    """Apply the second table; ``marked``: the address that has each server's marker."""
    down = [url for url, case in addresses.items() if case is AddressCase.DOWN]
    unmarked = [url for url, case in addresses.items() if case is AddressCase.UNMARKED]
    last_seen = {s.url for s in missing}
    suspects = [url for url in down if url not in last_seen]
    nobodys = [url for url in unmarked if url not in last_seen]

    def fate_of(server: Server) -> _Fate:
        if server.id in marked:
            return _Fate(server, MissingCase.REFUSED, [marked[server.id]])
        if server.url in down:
            return _Fate(server, MissingCase.DOWN, [server.url])
        if suspects:
            return _Fate(server, MissingCase.MAYBE_ELSEWHERE, suspects)
        if server.url in unmarked:
            return _Fate(server, MissingCase.LOST, [server.url])
        if nobodys:
            return _Fate(server, MissingCase.LOST, nobodys)
        elsewhere = MissingCase.REPLACED if server.url in addresses else MissingCase.NOWHERE
        return _Fate(server, elsewhere)

    return [fate_of(server) for server in missing]


def _unmarked(url: str, fates: Iterable[_Fate]) -> UnmarkedCase:
    """Apply the third table."""
    if any(fate.case is MissingCase.MAYBE_ELSEWHERE for fate in fates):
        return UnmarkedCase.LEFT_ALONE
    if any(fate.case is MissingCase.LOST and url in fate.where for fate in fates):
        return UnmarkedCase.EMPTIED
    return UnmarkedCase.NEW


def _problem_at(
    probe: ProbeResult,
    case: AddressCase | UnmarkedCase,
    fates: Iterable[_Fate],
    found: Mapping[UUID, str],
    foreign: Mapping[EpochStamp, str],
) -> ServerProblem:
    in_doubt = [f for f in fates if f.case is MissingCase.MAYBE_ELSEWHERE]
    lost_here = [f for f in fates if f.case is MissingCase.LOST and probe.url in f.where]
    return problem(
        case,
        url=probe.url,
        probe=probe,
        original=found.get(probe.marker.server) if probe.marker else None,
        foreign=foreign.get(probe.marker.stamp) if probe.marker and probe.marker.stamp else None,
        servers=", ".join(str(fate.server.id) for fate in in_doubt or lost_here),
        suspects=", ".join(in_doubt[0].where) if in_doubt else "",
    )


def _problem_of(fate: _Fate) -> ServerProblem:
    return problem(fate.case, server=fate.server, suspects=", ".join(fate.where))
