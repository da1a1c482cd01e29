"""Vectors leave as chromadb's own client would send them, byte for byte."""

import numpy as np
import pytest
from chromadb.api.types import pack_embedding_safely

from memory_pipeline.chroma.transport import packed
from memory_pipeline_tests.fakes import a_vector


@pytest.mark.parametrize("seed", range(5))
def test_a_vector_is_packed_as_the_library_packs_it(seed: int) -> None:
    """A reader gets the same numbers back."""
    vector = a_vector(seed)
    assert packed(vector) == pack_embedding_safely(vector)
    assert packed(vector[::-1]) == pack_embedding_safely(vector[::-1])


def test_doubles_are_packed_as_floats() -> None:
    """As the library does."""
    vector = np.linspace(-1, 1, 768)
    assert packed(vector) == pack_embedding_safely(vector.astype(np.float32))
