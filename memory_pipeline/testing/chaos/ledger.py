"""The history of a run, summed up for the checker. Pure."""

from __future__ import annotations  # array[int] is for the type checker alone

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from memory_pipeline.domain.types import MemoryId, TenantId
from memory_pipeline.testing.chaos.expected_state import ExpectedState
from memory_pipeline.testing.chaos.history import Anomaly, FaultPeriod, Row, Write


@dataclass(frozen=True, slots=True)
class Ack:
    """A deleted change: its claim's token, and the tenant's lease at that moment.

    ``applications``: the change is the application's, not a confirm or a recheck. ``covered``: a
    flip acked it. ``late_seconds``: how long before the statement the lease had ended; negative
    while it lasts. ``changed`` and ``acked`` are seconds since the epoch.
    """

    seq: int
    tenant: TenantId
    memory_id: MemoryId | None
    applications: bool
    covered: bool
    claim_token: int | None
    lease_token: int | None
    late_seconds: float | None
    changed: float
    acked: float


@dataclass(slots=True)
class Ledger:
    """The history that was read so far, summed up."""

    expected: ExpectedState = field(default_factory=ExpectedState)
    faults: list[FaultPeriod] = field(default_factory=list)
    anomalies: list[Anomaly] = field(default_factory=list)
    failed: list[Write] = field(default_factory=list)
    planted: dict[MemoryId, TenantId] = field(default_factory=dict)
    # The application's acked changes, by memory.
    acked: Counter[MemoryId] = field(default_factory=Counter)
    # Start (ns) and duration (ms) of every statement.
    begun: array[int] = field(default_factory=lambda: array("q"))
    took_ms: array[float] = field(default_factory=lambda: array("f"))

    def read(self, rows: Iterable[Row]) -> None:
        """Add further rows."""
        for row in rows:
            match row:
                case Write():
                    self.begun.append(row.begun)
                    self.took_ms.append((row.ended - row.begun) / 1e6)
                    self.expected.apply(row)
                    if row.reason:
                        self.failed.append(row)
                    elif row.sort == "poison" and row.tenant is not None:
                        self.planted[row.memory_id] = row.tenant
                case FaultPeriod():
                    self.faults.append(row)
                case Anomaly():
                    self.anomalies.append(row)

    def count(self, acks: Iterable[Ack]) -> None:
        """Add further acks."""
        self.acked.update(
            ack.memory_id for ack in acks if ack.applications and ack.memory_id is not None
        )
