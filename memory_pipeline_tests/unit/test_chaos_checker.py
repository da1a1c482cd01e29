"""The checker can fail: it reports every kind of broken history, and nothing of a sound one."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from memory_pipeline.domain.types import MemoryId, TenantId
from memory_pipeline.testing.chaos.checker import Final, Violation, judge, lags
from memory_pipeline.testing.chaos.expected_state import ExpectedState, StoredMemory
from memory_pipeline.testing.chaos.history import (
    Anomaly,
    FaultPeriod,
    History,
    HistoryReader,
    Row,
    Sort,
    Write,
)
from memory_pipeline.testing.chaos.ledger import Ack, Ledger
from memory_pipeline.testing.chaos.payloads import digest

ANNA, BERT = TenantId("anna"), TenantId("bert")
ONE, TWO, POISON = MemoryId(1), MemoryId(2), MemoryId(3)
ACK = Ack(
    seq=1,
    tenant=ANNA,
    memory_id=ONE,
    applications=True,
    covered=False,
    claim_token=7,
    lease_token=7,
    late_seconds=-3.0,
    changed=100.0,
    acked=100.2,
)
DOWN = {"postgres killed"}


def wrote(
    memory_id: MemoryId,
    tenant: TenantId | None,
    value: object = "x",
    *,
    sort: Sort = "insert",
    at: int = 1,
    **changed: object,
) -> Write:
    """Return a write that succeeded, with other fields where they are given."""
    after = None if tenant is None else digest(value)
    write = Write(sort, memory_id, tenant, after, at, at + 1, "ok")
    return replace(write, **changed)  # type: ignore[arg-type]


def raw(value: object) -> str:
    """Print a value in another form than Postgres does: the checker compares the meaning."""
    return json.dumps(value, indent=1)


WHOLE: list[Row] = [
    wrote(ONE, ANNA, {"summary": "first"}),
    wrote(ONE, ANNA, {"summary": "second"}, sort="update", at=5),
    wrote(TWO, BERT, "gone"),
    wrote(TWO, None, sort="delete", at=7),
    wrote(POISON, BERT, "bad", sort="poison"),
    FaultPeriod("chroma killed", 3, 9),
]
FINAL = Final(
    memories={
        ONE: (ANNA, raw({"summary": "second"})),
        POISON: (BERT, raw("bad")),
    },
    documents={ANNA: {"memory_log_1": raw({"summary": "second"})}, BERT: {}},
    buried={(BERT, POISON)},
)
# The changes that Postgres captured of it, all of them acked.
ACKS = [replace(ACK, seq=seq, memory_id=i) for seq, i in enumerate([ONE, ONE, TWO, TWO, POISON])]


def judged(
    rows: list[Row] = WHOLE, final: Final = FINAL, acks: Sequence[Ack] = ACKS
) -> list[tuple[str, TenantId | None, MemoryId | None]]:
    """Judge; return kind, tenant and memory of each violation."""
    ledger = Ledger()
    ledger.read(rows)
    ledger.count(acks)
    found: list[Violation] = judge(ledger, final, acks, hits_application=DOWN)
    return [(v.kind, v.tenant, v.memory_id) for v in found]


def with_documents(**held: dict[str, str]) -> Final:
    """Return the final state with other documents for some tenants."""
    changed = {TenantId(tenant): documents for tenant, documents in held.items()}
    return replace(FINAL, documents={**FINAL.documents, **changed})


def test_a_whole_history_is_whole() -> None:
    """Nothing is invented."""
    assert judged() == []


def test_a_memory_without_a_document_is_lost() -> None:
    """P1: also where the sampler never compared it."""
    assert judged(final=with_documents(anna={})) == [("lost", ANNA, ONE)]


def test_a_collection_that_is_not_there_has_lost_all() -> None:
    """A tenant without a collection is not a tenant without violations."""
    assert judged(final=replace(FINAL, documents={})) == [("lost", ANNA, ONE)]


def test_an_older_text_is_stale() -> None:
    """P2: the first text under the second memory."""
    final = with_documents(anna={"memory_log_1": raw({"summary": "first"})})
    assert judged(final=final) == [("stale", ANNA, ONE)]


def test_another_tenants_document_is_foreign() -> None:
    """P3: also where the right collection has it as well."""
    final = with_documents(bert={"memory_log_1": raw({"summary": "second"})})
    assert judged(final=final) == [("foreign", BERT, ONE)]


def test_a_deleted_memory_that_is_back_is_resurrected() -> None:
    """P4: it existed once, and Postgres no longer has it."""
    assert judged(final=with_documents(bert={"memory_log_2": "gone"})) == [
        ("resurrected", BERT, TWO)
    ]


@pytest.mark.parametrize("name", ["memory_log_99", "another-name"])
def test_a_document_that_was_never_written_is_unexpected(name: str) -> None:
    """A memory that was rolled back, or a name in another form."""
    rows = [*WHOLE, wrote(MemoryId(99), BERT, answer="fail", sort="savepoint")]
    ((kind, tenant, _),) = judged(rows, with_documents(bert={name: "?"}))
    assert (kind, tenant) == ("unexpected", BERT)


def test_a_memory_whose_insert_got_no_answer_may_exist_or_not() -> None:
    """Info is neither success nor failure; but the index follows Postgres in either case."""
    unknown = wrote(TWO, BERT, "back?", at=20, answer="info", reason="cut")
    rows = [*WHOLE, unknown, FaultPeriod("postgres killed", 19, 22)]
    assert judged(rows) == []
    exists = replace(FINAL, memories={**FINAL.memories, TWO: (BERT, raw("back?"))})
    assert judged(rows, exists) == [("lost", BERT, TWO)]


def test_a_write_that_postgres_lost_is_reported() -> None:
    """A run whose source loses writes proves nothing about the index."""
    older = replace(FINAL, memories={**FINAL.memories, ONE: (ANNA, raw({"summary": "first"}))})
    assert ("source", ANNA, ONE) in judged(final=older)


def test_a_dead_letter_that_was_not_planted_is_reported() -> None:
    """P5: an outage buries no memory."""
    final = replace(FINAL, buried={(BERT, POISON), (ANNA, ONE)})
    assert judged(final=final) == [("buried in error", ANNA, ONE)]


def test_planted_poison_without_a_dead_letter_is_reported() -> None:
    """P5: nor does anything vanish."""
    assert judged(final=replace(FINAL, buried=())) == [("poison not buried", BERT, POISON)]


@pytest.mark.parametrize(
    "ack",
    [
        replace(ACK, claim_token=6),
        replace(ACK, claim_token=None),
        replace(ACK, lease_token=None),
        replace(ACK, late_seconds=0.001),
        replace(ACK, late_seconds=None),
    ],
)
def test_an_ack_without_the_lease_is_reported(ack: Ack) -> None:
    """Another token, no token, a deleted tenant, a lease that had ended, or no lease."""
    assert judged(acks=[*ACKS, ack]) == [("ack under a dead token", ANNA, ONE)]


def test_an_ack_by_a_flip_is_no_dead_ack() -> None:
    """The change has no claim; the generation that goes live covers it."""
    assert judged(acks=[replace(one, covered=True, claim_token=None) for one in ACKS]) == []


def test_an_error_of_the_application_is_reported_unless_postgres_itself_was_down() -> None:
    """P6: and a fault of Chroma excuses none."""
    failed = wrote(ONE, ANNA, {"summary": "second"}, at=6, answer="fail", reason="deadlock")
    assert judged([*WHOLE, failed]) == [("application error", ANNA, ONE)]
    assert judged([*WHOLE, failed, FaultPeriod("postgres killed", 5, 6)]) == []


def test_an_anomaly_during_the_run_is_reported() -> None:
    """Also where the final state is correct."""
    assert judged([*WHOLE, Anomaly("search: foreign", ANNA, TWO, 5)]) == [
        ("search: foreign", ANNA, TWO)
    ]


@pytest.mark.parametrize("acked", [0, 1])
def test_a_change_that_was_never_captured_is_reported(acked: int) -> None:
    """P1: also where a later change, or a repair, has written the right text by chance."""
    acks = [one for one in ACKS if one.memory_id != ONE] + [ACK] * acked
    # The pipeline's own rechecks do not count as the application's changes.
    acks += [replace(ACK, applications=False)] * 5
    assert judged(acks=acks) == [("not captured", None, ONE)]


@pytest.mark.parametrize(
    ("row", "captured"),
    [
        (wrote(ONE, BERT, {"summary": "second"}, sort="move", at=9), 2),
        (wrote(ONE, ANNA, {"summary": "second"}, sort="move", at=9), 0),
        (wrote(ONE, None, sort="delete", at=9), 1),
        (wrote(ONE, BERT, "other", at=9, answer="fail", sort="rollback"), 0),
        (wrote(ONE, BERT, "other", at=9, answer="info", sort="update"), 0),
        (wrote(TWO, BERT, "back", at=9), 1),
    ],
)
def test_a_change_is_captured_for_each_tenant_that_it_concerns(row: Write, captured: int) -> None:
    """A rollback and a change of nothing are not captured; an unanswered change may be."""
    expected = ExpectedState()
    for before in WHOLE:
        if isinstance(before, Write):
            expected.apply(before)
    captured_before = expected.memories[row.memory_id].captured
    expected.apply(row)
    assert expected.memories[row.memory_id].captured == captured_before + captured


def test_a_pending_change_is_reported() -> None:
    """A backlog that never ends is no success."""
    assert judged(final=replace(FINAL, pending=2)) == [("not drained", None, None)]


def test_freshness_counts_the_applications_changes_in_quiet_times() -> None:
    """Not confirms, nor changes during faults, nor poison."""
    poison = replace(ACK, memory_id=POISON, acked=160.0)
    acks = (ACK, replace(ACK, applications=False), replace(ACK, changed=50.0), poison)
    assert lags(acks, [(99.0, 101.0)], but={POISON}) == pytest.approx([0.2])


def test_the_history_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    """Whatever row, whatever text."""
    rows = [*WHOLE, Anomaly("search broke", None, None, 5, "süß — \n«»")]
    history = History(tmp_path / "history.jsonl")
    reading = HistoryReader(history.file)
    read: list[Row] = []
    for row in rows:
        history.append(row)
        history.flush()
        read += reading.more()
    history.close()
    reading.close()
    assert read == rows


def test_the_expected_state_is_certain_only_of_answered_writes_without_later_ones() -> None:
    """The sampler may judge by nothing else."""
    expected = ExpectedState()
    expected.apply(wrote(ONE, ANNA, "x", at=10))
    assert expected.certain(ONE, since=12) == (True, StoredMemory(ANNA, digest("x")))
    assert expected.certain(ONE, since=11) == (False, None)
    assert expected.certain(TWO, since=99) == (False, None)
    expected.begin([ONE])
    assert expected.certain(ONE, since=99) == (False, None)
    expected.apply(wrote(ONE, None, at=20, answer="info"))
    assert expected.certain(ONE, since=99) == (False, None)
    expected.apply(wrote(ONE, None, at=30))
    assert expected.certain(ONE, since=99) == (True, None)
