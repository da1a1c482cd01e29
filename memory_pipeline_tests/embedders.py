"""Embedders for the tests: the stand-in that hashes, which counts, acts or refuses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from memory_pipeline.domain.types import Vector
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.errors import Poison


def _nothing(*_: object) -> None:
    """Let nothing happen."""


@dataclass
class CountingEmbedder:
    """Remembers every text that it was asked to embed.

    ``on_load``: called when it is loaded. ``before``: called with the texts before they are
    embedded; what it raises is what the model raises.
    """

    model: str = HashingEmbedder.model
    texts: list[str] = field(default_factory=list)
    loaded: bool = True
    on_load: Callable[[], None] = _nothing
    before: Callable[[Sequence[str]], None] = _nothing

    def load(self) -> None:
        """Be loaded."""
        self.on_load()
        self.loaded = True

    def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        """Remember and embed."""
        self.texts.extend(texts)
        self.before(texts)
        return HashingEmbedder().embed(texts)


@dataclass
class RefusingEmbedder(CountingEmbedder):
    """Refuses every batch that has a text with this word in it; no word, no refusal.

    ``quotes``: the error quotes the text. ``refusals``: how often a text alone was refused.
    """

    word: str = "arsenic"
    quotes: bool = False
    refusals: int = 0

    def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        """Embed, or refuse all of it."""
        refused = [text for text in texts if self.word in text]
        if refused and self.word:
            self.texts.extend(texts)
            self.refusals += len(texts) == 1
            quote = f': "{refused[0]}"' if self.quotes else ""
            raise Poison(f"the model refuses a text{quote}")
        return super().embed(texts)


@dataclass
class BrokenEmbedder(CountingEmbedder):
    """Refuses everything: a model that is broken."""

    def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        """Refuse."""
        del texts
        raise Poison("the model is broken")
