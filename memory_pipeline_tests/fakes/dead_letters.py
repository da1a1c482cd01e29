"""The dead letters, in memory."""

from collections.abc import Sequence

from memory_pipeline.domain.dead_letters import Cause, DeadLetterFilter
from memory_pipeline.domain.types import (
    MemoryId,
    TenantId,
)
from memory_pipeline_tests.fakes.world import FakeWorld


class FakeLetters:
    """The dead letters: replayed and waived."""

    def __init__(self, world: FakeWorld) -> None:
        self.world = world

    def replay(self, which: DeadLetterFilter) -> int:
        """Have dead letters tried again, with all their attempts; return how many."""
        return sum(self._rise(key) for key in self._chosen(which))

    def replay_cured(self, cause: Cause) -> int:
        """Replay what was refused under another cause, once for each; return how many."""
        world = self.world
        risen = 0
        for key in self._chosen(DeadLetterFilter(waived=False)):
            failure, live = world.failures[key], world.tenant(key[0]).live
            built = None if live is None else world.generations[live]
            if (
                built is not None
                and (built.model, built.config_hash) == (cause.model, cause.config_hash)
                and built.state == "live"
                and cause.word not in failure.tried_under
            ):
                failure.tried_under = (*failure.tried_under, cause.word)
                risen += self._rise(key)
        return risen

    def waive(self, which: DeadLetterFilter, *, by: str, because: str) -> int:
        """Note that a person lets dead letters be; return how many were not waived before."""
        del by, because
        chosen = [key for key in self._chosen(which) if not self.world.failures[key].waived]
        for key in chosen:
            self.world.failures[key].waived = True
        return len(chosen)

    def unwaive(self, which: DeadLetterFilter) -> int:
        """Take a waiver back; return of how many."""
        chosen = [key for key in self._chosen(which) if self.world.failures[key].waived]
        for key in chosen:
            self.world.failures[key].waived = False
        return len(chosen)

    def buried(self, tenant: TenantId, memory_ids: Sequence[MemoryId]) -> frozenset[MemoryId]:
        """Return those of a tenant's memories that are dead letters, waived or not."""
        mine = self._chosen(DeadLetterFilter(tenants=[tenant], memory_ids=memory_ids))
        return frozenset(memory_id for _, memory_id in mine)

    def _chosen(self, which: DeadLetterFilter) -> list[tuple[TenantId, MemoryId]]:
        return [
            (tenant, memory_id)
            for (tenant, memory_id), failure in sorted(self.world.failures.items())
            if failure.buried
            and (which.tenants is None or tenant in which.tenants)
            and (which.memory_ids is None or memory_id in which.memory_ids)
            and (which.waived is None or failure.waived == which.waived)
        ]

    def _rise(self, key: tuple[TenantId, MemoryId]) -> int:
        failure = self.world.failures[key]
        failure.attempts, failure.buried = 0, False
        self.world.enqueue(*key, recheck=True)
        return 1
