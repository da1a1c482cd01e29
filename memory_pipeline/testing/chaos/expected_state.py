"""The states that each memory may be in, by the answers that the application got. Pure.

After a lost answer a memory may be in one of several states; all of them are kept.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from memory_pipeline.domain.types import MemoryId, TenantId
from memory_pipeline.testing.chaos.history import Write


@dataclass(frozen=True, slots=True)
class StoredMemory:
    """A memory that exists: its tenant, and a digest of its content."""

    tenant: TenantId
    digest: str


# None: there is no such memory.
State = StoredMemory | None
ABSENT: frozenset[State] = frozenset({None})


@dataclass(frozen=True, slots=True)
class PossibleStates:
    """The states that a memory may be in, since when (ns), and whether it ever existed.

    ``captured``: how many changes of it Postgres must have captured, at the least.
    """

    states: frozenset[State] = ABSENT
    since: int = 0
    existed: bool = False
    captured: int = 0


@dataclass(slots=True)
class ExpectedState:
    """The possible states of every memory. Thread-safe."""

    memories: dict[MemoryId, PossibleStates] = field(default_factory=dict)
    _busy: set[MemoryId] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, ids: Iterable[MemoryId]) -> None:
        """Mark memories as being written: until it ends, their state is unknown."""
        with self._lock:
            self._busy.update(ids)

    def apply(self, write: Write) -> None:
        """Apply a write and the answer that it got."""
        new: State = None
        if write.tenant is not None and write.digest is not None:
            new = StoredMemory(write.tenant, write.digest)
        with self._lock:
            self._busy.discard(write.memory_id)
            before = self.memories.get(write.memory_id, PossibleStates())
            if write.answer == "fail":
                self.memories[write.memory_id] = before
                return
            existed = before.existed or new is not None
            states, captured = before.states | {new}, before.captured
            if write.answer == "ok":
                states = frozenset({new})
                captured += min(_changes_captured(state, new) for state in before.states)
            self.memories[write.memory_id] = PossibleStates(states, write.ended, existed, captured)

    def certain(self, memory_id: MemoryId, *, since: int) -> tuple[bool, State]:
        """Return whether a memory has been in one known state since a moment, and the state."""
        with self._lock:
            possible = self.memories.get(memory_id)
            if possible is None or memory_id in self._busy or possible.since >= since:
                return False, None
            if len(possible.states) != 1:
                return False, None
            (state,) = possible.states
            return True, state


def _changes_captured(before: State, after: State) -> int:
    """Count the tenants for which the change is captured: a move concerns two."""
    if before == after:
        return 0
    return len({state.tenant for state in (before, after) if state is not None})
