"""Whether the vector of a row is its text's, under the model of now."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from memory_pipeline.content.document import compose, recipe_from, vector_hash
from memory_pipeline.content.vector_reuse import reusable_vector
from memory_pipeline.domain.types import (
    DIMENSION,
    BackedUpVector,
    Memory,
    MemoryId,
    Provenance,
    TenantId,
    Vector,
)
from memory_pipeline.settings import Settings

MODEL = "mpnet"
RECIPE = recipe_from(Settings())
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
BARE = Memory(
    MemoryId(1), TenantId("ada"), "ada", None, '"a text"', None, MOMENT, MOMENT, version="7"
)
CONTENT = compose(BARE, RECIPE)
VECTOR: Vector = np.full(DIMENSION, 0.5, np.float32)
OURS = Provenance(CONTENT.text_hash, MODEL, vector_hash(VECTOR))


def reused(
    *, vector: Vector | None = VECTOR, known: Provenance | None = OURS, trust: bool = False
) -> Provenance | None:
    """Return what is said of a row with this vector, of which that is recorded."""
    memory = replace(BARE, embedding=vector, provenance=known)
    found = reusable_vector(memory, CONTENT, model=MODEL, trust=trust)
    return None if found is None else found[1]


def test_our_own_vector_of_this_text_is_reused() -> None:
    """Text, model and vector are those that were recorded."""
    assert reused() == OURS


def test_no_vector_is_no_vector() -> None:
    """Whatever was recorded of one that is gone."""
    assert reused(vector=None) is None
    assert reused(vector=None, trust=True) is None


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize(
    "known", [replace(OURS, text_hash="another text"), replace(OURS, model="another model")]
)
def test_our_own_vector_of_something_else_is_not(known: Provenance, *, trust: bool) -> None:
    """It is known to be wrong: trust is for vectors of which nothing is known."""
    assert reused(known=known, trust=trust) is None


@pytest.mark.parametrize("known", [None, replace(OURS, vector_hash="another vector")])
def test_an_applications_vector_is_reused_if_it_is_trusted(known: Provenance | None) -> None:
    """No provenance, or another vector's: the application has written it since."""
    assert reused(known=known) is None
    assert reused(known=known, trust=True) == OURS


@pytest.mark.parametrize("value", [0.0, np.inf, np.nan])
def test_a_vector_without_a_direction_is_never_trusted(value: float) -> None:
    """Chroma measures an angle: to zero, infinity or NaN there is none."""
    assert reused(vector=np.full(DIMENSION, value, np.float32), known=None, trust=True) is None


# ---- a vector in the pipeline's own table

KEPT: Vector = np.full(DIMENSION, 0.25, np.float32)


def chosen(
    *,
    vector: Vector | None = None,
    known: Provenance | None = None,
    text_hash: str = CONTENT.text_hash,
    model: str = MODEL,
    trust: bool = False,
) -> Vector | None:
    """Return which vector is reused of a row, beside which the table has one of this text."""
    kept = BackedUpVector(KEPT, text_hash, model)
    memory = replace(BARE, embedding=vector, provenance=known, backed_up=kept)
    found = reusable_vector(memory, CONTENT, model=MODEL, trust=trust)
    if found is not None:
        assert found[1] == Provenance(CONTENT.text_hash, MODEL, vector_hash(found[0]))
    return None if found is None else found[0]


def test_a_vector_in_the_table_is_reused_if_it_is_of_this_text_and_model() -> None:
    """Whatever was recorded of one in the row."""
    assert chosen() is KEPT
    assert chosen(known=OURS) is KEPT
    assert chosen(text_hash="another text") is None
    assert chosen(model="another model") is None


def test_a_trusted_vector_of_the_application_comes_first() -> None:
    """It may have been set since; one that is not trusted, or of an older text, does not."""
    older = replace(OURS, text_hash="an older text")
    assert chosen(vector=VECTOR, trust=True) is VECTOR
    assert chosen(vector=VECTOR, trust=False) is KEPT
    assert chosen(vector=VECTOR, known=older, trust=True) is KEPT
    assert chosen(vector=VECTOR, known=OURS) is VECTOR
    assert chosen(vector=np.zeros(DIMENSION, np.float32), trust=True) is KEPT
