"""An embedder that refuses memories, for tests of what becomes of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from memory_pipeline.domain.types import Vector
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.errors import Poison


@dataclass
class RefusingEmbedder:
    """The stand-in; it refuses every batch that has a text with this word in it."""

    word: str = "arsenic"
    model: str = HashingEmbedder.model
    loaded: bool = True
    refusals: int = 0

    def load(self) -> None:
        """Be loaded."""

    def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        """Embed, or refuse all of it."""
        refused = [text for text in texts if self.word in text]
        if refused and self.word:
            self.refusals += len(texts) == 1
            raise Poison(f'the model refuses a text: "{refused[0]}"')
        return HashingEmbedder().embed(texts)
