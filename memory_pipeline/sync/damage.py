"""Is a tenant's collection damaged, and what becomes of it then.

A live generation that is damaged is condemned: searches go on asking it, nobody writes it any more,
and a rebuild takes its place.
"""

from dataclasses import dataclass

from memory_pipeline.domain.outcomes import Verdict
from memory_pipeline.errors import ChromaUnavailable, Corrupt, Fenced, Poison, Transient
from memory_pipeline.ports import Index, Lease, Registry

# Tried in vain so often in a row, which takes about a minute, a collection is looked at closely.
TRIES_BEFORE_A_LOOK = 5
# One that only is silent may be busy with what was sent to it before: for so many tries, which take
# about ten minutes, it is not called damaged.
SILENT_TRIES = 15


@dataclass(frozen=True, slots=True)
class Damage:
    """What the holder of a tenant's lease decides about its live collection."""

    registry: Registry
    index: Index

    def unless_wedged(self, lease: Lease) -> Verdict:
        """Have the tenant wait, unless waiting is of no use: then the collection is condemned."""
        if lease.retries < TRIES_BEFORE_A_LOOK:
            return "postponed"
        try:
            damage = self.wedged(lease)
        except Fenced:
            return "fenced"
        return self.condemn(lease, damage) if damage else "postponed"

    def wedged(self, lease: Lease) -> Corrupt | None:
        """Tell whether the live collection refuses what its server takes from others.

        Such a one never comes round: it is replaced, not tried for ever.

        Raises:
            PostgresUnavailable, Fenced: it cannot be told.

        """
        live = self.registry.live(lease.tenant)
        if live is None or live.state != "live" or not self.index.takes_writes(live.server):
            return None
        try:
            self.index.control_write(live, renew=lease.renew)
        except Corrupt as damage:
            return damage
        except (ChromaUnavailable, Poison) as refused:
            silent = isinstance(refused, ChromaUnavailable) and not refused.answered
            if silent and lease.retries < SILENT_TRIES:
                return None
            return Corrupt(
                f"it takes no write, tried {lease.retries + 1} times, and its server takes those "
                f"of others: {refused}",
                generation=live.id,
            )
        return None

    def condemn(self, lease: Lease, damage: Corrupt) -> Verdict:
        """Stop writing a damaged live generation, so that it is rebuilt."""
        live = self.registry.live(lease.tenant)
        if live is None or damage.generation != live.id:
            return "postponed"
        try:
            if live.state == "live":
                # Where the whole server is lost, this collection is not to blame.
                self.index.check_identity(live.server)
                self.registry.abandon(lease, live.id)
        except Transient:
            return "postponed"
        except Fenced:
            return "fenced"
        return "damaged"
