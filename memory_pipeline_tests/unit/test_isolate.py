"""A refused batch is halved until each refused element is on its own; slices fit their time."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_pipeline.errors import ChromaUnavailable, Poison
from memory_pipeline.sync.embed import LARGEST_SLICE, slice_size
from memory_pipeline.sync.isolate import isolate


def refusing(poison: set[int], done: list[int]) -> Callable[[Sequence[int]], None]:
    """Return an attempt that does all of a part, or refuses it for one that is poison."""

    def attempt(part: Sequence[int]) -> None:
        if refused := poison.intersection(part):
            raise Poison(f"refused for {min(refused)}")
        done.extend(part)

    return attempt


@given(st.integers(0, 40), st.sets(st.integers(0, 40)))
def test_every_element_is_done_once_or_refused(count: int, poison: set[int]) -> None:
    """Nothing is lost between the halves, and nothing is done twice."""
    done: list[int] = []
    batch = range(count)
    refused = isolate(batch, refusing(poison, done))
    assert [element for element, _ in refused] == sorted(poison.intersection(batch))
    assert done == sorted(set(batch) - poison)


def test_each_refusal_comes_with_its_own_reason() -> None:
    """Not with that of the batch, which is another memory's."""
    refused = isolate(range(8), refusing({2, 5}, []))
    assert [(n, str(why)) for n, why in refused] == [(2, "refused for 2"), (5, "refused for 5")]


def test_a_good_batch_is_one_attempt() -> None:
    """Isolation costs nothing where nothing is refused; an empty batch is no attempt."""
    parts: list[Sequence[int]] = []
    assert isolate(range(200), parts.append) == []
    assert isolate([], parts.append) == []
    assert parts == [range(200)]


def test_one_poison_of_many_takes_few_attempts() -> None:
    """Twice the halvings, not one attempt for each element."""
    attempts: list[int] = []

    def attempt(part: Sequence[int]) -> None:
        attempts.append(len(part))
        refusing({77}, [])(part)

    assert len(isolate(range(256), attempt)) == 1
    assert len(attempts) == 1 + 2 * 8


def test_an_outage_is_no_refusal() -> None:
    """It ends the batch: halves of it would fail as well."""

    def attempt(_: Sequence[int]) -> None:
        raise ChromaUnavailable("it is down")

    with pytest.raises(ChromaUnavailable):
        isolate(range(8), attempt)


# ---- how much is embedded at once


@pytest.mark.parametrize(
    ("texts", "characters", "size"),
    [
        ([10] * 100, 10.0, 1),  # no two fit
        ([10] * 100, 20.0, 2),
        ([10] * 100, 79.0, 4),  # a power of two: eight would not fit
        ([10] * 100, 80.0, 8),
        ([10] * 4 + [1000], 80.0, 4),  # the fifth is too long
        ([10] * 100, 1e9, LARGEST_SLICE),  # a lost lease costs at most one slice
        ([10] * 3, 1e9, 4),  # all that is left
        ([5000], 1.0, 1),  # one text is always embedded, however long it is
        ([], 1e9, 1),
    ],
)
def test_a_slice_fits_its_time(texts: list[int], characters: float, size: int) -> None:
    """Each text counts as long as the last of its slice, the longest."""
    assert slice_size(texts, characters=characters) == size


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=200), st.floats(1.0, 1e7))
def test_a_slice_never_takes_longer_than_it_may(texts: list[int], characters: float) -> None:
    """Unless it is a single text."""
    size = slice_size(sorted(texts), characters=characters)
    part = sorted(texts)[:size]
    assert 1 <= size <= LARGEST_SLICE
    assert size == 1 or len(part) * part[-1] <= characters
