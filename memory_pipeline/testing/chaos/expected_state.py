"""What the application knows of its memories, from what it was told. Pure.

After an answer was lost, a memory is in one of several states; the books keep all of them.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from memory_pipeline.domain.types import MemoryId, TenantId
from memory_pipeline.testing.chaos.history import Write


@dataclass(frozen=True, slots=True)
class Placed:
    """A memory that stands: whose it is, and a digest of what it says."""

    tenant: TenantId
    digest: str


# None: there is no such memory.
State = Placed | None
NOWHERE: frozenset[State] = frozenset({None})


@dataclass(frozen=True, slots=True)
class KnownState:
    """What is known of a memory: the states it may be in, since when, and whether it ever stood.

    ``captured``: how many changes Postgres must have written down of it, at the least.
    """

    states: frozenset[State] = NOWHERE
    since: int = 0
    stood: bool = False
    captured: int = 0


@dataclass(slots=True)
class Books:
    """The states that each memory may be in. Threads may share it."""

    known: dict[MemoryId, KnownState] = field(default_factory=dict)
    _busy: set[MemoryId] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, ids: Iterable[MemoryId]) -> None:
        """Take note that these are being written: nobody can tell what stands until it ends."""
        with self._lock:
            self._busy.update(ids)

    def note(self, write: Write) -> None:
        """Take note of what a write was told."""
        new: State = None
        if write.tenant is not None and write.digest is not None:
            new = Placed(write.tenant, write.digest)
        with self._lock:
            self._busy.discard(write.memory_id)
            before = self.known.get(write.memory_id, KnownState())
            if write.verdict == "fail":
                self.known[write.memory_id] = before
                return
            stood = before.stood or new is not None
            states, captured = before.states | {new}, before.captured
            if write.verdict == "ok":
                states = frozenset({new})
                captured += min(_tenants_told(state, new) for state in before.states)
            self.known[write.memory_id] = KnownState(states, write.ended, stood, captured)

    def certain(self, memory_id: MemoryId, *, since: int) -> tuple[bool, State]:
        """Tell whether a memory has been in one known state ever since, and in which."""
        with self._lock:
            known = self.known.get(memory_id)
            if known is None or memory_id in self._busy or known.since >= since:
                return False, None
            if len(known.states) != 1:
                return False, None
            (state,) = known.states
            return True, state


def _tenants_told(before: State, after: State) -> int:
    """Count the tenants that such a change is captured for: a move concerns two."""
    if before == after:
        return 0
    return len({state.tenant for state in (before, after) if state is not None})
