"""Whether the vector stored with a memory can be used for its current text and model."""

import numpy as np

from memory_pipeline.content.document import Content, vector_hash
from memory_pipeline.domain.types import Memory, Provenance


def reusable_provenance(
    memory: Memory, content: Content, *, model: str, trust: bool
) -> Provenance | None:
    """Return the provenance of the stored vector if it is of this text and this model.

    None: the vector has to be computed. A vector that the pipeline did not write (it has no
    provenance, or another vector's) comes from the application: ``trust`` says whether it is taken
    for one of the current model.
    """
    vector = memory.embedding
    if vector is None:
        return None
    stored = Provenance(content.text_hash, model, vector_hash(vector))
    known = memory.provenance
    if known is not None and known.vector_hash == stored.vector_hash:
        return known if known == stored else None
    # Not zero, infinite or NaN: Chroma can compute an angle to it.
    return stored if trust and 0.0 < float(np.dot(vector, vector)) < np.inf else None
