"""Whether the vector that a row has is its text's under the model of now."""

import numpy as np

from memory_pipeline.content.document import Content, vector_hash
from memory_pipeline.domain.types import Memory, Provenance


def reusable_provenance(
    memory: Memory, content: Content, *, model: str, trust: bool
) -> Provenance | None:
    """Tell the provenance of the stored vector if it is this text's under this model.

    A vector that the pipeline did not write (no provenance, or another vector's) is the
    application's: taken for the current model's when ``trust`` says so, computed anew otherwise.
    """
    vector = memory.embedding
    if vector is None:
        return None
    stored = Provenance(content.text_hash, model, vector_hash(vector))
    known = memory.provenance
    if known is not None and known.vector_hash == stored.vector_hash:
        return known if known == stored else None
    # Neither zero nor infinite nor NaN: Chroma can measure an angle to it.
    return stored if trust and 0.0 < float(np.dot(vector, vector)) < np.inf else None
