"""What follows an interrupted attempt of a rebuild: nothing is retried for ever."""

from uuid import UUID, uuid4

import pytest

from memory_pipeline.errors import (
    ChromaUnavailable,
    Corrupt,
    EmbedderUnavailable,
    Fenced,
    Poison,
    PostgresUnavailable,
)
from memory_pipeline.rebuild.ownership import GenerationAbandoned
from memory_pipeline.rebuild.retries import (
    INTERRUPTIONS,
    MAX_FAILURES,
    MAX_GENERATIONS,
    GiveUp,
    NewGeneration,
    Retries,
    Retry,
)

OUTAGE = ChromaUnavailable("did not answer in time")


def after_outages(retries: Retries, times: int) -> Retries:
    """Let this many outages follow each other."""
    for _ in range(times):
        decision = retries.after(OUTAGE)
        assert isinstance(decision, Retry)
        retries = decision.retries
    return retries


@pytest.mark.parametrize(
    "error",
    [OUTAGE, PostgresUnavailable("down"), EmbedderUnavailable("no memory"), Fenced("lease lost")],
    ids=lambda error: type(error).__name__,
)
def test_an_outage_or_a_lost_lease_is_retried_with_the_same_generation(error: Exception) -> None:
    """Nothing is wrong with what was filled: it is resumed."""
    decision = Retries().after(error)
    assert decision == Retry(Retries(failures=1), str(error))
    assert isinstance(error, INTERRUPTIONS)


def test_a_row_of_outages_fails_the_tenant() -> None:
    """A rebuild that cannot work now ends, and says with what."""
    retries = after_outages(Retries(), MAX_FAILURES - 1)
    assert retries.after(OUTAGE) == GiveUp("did not answer in time")


def test_a_written_chunk_starts_the_count_again() -> None:
    """A large tenant may meet any number of outages, if something is done between them."""
    retries = after_outages(Retries(), MAX_FAILURES - 1).after_a_chunk()
    assert retries.failures == 0
    after_outages(retries, MAX_FAILURES - 1)


def test_damage_costs_a_generation_and_names_it() -> None:
    """The next attempt must not resume what is damaged."""
    damaged = uuid4()
    decision = Retries().after(Corrupt("the collection is gone", generation=damaged))
    assert isinstance(decision, NewGeneration)
    assert decision.retries == Retries(generations=1, damaged=damaged)
    assert (decision.generation, decision.reason) == (damaged, "the collection is gone")


@pytest.mark.parametrize("error", [GenerationAbandoned(), Poison("refused")], ids=repr)
def test_what_names_no_generation_forgets_the_damaged_one(error: Exception) -> None:
    """Which generation was building then is decided again from the registry."""
    decision = Retries(damaged=uuid4()).after(error)
    assert isinstance(decision, NewGeneration)
    assert decision.retries.damaged is None
    assert decision.reason


def test_damage_after_damage_fails_the_tenant() -> None:
    """What damages every collection is not cured by building more of them."""
    retries, damaged = Retries(), UUID(int=0)
    for number in range(1, MAX_GENERATIONS):
        damaged = UUID(int=number)
        decision = retries.after(Corrupt("damaged", generation=damaged))
        assert isinstance(decision, NewGeneration)
        retries = decision.retries.after_a_chunk()  # progress does not excuse damage
    assert retries.after(Corrupt("damaged", generation=damaged)) == GiveUp("damaged", damaged)


def test_an_outage_keeps_the_damaged_generation_out() -> None:
    """The outage came before the damaged one was abandoned: it still may not be resumed."""
    damaged = uuid4()
    decision = Retries(damaged=damaged).after(OUTAGE)
    assert isinstance(decision, Retry)
    assert decision.retries.damaged == damaged


def test_a_generation_that_alone_keeps_failing_is_replaced() -> None:
    """What broke: each later rebuild resumed it and failed as well, for ever."""
    wedged = uuid4()
    retries = after_outages(Retries(), MAX_FAILURES - 1)
    assert isinstance(retries.after(OUTAGE), GiveUp)
    decision = retries.replace_generation(wedged, "did not answer in time")
    assert isinstance(decision, NewGeneration)
    assert decision.retries == Retries(failures=0, generations=1, damaged=wedged)


def test_the_last_generation_is_not_replaced() -> None:
    """It counts as any damaged one does."""
    last = Retries(failures=MAX_FAILURES - 1, generations=MAX_GENERATIONS - 1)
    assert isinstance(last.replace_generation(uuid4(), "no answer"), GiveUp)
