"""Has Postgres gone back in time, so that Chroma is ahead of it? Decided here; no I/O.

Chroma cannot be compared with a state that Postgres has forgotten: what was acked is no longer in
the outbox, what was deleted is back. So Postgres leaves a trace outside itself. Every half minute
it begins an epoch, named by a random nonce: the nonce is committed in Postgres first, and only then
written to the marker of each Chroma server, with the home of the database.

| Postgres                            | a marker                 | meaning                        |
|-------------------------------------|--------------------------|--------------------------------|
| begins its first epoch              | has no stamp             | nothing is known yet; no alarm |
| knows the nonce, new or old         | has that nonce           | as it should be; an old one: a |
|                                     |                          | server that was away, a crash  |
|                                     |                          | between the two writes, or two |
|                                     |                          | processes that wrote at once   |
| does not know the nonce             | has that nonce           | **Postgres is an older state** |
| is on another timeline              | whatever                 | **restored, or failed over**   |
| has another table as its outbox     | whatever                 | **a dump was loaded in place** |
| is elsewhere than in its last epoch | whatever                 | **a dump was loaded elsewhere** |

A nonce that raised the alarm is noted, so that it raises it once: a server that was down then, or a
crash before its marker is written anew, starts nothing over. Two copies of one database that both
use a server raise it again and again, and that is said.

What the nonces cannot see: a copy of the whole data folder that is put back within half a minute,
before a marker was told of the next epoch.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from memory_pipeline.domain.types import TenantId

AHEAD = "Chroma has seen a later state of this database"


@dataclass(frozen=True, slots=True)
class DatabaseLocation:
    """Where the database lives.

    ``database_id``: the server's system identifier and the database's name. ``timeline``: grows
    with each restore to a point in time and each failover. ``outbox``: the oid of the outbox.
    """

    database_id: str
    timeline: int
    outbox: int


@dataclass(frozen=True, slots=True)
class EpochStamp:
    """What a marker says of Postgres: whose it is, and the newest epoch that it was told of."""

    database_id: str
    nonce: UUID


@dataclass(frozen=True, slots=True)
class RollbackSign:
    """One sign that Postgres is no longer what it was; with the nonce that it does not know."""

    reason: str
    nonce: UUID | None = None


def rollback_signs(
    now: DatabaseLocation,
    before: DatabaseLocation | None,
    stamps: Collection[EpochStamp],
    known: Collection[UUID],
) -> list[RollbackSign]:
    """Tell every sign that Postgres went back, or may have.

    Args:
        now: where the database is.
        before: where it was when it began its newest epoch; None: it has begun none.
        stamps: what the markers say. They have to be read before ``known`` is.
        known: the nonces among them that Postgres knows.

    """
    found = [] if before is None or before == now else [RollbackSign(_moved(now, before))]
    strange = {stamp.nonce for stamp in stamps}.difference(known)
    return [*found, *(RollbackSign(AHEAD, nonce) for nonce in sorted(strange))]


def _moved(now: DatabaseLocation, before: DatabaseLocation) -> str:
    if before.database_id != now.database_id:
        return (
            f"a dump was loaded elsewhere: it was at {before.database_id}, "
            f"and is at {now.database_id}"
        )
    if before.timeline != now.timeline:
        return (
            "the server was restored or failed over: it was on timeline "
            f"{before.timeline}, and is on {now.timeline}"
        )
    return "a dump was loaded in place"


# So many setbacks in so many seconds are no restores: two databases use one Chroma.
RECENT_SECONDS = 3600.0


TOO_MANY_ROLLBACKS = 3


@dataclass(frozen=True, slots=True)
class Comparison:
    """The signs that Postgres went back; and whether anything was noted since this process looked.

    What a process remembers of Postgres may be wrong after a setback, whoever noted it.
    """

    signs: tuple[RollbackSign, ...] = ()
    recorded_since: bool = False

    @property
    def settled(self) -> bool:
        """Whether nothing was found that is not noted yet: the markers may be written."""
        return not self.signs


@dataclass(frozen=True, slots=True)
class UnprovenTenants:
    """Which tenants are unproven since when, and why."""

    tenants: frozenset[TenantId] = frozenset()
    since: datetime | None = None
    reason: str = ""
    recent_rollbacks: int = 0

    def problems(self) -> list[str]:
        """Say it in lines for a person."""
        found = []
        if self.tenants:
            found.append(
                f"UNPROVEN since {self.since:%Y-%m-%d %H:%M:%S %Z}: {len(self.tenants)} tenants. "
                f"Postgres went back in time ({self.reason}). Each is compared with Chroma and "
                "brought right; searches and syncs go on"
            )
        if self.recent_rollbacks >= TOO_MANY_ROLLBACKS:
            found.append(
                f"Postgres went back {self.recent_rollbacks} times within the hour: it looks as if "
                "a copy of this database used the same Chroma servers; stop one of the two"
            )
        return found
