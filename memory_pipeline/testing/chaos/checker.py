"""Judges a run by its recorded history and its final state. Pure, and tested by itself.

It knows nothing of how the pipeline works: only the answers that the application got, the contents
of both sides, the acks with their tokens, and the times of the faults.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from memory_pipeline.domain.types import MemoryId, TenantId, memory_id_of
from memory_pipeline.testing.chaos.expected_state import (
    ABSENT,
    ExpectedState,
    PossibleStates,
    StoredMemory,
)
from memory_pipeline.testing.chaos.history import FaultPeriod
from memory_pipeline.testing.chaos.ledger import Ack, Ledger
from memory_pipeline.testing.chaos.payloads import digest

# After an outage of Postgres the application needs this long to connect again.
RECONNECT_NS = 2_000_000_000
# The longest that a statement of the application may take, unless Postgres itself is down.
WAIT_MS = 5_000.0


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise."""

    kind: str
    tenant: TenantId | None = None
    memory_id: MemoryId | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Final:
    """Both sides when everything is healed and drained.

    ``memories``: tenant and raw_data of each, by Postgres. ``documents``: name and text of each
    document of each tenant's live collection. ``buried``: the dead letters.
    """

    memories: Mapping[MemoryId, tuple[TenantId, str]]
    documents: Mapping[TenantId, Mapping[str, str | None]]
    buried: Collection[tuple[TenantId, MemoryId]] = ()
    pending: int = 0


def judge(
    ledger: Ledger, final: Final, acks: Iterable[Ack], *, hits_application: Collection[str]
) -> list[Violation]:
    """Return every broken promise; ``hits_application``: kinds of fault that excuse statements."""
    return [
        *(Violation(a.kind, a.tenant, a.memory_id, a.detail) for a in ledger.anomalies),
        *source_lost(ledger.expected, final),
        *differences(ledger, final),
        *wrongly_buried(ledger, final),
        *not_captured(ledger),
        *dead_acks(acks),
        *application_errors(ledger, hits_application),
        *([Violation("not drained", detail=f"{final.pending} changes")] if final.pending else []),
    ]


def source_lost(expected: ExpectedState, final: Final) -> Iterator[Violation]:
    """Yield memories that are not in Postgres as it has answered."""
    for memory_id, possible in expected.memories.items():
        row = final.memories.get(memory_id)
        state = None if row is None else StoredMemory(row[0], digest(json.loads(row[1])))
        if state not in possible.states:
            detail = "Postgres does not have it as it answered"
            yield Violation("source", row[0] if row else None, memory_id, detail)


def differences(ledger: Ledger, final: Final) -> Iterator[Violation]:
    """Yield missing and stale documents, and documents that should not exist."""
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
            kind, owner = _extra_kind(name, tenant, ledger.expected, final)
            if kind:
                yield Violation(kind, tenant, owner, name[:60])


def _extra_kind(
    name: str, tenant: TenantId, expected: ExpectedState, final: Final
) -> tuple[str, MemoryId | None]:
    """Return why a document should not exist, empty where it should, and its memory's id."""
    memory_id = memory_id_of(name)
    if memory_id is None:
        return "unexpected", None
    row = final.memories.get(memory_id)
    if row is not None:
        return ("" if row[0] == tenant else "foreign"), memory_id
    possible = expected.memories.get(memory_id, PossibleStates())
    return ("resurrected" if possible.existed else "unexpected"), memory_id


def wrongly_buried(ledger: Ledger, final: Final) -> Iterator[Violation]:
    """Yield dead letters that were not planted, and planted poison without a dead letter."""
    planted = {
        (tenant, memory_id)
        for memory_id, tenant in ledger.planted.items()
        if ledger.expected.memories.get(memory_id, PossibleStates()).states != ABSENT
    }
    buried = set(final.buried)
    for tenant, memory_id in sorted(buried - planted):
        yield Violation("buried in error", tenant, memory_id)
    for tenant, memory_id in sorted(planted - buried):
        yield Violation("poison not buried", tenant, memory_id)


def not_captured(ledger: Ledger) -> Iterator[Violation]:
    """Yield memories with fewer acked changes than the application has made.

    With nothing pending, each change was captured and acked: a document that is correct without
    its change is so by chance, or by a repair.
    """
    for memory_id, possible in ledger.expected.memories.items():
        if (acked := ledger.acked[memory_id]) < possible.captured:
            detail = f"{possible.captured} changes made, {acked} acked"
            yield Violation("not captured", None, memory_id, detail)


def dead_acks(acks: Iterable[Ack]) -> Iterator[Violation]:
    """Yield acks by a worker that no longer held the lease."""
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
    """Yield the application's statements that failed or hung while Postgres was up."""
    outages = _outages(ledger, hits_application)
    for write in ledger.failed:
        if not _overlaps(outages, write.begun, write.ended):
            yield Violation("application error", write.tenant, write.memory_id, write.reason)
    for ms in statements_ms(ledger, hits_application):
        if ms > WAIT_MS:
            yield Violation("application waited", detail=f"{ms / 1000:.1f} s")


def statements_ms(ledger: Ledger, hits_application: Collection[str]) -> list[float]:
    """Return the durations of the application's statements while Postgres was up, sorted."""
    outages = _outages(ledger, hits_application)
    return sorted(
        ms
        for begun, ms in zip(ledger.begun, ledger.took_ms, strict=True)
        if not _overlaps(outages, begun, begun + int(ms * 1e6))
    )


def _outages(ledger: Ledger, kinds: Collection[str]) -> list[tuple[int, int]]:
    return [(f.begun, f.ended + RECONNECT_NS) for f in ledger.faults if f.kind in kinds]


def _overlaps(periods: Iterable[tuple[int, int]], begun: int, ended: int) -> bool:
    return any(first <= ended and begun <= last for first, last in periods)


def lags(
    acks: Iterable[Ack],
    quiet: Sequence[tuple[float, float]],
    *,
    but: Collection[MemoryId] = (),
) -> list[float]:
    """Return the seconds from change to ack, sorted, of the application's changes in quiet times.

    Without the memories ``but``: poison is never acked by a write.
    """
    return sorted(
        ack.acked - ack.changed
        for ack in acks
        if ack.applications
        and ack.memory_id not in but
        and any(begun <= ack.changed <= ended for begun, ended in quiet)
    )


def during(at: int, faults: Iterable[FaultPeriod], *, after_ns: int) -> frozenset[str]:
    """Return the kinds of the faults at a moment or up to ``after_ns`` before it."""
    return frozenset(f.kind for f in faults if f.begun <= at <= f.ended + after_ns)
