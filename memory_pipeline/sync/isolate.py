"""Single out what is refused: attempt a batch, and halve it until each refused one is alone."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from memory_pipeline.domain.outcomes import Failure, FailureKind
from memory_pipeline.errors import Poison
from memory_pipeline.redact import without_quotes
from memory_pipeline.sync.plan import Draft, EmbeddedDraft

T = TypeVar("T")


def isolate(batch: Sequence[T], attempt: Callable[[Sequence[T]], None]) -> list[tuple[T, Poison]]:
    """Attempt a batch; if it is refused, halve it until each refused element is on its own.

    Args:
        batch: the elements.
        attempt: does the work for some of them, all or none. Raises Poison to refuse.

    Returns:
        Each element that is refused on its own, with the error; all others succeeded.

    """
    if not batch:
        return []
    try:
        attempt(batch)
    except Poison as refusal:
        if len(batch) == 1:
            return [(batch[0], refusal)]
        middle = len(batch) // 2
        return [*isolate(batch[:middle], attempt), *isolate(batch[middle:], attempt)]
    return []


def failure_of(draft: Draft | EmbeddedDraft, kind: FailureKind, why: Poison) -> Failure:
    """Return the failure of a draft that was refused; its reason quotes no text of the memory."""
    reason = without_quotes(f"{kind}: {why}")
    return Failure(draft.memory.id, reason, kind, draft.content.content_hash)
