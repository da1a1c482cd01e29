"""Decide what follows an interrupted attempt to rebuild a tenant. Counts; no I/O, no clock.

| the attempt ended with                      | then                                              |
|---------------------------------------------|---------------------------------------------------|
| an outage or a lost lease                   | resume; ``MAX_FAILURES`` in a row fail the tenant,|
|                                             | where every written chunk starts the count again  |
| damage, or an abandoned generation          | a new generation, ``MAX_GENERATIONS`` at most     |
| ``MAX_FAILURES`` outages of one generation, | the same as damage: ``replace_generation``        |
| whose server takes the writes of others     |                                                   |
"""

from dataclasses import dataclass, replace
from uuid import UUID

from memory_pipeline.errors import Corrupt, Fenced, Poison, Transient
from memory_pipeline.rebuild.ownership import GenerationAbandoned

# In a row, without a chunk that was written between them.
MAX_FAILURES = 5
MAX_GENERATIONS = 3

INTERRUPTIONS = (GenerationAbandoned, Corrupt, Poison, Transient, Fenced)


@dataclass(frozen=True, slots=True)
class Retries:
    """The attempts so far of one rebuild of a tenant.

    ``damaged``: the generation that must not be resumed; None: whichever is building may be.
    """

    failures: int = 0
    generations: int = 0
    damaged: UUID | None = None

    def after(self, error: Exception) -> "Retry | NewGeneration | GiveUp":
        """Decide what follows an attempt that ended with one of ``INTERRUPTIONS``."""
        if isinstance(error, Transient | Fenced):
            failures = self.failures + 1
            if failures == MAX_FAILURES:
                return GiveUp(str(error))
            return Retry(replace(self, failures=failures), str(error))
        reason = str(error) or "its generation was abandoned: a write to it failed"
        damaged = error.generation if isinstance(error, Corrupt) else None
        return _begin_another(replace(self, damaged=damaged), reason)

    def replace_generation(self, generation: UUID, reason: str) -> "NewGeneration | GiveUp":
        """Decide what follows where this generation alone keeps failing, as if it were damaged."""
        return _begin_another(replace(self, failures=0, damaged=generation), reason)

    def after_a_chunk(self) -> "Retries":
        """Return the count after a chunk was written: the failures before it no longer count."""
        return replace(self, failures=0)


@dataclass(frozen=True, slots=True)
class Retry:
    """Attempt again: the generation is resumed from its checkpoint."""

    retries: Retries
    reason: str
    what_follows: str = "the rebuild resumes from its checkpoint"


@dataclass(frozen=True, slots=True)
class NewGeneration:
    """Attempt again with a new generation; ``generation`` is the damaged one, where it is known."""

    retries: Retries
    reason: str
    generation: UUID | None = None
    what_follows: str = "the rebuild starts a new generation"


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Fail the part. A later rebuild of the tenant resumes from its checkpoint, if it can."""

    reason: str
    generation: UUID | None = None
    what_follows: str = "the rebuild of this tenant fails; searches keep the live generation"


def _begin_another(retries: Retries, reason: str) -> NewGeneration | GiveUp:
    generations = retries.generations + 1
    if generations == MAX_GENERATIONS:
        return GiveUp(reason, retries.damaged)
    return NewGeneration(replace(retries, generations=generations), reason, retries.damaged)
