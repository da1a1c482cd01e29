"""The embedder that the settings name."""

from memory_pipeline.embedding.cache import CachedEmbedder
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.embedding.sentence import SentenceEmbedder
from memory_pipeline.ports import Embedder
from memory_pipeline.settings import Settings


def embedder_from(settings: Settings) -> Embedder:
    """Return the embedder that the settings name; loads nothing yet."""
    if settings.embedder == "hashing":
        return CachedEmbedder(HashingEmbedder())
    model = SentenceEmbedder(
        settings.model_cache(),
        device=settings.device,
        precision=settings.precision,
        batch_size=settings.embed_batch_size,
    )
    return CachedEmbedder(model, chunk=settings.embed_batch_size)
