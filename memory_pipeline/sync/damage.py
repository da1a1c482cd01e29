"""Decide whether a tenant's live collection is damaged, and condemn it.

A condemned generation is still searched, but no longer written; a rebuild replaces it.
"""

from dataclasses import dataclass

from memory_pipeline.domain.outcomes import Verdict
from memory_pipeline.errors import ChromaUnavailable, Corrupt, Fenced, Poison, Transient
from memory_pipeline.ports import Lease
from memory_pipeline.sync.ports import CollectionProbe, Registry

# After so many failures in a row, which take about a minute, the collection itself is probed.
FAILURES_BEFORE_PROBE = 5
# A collection that does not answer may be busy with earlier requests: it counts as damaged only
# after so many failures, which take about ten minutes.
SILENT_FAILURES = 15


@dataclass(frozen=True, slots=True)
class Damage:
    """What the holder of a tenant's lease decides about its live collection."""

    registry: Registry
    index: CollectionProbe

    def unless_wedged(self, lease: Lease) -> Verdict:
        """Postpone the tenant, or condemn its collection if waiting cannot help."""
        if lease.retries < FAILURES_BEFORE_PROBE:
            return "postponed"
        try:
            damage = self.wedged(lease)
        except Fenced:
            return "fenced"
        return self.condemn(lease, damage) if damage else "postponed"

    def wedged(self, lease: Lease) -> Corrupt | None:
        """Return the damage if the live collection refuses writes that its server takes.

        Such a collection does not recover: it is replaced, not retried for ever.

        Raises:
            PostgresUnavailable, Fenced: the check could not be made.

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
            if silent and lease.retries < SILENT_FAILURES:
                return None
            return Corrupt(
                f"the collection takes no write, {lease.retries + 1} syncs in a row have failed, "
                f"and its server takes writes of other tenants: {refused}",
                generation=live.id,
            )
        return None

    def condemn(self, lease: Lease, damage: Corrupt) -> Verdict:
        """Stop writing to a damaged live generation, so that it is rebuilt."""
        live = self.registry.live(lease.tenant)
        if live is None or damage.generation != live.id:
            return "postponed"
        try:
            if live.state == "live":
                # If the whole server is lost, the collection is not to blame.
                self.index.check_identity(live.server)
                self.registry.abandon(lease, live.id)
        except Transient:
            return "postponed"
        except Fenced:
            return "fenced"
        return "damaged"
