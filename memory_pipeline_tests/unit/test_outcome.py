"""Outcomes add up: counts and seconds are summed, the rest is the newer one's."""

from dataclasses import fields, replace

from hypothesis import given
from hypothesis import strategies as st

from memory_pipeline.domain.outcomes import Outcome
from memory_pipeline.domain.types import TenantId

ADA = TenantId("ada")
NEWER_ONES = {"tenant", "verdict", "more", "error", "reason"}
SUMMED = {f.name for f in fields(Outcome)} - NEWER_ONES - {"newest_change"}

first = Outcome(
    ADA,
    "postponed",
    written=1,
    deleted=2,
    embedded=3,
    reused=4,
    failed=5,
    buried=6,
    unread_dates=8,
    newest_change=70,
    more=True,
    seconds=0.5,
    embed_seconds=0.25,
    write_seconds=0.125,
    error="ChromaUnavailable",
    reason="it is down",
)
second = Outcome(
    ADA,
    written=10,
    deleted=20,
    embedded=30,
    reused=40,
    failed=50,
    buried=60,
    unread_dates=80,
    newest_change=7,
    seconds=8.0,
    embed_seconds=4.0,
    write_seconds=2.0,
)


def test_counts_and_seconds_are_summed() -> None:
    """Every figure of both, and no field is forgotten when one is added."""
    both = first.plus(second)
    for name in SUMMED:
        assert getattr(both, name) == getattr(first, name) + getattr(second, name) != 0, name


def test_verdict_and_reason_are_the_newer_ones() -> None:
    """What counts is how the tenant is now."""
    both, other = first.plus(second), second.plus(first)
    for name in NEWER_ONES:
        assert getattr(both, name) == getattr(second, name), name
        assert getattr(other, name) == getattr(first, name), name


def test_the_newest_change_is_the_highest_number() -> None:
    """Outcomes of two turns may arrive in any order."""
    assert first.plus(second).newest_change == second.plus(first).newest_change == 70


def test_an_empty_outcome_adds_nothing() -> None:
    """A sync starts from one."""
    assert Outcome(ADA).plus(first) == first
    assert first.plus(Outcome(ADA)) == replace(
        first, verdict="done", more=False, error="", reason=""
    )


outcomes = st.builds(
    Outcome,
    tenant=st.just(ADA),
    written=st.integers(0, 99),
    buried=st.integers(0, 99),
    newest_change=st.integers(0, 99),
    more=st.booleans(),
)


@given(outcomes, outcomes, outcomes)
def test_it_makes_no_difference_which_are_added_first(a: Outcome, b: Outcome, c: Outcome) -> None:
    """A worker adds turn by turn, a report adds reports."""
    assert a.plus(b).plus(c) == a.plus(b.plus(c))
