"""Races that earlier designs had."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast
from unittest.mock import patch

from memory_pipeline.content import vector_reuse
from memory_pipeline.content.document import vector_hash
from memory_pipeline.domain.changes import Claim
from memory_pipeline.domain.outcomes import Failure
from memory_pipeline.domain.types import (
    Generation,
    Memory,
    MemoryId,
    Provenance,
    TenantId,
)
from memory_pipeline.ports import Lease
from memory_pipeline.rebuild import chunks as filling
from memory_pipeline.sync import embed, generations, write
from memory_pipeline.sync import isolate as isolating
from memory_pipeline.sync.damage import Damage
from memory_pipeline.sync.generations import Generations
from memory_pipeline.verify import double_check
from memory_pipeline.verify.double_check import Check, DoubleCheck, Right
from memory_pipeline.verify.tenant import SAMPLE, Verify
from memory_pipeline_tests.fakes import (
    FakeOutbox,
)
from memory_pipeline_tests.simulation.sabotage.planting import bug, instead, together


@bug("a finding whatever the version", "a row that moved between two looks is no finding")
def _any_version() -> Iterator[None]:
    def check(
        self: DoubleCheck, ids: Sequence[MemoryId], *, closely: bool
    ) -> dict[MemoryId, Check]:
        rows = self._rows(ids, closely=closely)
        before = self._sides.outbox.expected_differences(self._tenant, ids)
        stored = self._sides.index.fetch(
            self._generation, ids, seconds=self._renew(), whole=closely
        )
        after = self._sides.outbox.expected_differences(self._tenant, ids)
        found = {i: self._difference(rows.get(i), stored.get(i), unreachable=False) for i in ids}
        return {
            i: Right()
            if wrong is None or any(self._is_expected(i, wrong.kind, e) for e in (before, after))
            else wrong
            for i, wrong in found.items()
        }

    with patch.object(DoubleCheck, "_check_once", check):
        yield


@bug(
    "what waits is asked for afterwards alone",
    "what waits is asked for before and after",
    behind="it would have to be brought amid the look both times",
)
def _waits_afterwards() -> Iterator[None]:
    def check(self: DoubleCheck, ids: Sequence[MemoryId], *, closely: bool) -> Any:
        outbox, first = self._sides.outbox, True

        class Afterwards:
            def expected_differences(self, *asked: Any) -> Any:
                nonlocal first
                found = outbox.expected_differences(*asked)
                first, was = False, first
                return replace(found, pending=frozenset(), everything=False) if was else found

        parts = replace(self._sides, outbox=cast("Any", Afterwards()))
        other = DoubleCheck(parts, self._tenant, self._generation, self._renew)
        return check_once(other, ids, closely=closely)

    check_once = DoubleCheck._check_once
    with patch.object(DoubleCheck, "_check_once", check):
        yield


@bug(
    "a finding after one look",
    "a finding is what was wrong twice",
    behind="the row's version and what waits are compared on either side of it",
)
def _one_look() -> Iterator[None]:
    with patch.object(double_check, "CHECKS_TO_CONFIRM", 1):
        yield


together(
    "a finding after one look, whatever the version",
    "a row that moved is no finding",
    "a finding after one look",
    "a finding whatever the version",
)
together(
    "a finding after one look, and what waits is asked for afterwards alone",
    "what waits is asked for before and after",
    "a finding after one look",
    "what waits is asked for afterwards alone",
)


@bug("a finding whatever waits", "what waits is no finding")
def _whatever_waits() -> Iterator[None]:
    with patch.object(DoubleCheck, "_is_expected", lambda *_: False):
        yield


@bug("a finding whatever was flipped", "a flip amid a verify has it look again")
def _whatever_flipped() -> Iterator[None]:
    def run(self: Verify, tenant: TenantId, **how: Any) -> Any:
        target = how.get("generation") or self.registry.live(tenant)
        renew = how.get("renew") or (lambda: self.seconds)
        sample, written_rows = how.get("sample", SAMPLE), how.get("written_rows")
        return self._verify_once(tenant, target, sample, written_rows, renew)

    with patch.object(Verify, "run", run):
        yield


@bug(
    "a vector is known by its text alone",
    "a vector is known by its text, the model and its own hash",
)
def _vector_by_text() -> Iterator[None]:
    def provenance_of_row(
        memory: Memory, vector: Any, content: Any, *, model: str, **_: Any
    ) -> Provenance | None:
        known = memory.provenance
        if known is not None:
            return known if (known.text_hash, known.model) == (content.text_hash, model) else None
        return Provenance(content.text_hash, model, vector_hash(vector))

    with patch.object(vector_reuse, "_provenance_of_row", provenance_of_row):
        yield


@bug("a memory is charged without a control", "a refusal is charged only where a control passes")
def _no_control() -> Iterator[None]:
    def write(
        index: Any,
        generation: Generation,
        ready: Any,
        deletes: Any,
        *,
        renew: Any,
        add_only: Any = 0,
    ) -> list[Failure]:
        index.write(generation, (), deletes, renew=renew)

        def attempt(part: Any) -> None:
            index.write(
                generation, [d.document for d in part], (), renew=renew, add_only=bool(add_only)
            )

        return [Failure(d.memory.id, str(e)) for d, e in isolating.isolate(ready, attempt)]

    with (
        patch.object(generations, "write_documents", write),
        patch.object(filling, "write_documents", write),
    ):
        yield


@bug("poison stops its batch", "what is refused is singled out")
def _no_isolation() -> Iterator[None]:
    def isolate(part: Any, attempt: Any) -> list[Any]:
        if part:
            attempt(part)
        return []

    with patch.object(embed, "isolate", isolate), patch.object(write, "isolate", isolate):
        yield


@bug("attempts begin anew with each change", "attempts belong to the memory, not to its changes")
def _attempts_anew() -> Iterator[None]:
    def made(claim: Any) -> Any:
        def forget(self: FakeOutbox, lease: Lease) -> Claim:
            found: Claim = claim(self, lease)
            for i in found.memory_ids:
                self.world.failures.pop((lease.tenant, i), None)
            return found

        return forget

    with instead(FakeOutbox, "claim", made):
        yield


@bug("a building generation that fails stops the live one", "live waits for no building generation")
def _building_blocks() -> Iterator[None]:
    def abandon(self: Generations, lease: Lease, generation: Generation, error: Any) -> None:
        raise error

    with patch.object(Generations, "_abandon", abandon):
        yield


@bug("damage is not marked", "a damaged collection is marked, and rebuilt")
def _unmarked() -> Iterator[None]:
    with patch.object(Damage, "condemn", lambda *_: "postponed"):
        yield


@bug("a reset compares nothing", "a reset compares the whole tenant")
def _empty_reset() -> Iterator[None]:
    with patch.object(generations, "find_differing", lambda *_, **__: []):
        yield
