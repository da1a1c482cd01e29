"""Judges a run by what was written down and by what stands at its end. Pure, and itself tested.

It knows nothing of how the pipeline works: only what the application was told, what both sides
hold, who forgot changes under which token, and what was broken when.
"""

from __future__ import annotations  # array[int] is for the type checker alone

import json
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from memory_pipeline.domain.types import MemoryId, TenantId, memory_id_of
from memory_pipeline.testing.chaos.expected_state import NOWHERE, Books, KnownState, Placed
from memory_pipeline.testing.chaos.history import Broken, Row, Sight, Write
from memory_pipeline.testing.chaos.payloads import digest

# What an outage of Postgres may cost the application beyond its end: it connects again.
RECONNECT_NS = 2_000_000_000
# What an application may wait for, whatever is broken but Postgres itself.
WAIT_MS = 5_000.0


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken."""

    kind: str
    tenant: TenantId | None = None
    memory_id: MemoryId | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Ack:
    """A change that was forgotten: under which token, and whose the tenant was at that moment."""

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


@dataclass(frozen=True, slots=True)
class Final:
    """What stands when everything is healed and drained.

    ``memories``: whose each is in Postgres, and what it says there. ``documents``: name and text of
    each document of each tenant's live collection. ``buried``: the dead letters.
    """

    memories: Mapping[MemoryId, tuple[TenantId, str]]
    documents: Mapping[TenantId, Mapping[str, str | None]]
    buried: Collection[tuple[TenantId, MemoryId]] = ()
    pending: int = 0


@dataclass(slots=True)
class Ledger:
    """The history, read as far as it goes."""

    books: Books = field(default_factory=Books)
    broken: list[Broken] = field(default_factory=list)
    sights: list[Sight] = field(default_factory=list)
    failed: list[Write] = field(default_factory=list)
    planted: dict[MemoryId, TenantId] = field(default_factory=dict)
    # How many changes of the application were forgotten, of each memory.
    forgotten: Counter[MemoryId] = field(default_factory=Counter)
    # Of every statement: when it began (ns), and how long it took (ms).
    begun: array[int] = field(default_factory=lambda: array("q"))
    took_ms: array[float] = field(default_factory=lambda: array("f"))

    def read(self, rows: Iterable[Row]) -> None:
        """Read on."""
        for row in rows:
            match row:
                case Write():
                    self.begun.append(row.begun)
                    self.took_ms.append((row.ended - row.begun) / 1e6)
                    self.books.note(row)
                    if row.reason:
                        self.failed.append(row)
                    elif row.sort == "poison" and row.tenant is not None:
                        self.planted[row.memory_id] = row.tenant
                case Broken():
                    self.broken.append(row)
                case Sight():
                    self.sights.append(row)

    def count(self, acks: Iterable[Ack]) -> None:
        """Count what was forgotten since it was counted last."""
        self.forgotten.update(
            ack.memory_id for ack in acks if ack.applications and ack.memory_id is not None
        )


def judge(
    ledger: Ledger, final: Final, acks: Iterable[Ack], *, hits_application: Collection[str]
) -> list[Violation]:
    """Return every promise that was broken."""
    return [
        *(Violation(s.kind, s.tenant, s.memory_id, s.detail) for s in ledger.sights),
        *source_lost(ledger.books, final),
        *differences(ledger, final),
        *wrongly_buried(ledger, final),
        *not_captured(ledger),
        *dead_acks(acks),
        *application_errors(ledger, hits_application),
        *([Violation("not drained", detail=f"{final.pending} changes")] if final.pending else []),
    ]


def source_lost(books: Books, final: Final) -> Iterator[Violation]:
    """Name what Postgres itself does not have as it told the application."""
    for memory_id, known in books.known.items():
        row = final.memories.get(memory_id)
        stands = None if row is None else Placed(row[0], digest(json.loads(row[1])))
        if stands not in known.states:
            yield Violation("source", row[0] if row else None, memory_id, "not as Postgres told")


def differences(ledger: Ledger, final: Final) -> Iterator[Violation]:
    """Name what the collections lack, and what they hold that they should not."""
    for memory_id, (tenant, raw) in final.memories.items():
        held = final.documents.get(tenant, {})
        name = f"memory_log_{memory_id}"
        if name in held:
            if held[name] != raw:
                yield Violation("stale", tenant, memory_id)
        elif memory_id not in ledger.planted:
            yield Violation("lost", tenant, memory_id)
    for tenant, held in final.documents.items():
        for name in held:
            kind, whose = _stranger(name, tenant, ledger.books, final)
            if kind:
                yield Violation(kind, tenant, whose, name[:60])


def _stranger(
    name: str, tenant: TenantId, books: Books, final: Final
) -> tuple[str, MemoryId | None]:
    memory_id = memory_id_of(name)
    if memory_id is None:
        return "unexpected", None
    row = final.memories.get(memory_id)
    if row is not None:
        return ("" if row[0] == tenant else "foreign"), memory_id
    known = books.known.get(memory_id, KnownState())
    return ("resurrected" if known.stood else "unexpected"), memory_id


def wrongly_buried(ledger: Ledger, final: Final) -> Iterator[Violation]:
    """Name dead letters that were not planted, and planted poison that is none."""
    planted = {
        (tenant, memory_id)
        for memory_id, tenant in ledger.planted.items()
        if ledger.books.known.get(memory_id, KnownState()).states != NOWHERE
    }
    buried = set(final.buried)
    for tenant, memory_id in sorted(buried - planted):
        yield Violation("buried in error", tenant, memory_id)
    for tenant, memory_id in sorted(planted - buried):
        yield Violation("poison not buried", tenant, memory_id)


def not_captured(ledger: Ledger) -> Iterator[Violation]:
    """Name memories of which fewer changes were forgotten than the application has made.

    With nothing pending, each was captured and forgotten: what is right by chance, or by a repair,
    was not kept by events.
    """
    for memory_id, known in ledger.books.known.items():
        if (forgotten := ledger.forgotten[memory_id]) < known.captured:
            detail = f"{known.captured} changes made, {forgotten} forgotten"
            yield Violation("not captured", None, memory_id, detail)


def dead_acks(acks: Iterable[Ack]) -> Iterator[Violation]:
    """Name changes that were forgotten by whoever no longer had the lease."""
    for ack in acks:
        if ack.covered:
            continue
        if ack.claim_token is None or ack.claim_token != ack.lease_token:
            why = f"claimed under {ack.claim_token}, leased under {ack.lease_token}"
            yield Violation("ack under a dead token", ack.tenant, ack.memory_id, why)
        elif ack.late_seconds is None or ack.late_seconds > 0:
            why = f"its lease had ended {ack.late_seconds} s before"
            yield Violation("ack under a dead token", ack.tenant, ack.memory_id, why)


def application_errors(ledger: Ledger, hits_application: Collection[str]) -> Iterator[Violation]:
    """Name the application's statements that failed or hung for no fault of Postgres itself."""
    down = _down(ledger, hits_application)
    for write in ledger.failed:
        if not _meets(down, write.begun, write.ended):
            yield Violation("application error", write.tenant, write.memory_id, write.reason)
    for ms in statements_ms(ledger, hits_application):
        if ms > WAIT_MS:
            yield Violation("application waited", detail=f"{ms / 1000:.1f} s")


