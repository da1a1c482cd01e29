"""Has Postgres gone back in time (a restore, a failover, a dump)? Pure decisions.

After a rollback the outbox says nothing about Chroma: acked changes are gone from it, and deleted
memories are back. So Postgres leaves a trace outside itself. Every half minute it begins an epoch,
named by a random nonce. The nonce is committed in Postgres first, and only then written to the
marker of each Chroma server, with the id of the database.

| Postgres                            | a marker                 | meaning                         |
|-------------------------------------|--------------------------|---------------------------------|
| begins its first epoch              | has no stamp             | nothing is known yet; no alarm  |
| knows the nonce, new or old         | has that nonce           | in order; an old nonce: a       |
|                                     |                          | server that was away, a crash   |
|                                     |                          | between the two writes, or two  |
|                                     |                          | processes that wrote at once    |
| does not know the nonce             | has that nonce           | **Postgres is an older state**  |
| is on another timeline              | any                      | **restored, or failed over**    |
| has another table as its outbox     | any                      | **a dump was loaded in place**  |
| is another database than in its     | any                      | **a dump was loaded elsewhere** |
| last epoch; not only renamed        |                          |                                 |

A nonce that raised the alarm is recorded, so that it raises it once: a server that was down then,
or a crash before its marker is written again, does not raise it a second time. Two copies of one
database that both use a server raise it again and again, which is reported.

Not detected: a copy of the whole data folder that is put back within half a minute, before any
marker has the next nonce.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from memory_pipeline.domain.database_identity import DatabaseId
from memory_pipeline.domain.types import TenantId

AHEAD = "Chroma has seen a later state of this database"
# Three rollbacks within the hour are no restores: two databases use the same Chroma.
RECENT_SECONDS = 3600.0
TOO_MANY_ROLLBACKS = 3


@dataclass(frozen=True, slots=True)
class DatabaseLocation:
    """Which database this is, and on which history.

    ``database_id``: the server, the database's oid and its name (``DatabaseId``). ``timeline``:
    grows with each restore to a point in time and each failover; 0: the role may not read it.
    ``outbox``: the oid of the outbox table, which is another one after a dump was loaded.
    """

    database_id: str
    timeline: int
    outbox: int


@dataclass(frozen=True, slots=True)
class EpochStamp:
    """What a marker records of Postgres: the database, and the newest epoch written to it."""

    database_id: str
    nonce: UUID


@dataclass(frozen=True, slots=True)
class RollbackSign:
    """One sign that Postgres went back in time; ``nonce``: the one that Postgres does not know."""

    reason: str
    nonce: UUID | None = None


def rollback_signs(
    now: DatabaseLocation,
    before: DatabaseLocation | None,
    stamps: Collection[EpochStamp],
    known: Collection[UUID],
) -> list[RollbackSign]:
    """Return every sign that Postgres went back in time.

    Args:
        now: the location of the database.
        before: its location when it began its newest epoch; None: it has begun none.
        stamps: the markers' stamps. They have to be read before ``known``: a nonce is in Postgres
            before it is in a marker.
        known: those of their nonces that Postgres knows.

    """
    moved = "" if before is None else how_moved(now, before)
    signs = [RollbackSign(moved)] if moved else []
    unknown = {stamp.nonce for stamp in stamps}.difference(known)
    return [*signs, *(RollbackSign(AHEAD, nonce) for nonce in sorted(unknown))]


def how_moved(now: DatabaseLocation, before: DatabaseLocation) -> str:
    """Return how a database has moved since; empty: it has not, or was only renamed.

    What a role may not read is not compared: two roles that see different parts of one location are
    no sign of a rollback.
    """
    was, is_now = DatabaseId.parse(before.database_id), DatabaseId.parse(now.database_id)
    other_server = bool(was.system and is_now.system) and was.system != is_now.system
    if other_server and was.is_beside(is_now) and before.outbox == now.outbox:
        return f"pg_upgrade, it seems: it was at {was.shown}, and is at {is_now.shown}"
    if other_server or not (was.is_beside(is_now) or was.name == is_now.name):
        return f"a dump was loaded elsewhere: it was at {was.shown}, and is at {is_now.shown}"
    if before.timeline != now.timeline and before.timeline and now.timeline:
        return (
            "the server was restored or failed over: it was on timeline "
            f"{before.timeline}, and is on {now.timeline}"
        )
    if before.outbox != now.outbox or not was.is_beside(is_now):
        return "a dump was loaded in place"
    return ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The signs that Postgres went back in time."""

    signs: tuple[RollbackSign, ...] = ()

    @property
    def settled(self) -> bool:
        """Whether no sign is left to record: the markers may be written."""
        return not self.signs


@dataclass(frozen=True, slots=True)
class UnprovenTenants:
    """The tenants that were not compared with Chroma since Postgres went back in time.

    ``since``: the time of the earliest rollback among them. ``recent_rollbacks``: those detected in
    the last hour.
    """

    tenants: frozenset[TenantId] = frozenset()
    since: datetime | None = None
    reason: str = ""
    recent_rollbacks: int = 0

    def problems(self) -> list[str]:
        """Return a line for each problem, for an operator."""
        lines = []
        if self.tenants:
            lines.append(
                f"UNPROVEN since {self.since:%Y-%m-%d %H:%M:%S %Z}: {len(self.tenants)} tenants. "
                f"Postgres went back in time ({self.reason}). Each is compared with Chroma and "
                "repaired; searches and syncs continue"
            )
        if self.recent_rollbacks >= TOO_MANY_ROLLBACKS:
            lines.append(
                f"Postgres went back {self.recent_rollbacks} times within the hour: it seems that "
                "a copy of this database uses the same Chroma servers; stop one of the two"
            )
        return lines
