"""Which database wrote a marker: this one, or another one of the same origin? Pure decisions.

Everything inside a database is in each copy of it, so what tells two of them apart is where they
are: the system identifier of the Postgres server, and the oid of the database, which no other
database of that server has. A database's name is no part of it: two databases of a server never
have one name either, but a name can be changed, or given to another one.

| what happened                      | system | oid   | name  | outbox | the marker is           |
|------------------------------------|--------|-------|-------|--------|-------------------------|
| another address, host or folder    | same   | same  | same  | same   | this database's         |
| a failover, a restore of its files | same   | same  | same  | same   | this database's         |
| ``ALTER DATABASE … RENAME``        | same   | same  | other | same   | this database's         |
| dropped, and loaded under its name | same   | other | same  | other  | this database's         |
| a copy beside it (``TEMPLATE``,    | same   | other | any   | any    | the original's: refused |
| a dump), or one that took its name |        |       |       |        |                         |
| ``pg_upgrade``, a converted clone  | other  | same  | any   | same   | the original's: refused |
| a dump in another server           | other  | any   | any   | any    | the original's: refused |

The outbox is the oid of its table: pg_upgrade keeps it, a dump does not. A clone of the whole
server is told from its origin by its name alone, so a renamed database is recognised only where
nothing else differs: Postgres knows the marker's epoch, and has not changed its timeline since. A
database that took the name of another one is refused while that one exists. What is refused is used
again once an operator has confirmed that the other database is gone: ``migrate --take-over``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

# Version 0.1.0 wrote system/name, or the name alone.
WRITTEN = re.compile(r"(?P<system>\d*):(?P<oid>\d+)/(?P<name>.*)", re.DOTALL)
WRITTEN_BEFORE = re.compile(r"(?P<system>\d+)/(?P<name>.*)", re.DOTALL)

TAKE_OVER = (
    "if that database is gone for good, run `memory-pipeline migrate --take-over`; otherwise give "
    "this one a Chroma of its own"
)
GRANT = (
    "GRANT EXECUTE ON FUNCTION pg_control_system() to every role that the pipeline uses, or use "
    "one role for all of it"
)


@dataclass(frozen=True, slots=True)
class DatabaseId:
    """Where a database is.

    ``system``: the system identifier of its server; empty: the role may not read it. ``oid``: of
    the database; None: a version wrote the id that did not know it.
    """

    system: str
    oid: int | None
    name: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an id as any version wrote it."""
        if found := WRITTEN.fullmatch(text):
            return cls(found["system"], int(found["oid"]), found["name"])
        if found := WRITTEN_BEFORE.fullmatch(text):
            return cls(found["system"], None, found["name"])
        return cls("", None, text)

    @property
    def written(self) -> str:
        """The id as it is stored in markers and epochs."""
        return f"{self.system}:{self.oid}/{self.name}"

    @property
    def shown(self) -> str:
        """The database as a person knows it."""
        return f"{self.name!r} on server {self.system or 'unknown'}"

    def is_comparable(self, other: "DatabaseId") -> bool:
        """Whether both know their server, or neither does."""
        return bool(self.system) == bool(other.system)

    def is_beside(self, other: "DatabaseId") -> bool:
        """Whether both have the same oid, or one name where an oid is not known."""
        if self.oid is None or other.oid is None:
            return self.name == other.name
        return self.oid == other.oid


@dataclass(frozen=True, slots=True)
class WriterFacts:
    """What Postgres knows of the database that wrote a marker.

    ``epoch_known``: the marker's epoch is one of this database's. ``unmoved``: timeline and outbox
    are those of the newest epoch that was begun in that database; None: no epoch of it is known.
    ``same_outbox``: the same for the outbox alone. ``neighbours``: the databases of this server by
    oid, as far as the marker names one by its oid or its name.
    """

    epoch_known: bool
    unmoved: bool | None
    same_outbox: bool | None
    neighbours: Mapping[int, str]


def why_foreign(written: str, here: str, facts: WriterFacts) -> str:
    """Return why a marker is not this database's, and what to do; empty: it is this one's.

    Args:
        written: the id in the marker.
        here: the id of this database.
        facts: what Postgres knows of the one in the marker.

    """
    by, now = DatabaseId.parse(written), DatabaseId.parse(here)
    if not by.is_comparable(now):
        return (
            f"it was last written from database {by.shown}, and this is {now.shown}: whether they "
            f"are the same cannot be told without the system identifier; {GRANT}"
        )
    if by.system == now.system and _is_this(by, now, facts):
        return ""
    return (
        f"it was last written from database {by.shown}, and this is {now.shown}: "
        f"{_what_happened(by, now, facts)}; {TAKE_OVER}"
    )


def _is_this(by: DatabaseId, now: DatabaseId, facts: WriterFacts) -> bool:
    if by.name == now.name:
        return by.is_beside(now) or by.oid not in facts.neighbours
    renamed = by.oid is not None and by.oid == now.oid
    return renamed and facts.epoch_known and facts.unmoved is True


def _what_happened(by: DatabaseId, now: DatabaseId, facts: WriterFacts) -> str:
    if by.system != now.system:
        if by.is_beside(now) and facts.same_outbox:
            return "it seems that Postgres was upgraded by pg_upgrade"
        return (
            "it seems that a dump was loaded into another Postgres server, or that this is the "
            "address of another one"
        )
    if by.oid is not None and by.oid == now.oid:
        return "it was renamed, and is an older state or a clone of the one that wrote the marker"
    original = facts.neighbours.get(by.oid or 0)
    if original is None and by.name in facts.neighbours.values():
        original = by.name
    if original is not None:
        return f"this one is a copy, and the original, {original!r}, is still on this server"
    return "that database is not on this server any more, and this one was made from it"