def statements_ms(ledger: Ledger, hits_application: Collection[str]) -> list[float]:
    """Return how long the application's statements took while Postgres was there."""
    down = _down(ledger, hits_application)
    return sorted(
        ms
        for begun, ms in zip(ledger.begun, ledger.took_ms, strict=True)
        if not _meets(down, begun, begun + int(ms * 1e6))
    )


def _down(ledger: Ledger, kinds: Collection[str]) -> list[tuple[int, int]]:
    return [(b.begun, b.ended + RECONNECT_NS) for b in ledger.broken if b.kind in kinds]


def _meets(down: Iterable[tuple[int, int]], begun: int, ended: int) -> bool:
    return any(first <= ended and begun <= last for first, last in down)


def lags(
    acks: Iterable[Ack],
    quiet: Sequence[tuple[float, float]],
    *,
    but: Collection[MemoryId] = (),
) -> list[float]:
    """Return seconds from change to ack of what was changed in quiet times; poison apart."""
    return sorted(
        ack.acked - ack.changed
        for ack in acks
        if ack.applications
        and ack.memory_id not in but
        and any(begun <= ack.changed <= ended for begun, ended in quiet)
    )


def during(at: int, broken: Iterable[Broken], *, after_ns: int) -> frozenset[str]:
    """Name the kinds of what was broken at a moment or shortly before."""
    return frozenset(b.kind for b in broken if b.begun <= at <= b.ended + after_ns)
