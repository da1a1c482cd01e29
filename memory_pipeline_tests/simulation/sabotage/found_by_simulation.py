"""What the simulation itself has found."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args
from unittest.mock import patch

from memory_pipeline.domain.outcomes import Finding, FindingKind
from memory_pipeline.domain.types import (
    Generation,
    MemoryId,
    ProvenanceUpdate,
    RebuildPart,
    TenantId,
)
from memory_pipeline.errors import ChromaUnavailable
from memory_pipeline.ports import Lease
from memory_pipeline.rebuild.tenant import Rebuild
from memory_pipeline.sync import generations
from memory_pipeline.sync.damage import Damage
from memory_pipeline.sync.plan import EmbeddedDraft
from memory_pipeline.verify import double_check
from memory_pipeline.verify.double_check import DoubleCheck, Moved, Right
from memory_pipeline.verify.tenant import Verify
from memory_pipeline_tests.fakes import (
    FakeRegistry,
    FakeWorld,
)
from memory_pipeline_tests.simulation import actors
from memory_pipeline_tests.simulation.sabotage.planting import bug, instead, together


@bug(
    "found: what was building alone is given up without a reset",
    "what stood in a generation alone is asked for again",
)
def _no_reset_of_building() -> Iterator[None]:
    def made(abandon: Any) -> Any:
        def silent(self: FakeRegistry, lease: Lease, generation: Any) -> None:
            before = set(self.world.changes)
            tenant = self.world.tenant(lease.tenant)
            alone = tenant.live is None
            abandon(self, lease, generation)
            for seq in set(self.world.changes) - before if alone else ():
                if self.world.changes[seq].memory_id is None:
                    del self.world.changes[seq]

        return silent

    with instead(FakeRegistry, "abandon", made):
        yield


@bug(
    "found: dead letters of what a TRUNCATE took",
    "a reset forgets the dead letters of what is gone",
)
def _dead_letters_stay() -> Iterator[None]:
    with patch.object(FakeWorld, "forget_failures_of_gone", lambda *_: None):
        yield


@bug(
    "found: a vector that a row keeps is taken for this text's",
    "provenance is noted only of the vector that the row has",
)
def _kept_vector() -> Iterator[None]:
    provenance_update = property(
        lambda self: ProvenanceUpdate(self.provenance, self.memory.provenance)
    )
    with patch.object(EmbeddedDraft, "provenance_update", provenance_update):
        yield


@bug(
    "found: a late ack tells where an older vector comes from",
    "provenance is noted in place of what was read with the row, and of nothing else",
)
def _late_provenance() -> Iterator[None]:
    def note(self: FakeWorld, updates: Mapping[MemoryId, ProvenanceUpdate]) -> None:
        self.provenance.update({i: update.new for i, update in updates.items()})

    def provenance_update(self: EmbeddedDraft) -> ProvenanceUpdate | None:
        kept = self.memory.embedding
        return ProvenanceUpdate(self.provenance) if kept is None or kept is self.vector else None

    noted = patch.object(FakeWorld, "note_provenance", note)
    with noted, patch.object(EmbeddedDraft, "provenance_update", property(provenance_update)):
        yield


@bug(
    "found: a reset passes over what a rebuild has filled",
    "a reset looks for what is gone in the building generation as well",
)
def _strays_stay() -> Iterator[None]:
    with patch.object(generations, "find_strays", lambda *_, **__: []):
        yield


@bug(
    "found: a first generation that is left half-built is nobody's",
    "a first generation that was left is gone on with",
)
def _left_half_built() -> Iterator[None]:
    def made(waits: Any) -> Any:
        def live_alone(self: FakeRegistry, tenant: TenantId) -> bool:
            return self.world.tenants[tenant].live is not None and waits(self, tenant)

        return live_alone

    with instead(FakeRegistry, "_waits", made):
        yield


@bug("found: a delete that is refused is tried for ever", "a refused delete is damage")
def _refused_deletes() -> Iterator[None]:
    def made(write: Any) -> Any:
        def write_only(index: Any, generation: Any, ready: Any, deletes: Any, **more: Any) -> Any:
            index.write(generation, (), deletes, renew=more["renew"])
            return write(index, generation, ready, (), **more)

        return write_only

    with instead(generations, "write_documents", made):
        yield


@bug(
    "a collection that takes no write is tried for ever",
    "what takes no write is rebuilt",
    behind="a refused delete or control is damage at once",
)
def _never_wedged() -> Iterator[None]:
    with patch.object(Damage, "wedged", lambda *_: None):
        yield


together(
    "a delete that is refused, or any write, is tried for ever",
    "what takes no write is rebuilt",
    "found: a delete that is refused is tried for ever",
    "a collection that takes no write is tried for ever",
)


@bug("found: a row that is touched amid a look is let pass", "a row that moved is looked at again")
def _touched_passes() -> Iterator[None]:
    def made(check_once: Any) -> Any:
        def check(self: DoubleCheck, ids: Sequence[MemoryId], *, closely: bool) -> Any:
            checks = check_once(self, ids, closely=closely)
            return {i: Right() if isinstance(c, Moved) else c for i, c in checks.items()}

        return check

    # It takes a touch amid both looks, of the very row that is wrong.
    touches = [100 * (kind == "touch") + 1 for kind in actors.KINDS]
    often = patch.multiple(actors, WEIGHTS=touches, WEIGHTS_AMID=touches)
    with instead(DoubleCheck, "_check_once", made), often:
        yield


@bug(
    "found: a reset excuses whatever differs in a building generation",
    "of a building generation a reset mends only what went",
    behind="it takes some 100,000 seeds: 94,698, before a sync took its lease first",
)
def _reset_excuses_all() -> Iterator[None]:
    with patch.object(double_check, "STRAYS", frozenset(get_args(FindingKind))):
        yield


@bug(
    "found: what another has let live is given up",
    "what is half-built is given up by its owner alone, while it is building",
)
def _given_up_by_anybody() -> Iterator[None]:
    def abandon(self: Rebuild, build: RebuildPart, generation: Generation) -> None:
        with self.ownership.leased(build) as lease:
            self.registry.abandon(lease, generation.id)

    with patch.object(Rebuild, "_abandon", abandon):
        yield


@bug(
    "found: what was replaced amid every look is judged",
    "nothing is said of a collection that is not live any more",
)
def _replaced_is_judged() -> Iterator[None]:
    def made(run: Any) -> Any:
        def judged(self: Verify, tenant: TenantId, **how: Any) -> Any:
            last: list[Any] = []

            def look(verify: Verify, *what: Any) -> Any:
                last.append(looked(verify, *what))
                return last[-1]

            with patch.object(Verify, "_verify_once", look):
                try:
                    return run(self, tenant, **how)
                except ChromaUnavailable as error:
                    if "replaced" in str(error):
                        return last[-1]
                    raise

        return judged

    looked = Verify._verify_once
    with instead(Verify, "run", made):
        yield


@bug(
    "found: a collection begins between two looks at what waits",
    "memories are counted before what waits is",
)
def _counted_last() -> Iterator[None]:
    def whole(self: Verify, tenant: TenantId, generation: Generation | None) -> Finding | None:
        if generation is None:
            waits = self.sides.outbox.pending(tenant) or self.registry.building(tenant)
            if waits or not self.sides.memories.count(tenant):
                return None
            return Finding("no collection", tenant)
        return check_generation(self, tenant, generation)

    check_generation = Verify._check_generation
    with patch.object(Verify, "_check_generation", whole):
        yield
