"""Whether a vector stored with a memory can be used for its current text and model."""

import numpy as np

from memory_pipeline.content.document import Content, vector_hash
from memory_pipeline.domain.types import Memory, Provenance, Vector


def reusable_vector(
    memory: Memory, content: Content, *, model: str, trust: bool
) -> tuple[Vector, Provenance] | None:
    """Return the stored vector of this text and this model, with its provenance.

    None: it has to be computed. The vector in ``memory_logs`` comes first, for the application may
    have set it since; then the one in the pipeline's own table, if it is of this text and model.
    """
    vector = memory.embedding
    if vector is not None:
        provenance = _provenance_of_row(memory, vector, content, model=model, trust=trust)
        if provenance is not None:
            return vector, provenance
    kept = memory.backed_up
    if kept is not None and (kept.text_hash, kept.model) == (content.text_hash, model):
        return kept.vector, Provenance(content.text_hash, model, vector_hash(kept.vector))
    return None


def _provenance_of_row(
    memory: Memory, vector: Vector, content: Content, *, model: str, trust: bool
) -> Provenance | None:
    """Return the provenance of the row's vector if it is of this text and this model.

    A vector that the pipeline did not write (it has no provenance, or another vector's) comes from
    the application: ``trust`` says whether it is taken for one of the current model.
    """
    stored = Provenance(content.text_hash, model, vector_hash(vector))
    known = memory.provenance
    if known is not None and known.vector_hash == stored.vector_hash:
        return known if known == stored else None
    # Not zero, infinite or NaN: Chroma can compute an angle to it.
    return stored if trust and 0.0 < float(np.dot(vector, vector)) < np.inf else None
