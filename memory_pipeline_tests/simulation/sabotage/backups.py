"""Guards of the backup of vectors: what is refused or missed, and whose text a vector is."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from memory_pipeline.domain.types import Memory, MemoryId, Provenance, Vector
from memory_pipeline.sync import batch, plan
from memory_pipeline_tests.fakes import FakeMemories
from memory_pipeline_tests.simulation.sabotage.planting import bug, instead, together

NO_MISS = "what Postgres refuses is no miss"


@bug(
    "a refused backup is taken for a miss",
    NO_MISS,
    behind="a document waits no longer than two seconds for its backup",
)
def _refused_is_missed() -> Iterator[None]:
    def made(back_up: Any) -> Any:
        def missed(
            self: FakeMemories, vectors: dict[MemoryId, tuple[Memory, Vector, Provenance]]
        ) -> frozenset[MemoryId]:
            done: frozenset[MemoryId] = back_up(self, vectors)
            if self.world.settings.backup != "on":
                return done
            return frozenset(i for i in done if not self.world.refuses_backup(i))

        return missed

    with instead(FakeMemories, "back_up", made):
        yield


@bug(
    "a missed backup is waited for for ever",
    "a document waits no longer than two seconds for its backup",
    behind="no row is locked for long in a simulation",
)
def _waited_for() -> Iterator[None]:
    with patch.object(batch, "BACKUP_PATIENCE_SECONDS", float("inf")):
        yield


together(
    "a refused backup leaves its change pending for ever",
    NO_MISS,
    "a refused backup is taken for a miss",
    "a missed backup is waited for for ever",
)


@bug("a vector of the own table is taken for any text", "a vector is kept with its text and model")
def _any_text() -> Iterator[None]:
    def made(reusable: Any) -> Any:
        def of_any(memory: Memory, content: Any, *, model: str, trust: bool) -> Any:
            if memory.backed_up is not None:
                kept = replace(memory.backed_up, text_hash=content.text_hash, model=model)
                memory = replace(memory, backed_up=kept)
            return reusable(memory, content, model=model, trust=trust)

        return of_any

    with instead(plan, "reusable_vector", made):
        yield
