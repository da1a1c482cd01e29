"""A read that a write has torn is retried; damage is not mistaken for a torn read."""

import pytest

from memory_pipeline.chroma.reads import retry_if_torn
from memory_pipeline.errors import Corrupt

TORN = "Chroma at http://localhost: Error executing plan: Internal error: Error finding id"


class Reading:
    """A read that fails with each of these answers in turn, and keeps the answers that are left."""

    def __init__(self, *answers: str) -> None:
        self.left = list(answers)

    @retry_if_torn(0.0, 0.0, 0.0)
    def read(self) -> str:
        """Return a whole answer, or fail."""
        answer = self.left.pop(0)
        if answer != "whole":
            raise Corrupt(answer)
        return answer


def test_a_torn_answer_is_asked_for_again() -> None:
    """Without it a search during a delete fails, and a verify reports the collection as damaged."""
    reading = Reading(TORN, TORN, TORN, "whole")
    assert reading.read() == "whole"
    assert reading.left == []


def test_what_stays_torn_is_damage() -> None:
    """If the folder of vectors is gone, every answer reads like this."""
    with pytest.raises(Corrupt, match="Error finding id"):
        Reading(*[TORN] * 4).read()


def test_other_damage_is_told_at_once() -> None:
    """A retry gains nothing."""
    reading = Reading("Error loading hnsw index", "whole")
    with pytest.raises(Corrupt, match="loading"):
        reading.read()
    assert reading.left == ["whole"]
