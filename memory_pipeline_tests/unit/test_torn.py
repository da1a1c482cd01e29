"""Answers that a write has torn are asked for again; damage is not taken for one."""

import pytest

from memory_pipeline.chroma import torn
from memory_pipeline.chroma.torn import retry_torn_reads
from memory_pipeline.errors import Corrupt

TORN = "Chroma at http://localhost: Error executing plan: Internal error: Error finding id"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torn, "PAUSES", (0.0, 0.0, 0.0))


def read_of(*answers: str) -> tuple[list[str], object]:
    """Return a read that fails with each of these in turn, and what is left of them."""
    left = list(answers)

    @retry_torn_reads
    def read() -> str:
        said = left.pop(0)
        if said != "whole":
            raise Corrupt(said)
        return said

    return left, read


def test_a_torn_answer_is_asked_for_again() -> None:
    """A search beside a delete would fail otherwise, and a verify call the collection damaged."""
    left, read = read_of(TORN, TORN, TORN, "whole")
    assert read() == "whole"  # type: ignore[operator]
    assert left == []


def test_what_stays_torn_is_damage() -> None:
    """The folder of vectors is gone: it says so for ever."""
    _, read = read_of(*[TORN] * 4)
    with pytest.raises(Corrupt, match="Error finding id"):
        read()  # type: ignore[operator]


def test_other_damage_is_told_at_once() -> None:
    """Nothing is gained by asking again."""
    left, read = read_of("Error loading hnsw index", "whole")
    with pytest.raises(Corrupt, match="loading"):
        read()  # type: ignore[operator]
    assert left == ["whole"]
