"""Guards of the rebuild, the claim and the flip; some without the verify before the flip, too."""

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

from memory_pipeline.domain.changes import Claim
from memory_pipeline.domain.types import (
    TenantId,
)
from memory_pipeline.errors import PipelineError, Transient
from memory_pipeline.ports import Lease
from memory_pipeline.rebuild import tenant as rebuild
from memory_pipeline.sync.generations import Generations
from memory_pipeline.sync.tenant import Sync
from memory_pipeline_tests.fakes import (
    FakeChange,
    FakeWorld,
)
from memory_pipeline_tests.simulation.sabotage.planting import _unfenced, bug, instead, together


@bug(
    "a claim without the token",
    "only the holder of the lease claims",
    behind="no request and no ack goes out under a dead token",
)
def _unleased_claim() -> Iterator[None]:
    with _unfenced("outbox.claim"):
        yield


@bug(
    "a flip without the token",
    "a flip names the token",
    behind="it names the building generation and the owner of the part",
)
def _unleased_flip() -> Iterator[None]:
    with _unfenced("rebuilds.flip"):
        yield


@bug(
    "a chunk is recorded without the token",
    "a chunk is recorded under the token that wrote it",
    behind="what was answered has landed under the lease that its request renewed",
)
def _unleased_chunk() -> Iterator[None]:
    with _unfenced("rebuilds.record_chunk"):
        yield


@bug(
    "a first generation begins without the token",
    "only the holder of the lease begins one",
    behind="it begins only where there is none",
)
def _unleased_first() -> Iterator[None]:
    with _unfenced("registry.flip_first"):
        yield


@bug(
    "what may be half-written is added to",
    "what may be half-written is written over",
    behind="what stands there is a batch's, or as new, or has a change that waits",
)
def _added_to() -> Iterator[None]:
    with patch.object(rebuild, "LONGEST_CHUNK", 0):
        yield


@bug("what was covered stays covered", "what a rebuild covers waits again when it is given up")
def _covered_for_ever() -> Iterator[None]:
    def made(claimable: Any) -> Any:
        def uncovered(self: FakeWorld, tenant: TenantId) -> list[FakeChange]:
            return [c for c in claimable(self, tenant) if c.covered_by is None]

        return uncovered

    with instead(FakeWorld, "claimable", made):
        yield


@bug("a timeout gives its changes back", "only what was not sent is given back unclaimed")
def _given_back() -> Iterator[None]:
    def made(verdict: Any) -> Any:
        def unclaim(self: Sync, lease: Lease, claim: Claim, error: PipelineError) -> Any:
            if isinstance(error, Transient) and claim.changes:
                self.outbox.unclaim(lease, claim)
            return verdict(self, lease, claim, error)

        return unclaim

    with instead(Sync, "_verdict", made):
        yield


@bug(
    "what nothing was written to is acked",
    "a batch without a target is not acked",
    behind="what is marked as damaged is rebuilt from the rows",
)
def _no_target() -> Iterator[None]:
    def made(write: Any) -> Any:
        def anywhere(self: Generations, lease: Lease, targets: Any, *more: Any) -> Any:
            return write(self, lease, targets, *more) if targets else []

        return anywhere

    with instead(Generations, "write", made):
        yield


# The verify before the flip hides these. Without harm, which that verify alone would find.
together(
    "no verify, and versions of a chunk are not checked",
    "a chunk looks at the version of every row under its lease",
    "S9 flip before verify",
    "versions of a chunk are not checked",
    harm=False,
)

together(
    "no verify, and rows of a chunk that moved are not read again",
    "a row that moved is read again, not left out",
    "S9 flip before verify",
    "rows of a chunk that moved are not read again",
    harm=False,
)

together(
    "no verify, and a chunk is done again at once",
    "a chunk is done again when its first request has landed or died",
    "S9 flip before verify",
    "a chunk is done again at once",
    harm=False,
)
