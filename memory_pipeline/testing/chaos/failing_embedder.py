"""The command line as users start it, but that its model fails when it is told to.

    python -m memory_pipeline.testing.chaos.failing_embedder FILE live --no-dagster
    python -m memory_pipeline.testing.chaos.failing_embedder FILE dagster-run incremental_sync

FILE says what is wrong with the model now: nothing (empty or absent), ``unavailable``, or
``refuses`` (every text). Some texts it always refuses: those are the planted poison.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from memory_pipeline import pipeline
from memory_pipeline.domain.types import Vector
from memory_pipeline.embedding.cache import CachedEmbedder
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.errors import EmbedderUnavailable, Poison
from memory_pipeline.ports import Embedder
from memory_pipeline.settings import Settings

# Not a command of the product: a run of Dagster in this process.
RUN = "dagster-run"
# A text with it is refused by the model, and one with the other by Chroma (the proxy answers).
POISON = "qvxpoisonembed"
REFUSED = "qvxpoisonindex"


class FailingEmbedder:
    """The lexical stand-in, which refuses poison, and everything when its file says so."""

    model = HashingEmbedder.model
    loaded = True

    def __init__(self, file: Path) -> None:
        self._file = file
        self._inner = HashingEmbedder()

    def load(self) -> None:
        """Do nothing: there is nothing to load."""

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Return one vector a text, in order.

        Raises:
            Poison: one of the texts is refused.
            EmbedderUnavailable: it was told to be.

        """
        try:
            wrong = self._file.read_text()
        except OSError:
            wrong = ""
        if wrong == "unavailable":
            raise EmbedderUnavailable("the model is away, as it was told to be")
        if wrong or any(POISON in text for text in texts):
            raise Poison(f"the model refuses one of {len(texts)} texts")
        return self._inner.embed(texts)


def main() -> None:
    """Run the command line."""
    file = Path(sys.argv.pop(1))

    def failing(_: Settings) -> Embedder:
        return CachedEmbedder(FailingEmbedder(file))

    pipeline.__dict__["embedder_from"] = failing
    if sys.argv[1] == RUN:
        from memory_pipeline.testing.chaos.dagster_run import main as run  # noqa: PLC0415 - dagster is slow

        sys.argv.pop(1)
        run()
    else:
        from memory_pipeline.cli import main as command_line  # noqa: PLC0415 - torch is slow

        command_line()


if __name__ == "__main__":
    main()
