"""The cases that server_identity.py distinguishes, and the message for each."""

from collections.abc import Mapping
from enum import Enum, auto

from memory_pipeline.chroma.server_map import ServerProblem


class AddressCase(Enum):
    """What is at an address."""

    DOWN = auto()
    STRANGE = auto()
    UNMARKED = auto()
    FOREIGN = auto()
    RETIRED = auto()
    COPY = auto()
    ELSEWHERE = auto()
    OURS = auto()


class MissingCase(Enum):
    """Where a server is that no address has answered for."""

    DOWN = auto()
    MAYBE_ELSEWHERE = auto()
    LOST = auto()
    REFUSED = auto()
    REPLACED = auto()
    NOWHERE = auto()


class UnmarkedCase(Enum):
    """What an address without a marker is."""

    LEFT_ALONE = auto()
    EMPTIED = auto()
    NEW = auto()


Case = AddressCase | MissingCase | UnmarkedCase

MESSAGES: Mapping[Case, str] = {
    AddressCase.DOWN: "{probe.unreachable}",
    AddressCase.STRANGE: "{probe.strange}",
    AddressCase.FOREIGN: (
        "Chroma at {probe.url} belongs to another installation ({probe.marker.installation}): "
        "point MEMORY_PIPELINE_CHROMA_URL or MEMORY_PIPELINE_CHROMA_URLS at a server of this one, "
        "or empty its volume if that installation is gone for good"
    ),
    AddressCase.RETIRED: (
        "Chroma at {probe.url} is server {probe.marker.server}, which was retired as lost: its "
        "collections are out of date; empty its volume, and it is registered as a new server"
    ),
    AddressCase.COPY: (
        "Chroma at {probe.url} answers as server {probe.marker.server}, as {original} does: set "
        "one address per server, and empty a copied volume"
    ),
    AddressCase.ELSEWHERE: "Chroma at {probe.url} is not used: {foreign}",
    UnmarkedCase.EMPTIED: (
        "Chroma at {probe.url} has lost its data (no marker; expected server {servers}): restore "
        "its volume, or retire it and rebuild its collections with `memory-pipeline rebuild`"
    ),
    UnmarkedCase.LEFT_ALONE: (
        "Chroma at {probe.url} has no marker, and gets none while {suspects} cannot be reached: "
        "server {servers} may be there, or have been here"
    ),
    MissingCase.MAYBE_ELSEWHERE: (
        "Chroma server {server.id}, last seen at {server.url}, may be at {suspects}, which cannot "
        "be reached"
    ),
    MissingCase.REPLACED: (
        "Chroma server {server.id} was last seen at {server.url}, where another one answers: start "
        "it there again with its own volume, or add the address where it is now to "
        "MEMORY_PIPELINE_CHROMA_URLS"
    ),
    MissingCase.NOWHERE: (
        "Chroma server {server.id}, last seen at {server.url}, is at none of the addresses that "
        "are set: add its address to MEMORY_PIPELINE_CHROMA_URLS"
    ),
}
# In every other case waiting does not help.
PASSING = {AddressCase.DOWN, UnmarkedCase.LEFT_ALONE, MissingCase.MAYBE_ELSEWHERE}
# A change can be seen at the address itself and at no other.
SETTLED_THERE = {AddressCase.DOWN, UnmarkedCase.EMPTIED}


def problem(case: Case, *, url: str = "", **facts: object) -> ServerProblem:
    """Return what is reported of an address or of a server in this case."""
    return ServerProblem(
        MESSAGES[case].format(**facts),
        lost=case not in PASSING,
        url=url if case in SETTLED_THERE else "",
    )
