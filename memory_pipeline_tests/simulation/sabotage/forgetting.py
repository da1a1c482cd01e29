"""Guards of forgetting a tenant, and of retiring the collections of tenants without memories."""

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

from memory_pipeline.domain.types import TenantId
from memory_pipeline_tests.fakes import (
    FakeErasures,
    FakeOutbox,
    FakeRegistry,
    FakeTenant,
    FakeWorld,
)
from memory_pipeline_tests.simulation.sabotage.planting import bug, instead


@bug("a fence deletes the changes of memories that stand", "a memory that stands gets a reset")
def _no_reset() -> Iterator[None]:
    def forget_changes(self: FakeErasures, tenant: TenantId) -> None:
        for change in [c for c in self.world.changes.values() if c.tenant == tenant]:
            del self.world.changes[change.seq]

    with patch.object(FakeErasures, "forget_changes", forget_changes):
        yield


@bug(
    "a registration counts its tokens from 1",
    "the tokens of a registration are above those of the ones before",
    behind="an ack names the changes that it claimed, and those are gone",
)
def _tokens_again() -> Iterator[None]:
    def register(self: FakeWorld, tenant: TenantId) -> None:
        self.tenants[tenant] = FakeTenant()

    with patch.object(FakeWorld, "register", register):
        yield


@bug(
    "an empty tenant is retired whatever is pending",
    "only what has nothing pending, failed or being rebuilt is retired",
    behind="its changes stay, and the next sync begins a collection with a reset",
)
def _retired_anyway() -> Iterator[None]:
    with patch.object(FakeErasures, "is_quiet", lambda _self, _tenant: True):
        yield


@bug(
    "a worker registers the tenants that it remembers",
    "a tenant is registered by a pending change, and by nothing else",
    behind="it comes back without memories, and the cleanup retires its collection",
)
def _registers_what_it_remembers() -> Iterator[None]:
    def made(_register: Any) -> Any:
        def register_pending(self: FakeRegistry, tenant: TenantId) -> bool:
            self.register(tenant)
            return True

        return register_pending

    with instead(FakeRegistry, "register_pending", made):
        yield


@bug(
    "rechecks are enqueued for a tenant that was forgotten",
    "whatever stores a tenant's name finds it registered",
    behind="it comes back without memories, and the cleanup retires its collection",
)
def _enqueued_anyway() -> Iterator[None]:
    def enqueue(self: FakeOutbox, tenant: TenantId, memory_ids: Any) -> None:
        with self.world.step("outbox.enqueue"):
            for memory_id in sorted(set(memory_ids)):
                self.world.enqueue(tenant, memory_id, recheck=True)

    with patch.object(FakeOutbox, "enqueue", enqueue):
        yield
