"""Check documents between two reads of Postgres, so that a write in progress is no finding.

A document is wrong only if its row was the same before and after (version), if nothing was pending
for it, and if it differed; a finding was wrong twice. Where the row has changed between the reads,
nothing can be concluded and the document is checked again: not every new version is a new content.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from memory_pipeline.content.document import Recipe, compose, describe, same_metadata
from memory_pipeline.content.vector_reuse import reusable_vector
from memory_pipeline.domain.changes import ExpectedDifferences
from memory_pipeline.domain.outcomes import Finding, FindingKind
from memory_pipeline.domain.types import Generation, Memory, MemoryId, Stored, TenantId
from memory_pipeline.ports import RenewLease
from memory_pipeline.verify.ports import Index, Memories, Outbox

# Whole documents in one request: 250 vectors are about 4 MB of answer.
CLOSE_CHECK_SIZE = 250
CHECK_SIZE = 1000
CHECKS_TO_CONFIRM = 2
# A row that changes during all of them is left to the next verify.
MAX_CHECKS = 8
VECTOR_TOLERANCE = 1e-5
STRAYS: frozenset[FindingKind] = frozenset({"extra", "foreign"})


@dataclass(frozen=True, slots=True)
class Sides:
    """Both sides of a comparison, and how a document is made from a row."""

    memories: Memories
    outbox: Outbox
    index: Index
    recipe: Recipe
    model: str
    trust: bool


@dataclass(frozen=True, slots=True)
class Right:
    """The document is the memory's, or its difference is expected."""


@dataclass(frozen=True, slots=True)
class Moved:
    """The document differs, and its row has changed during the check: nothing can be concluded."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """The document differs from a row that has not changed."""

    kind: FindingKind
    detail: str


Check = Right | Moved | Wrong


class DoubleCheck:
    """Checks documents of one generation, each between two reads of Postgres.

    ``pending``, ``buried`` and ``waived`` are the memories whose difference was expected so far.
    """

    def __init__(
        self, sides: Sides, tenant: TenantId, generation: Generation, renew: RenewLease
    ) -> None:
        self._sides = sides
        self._tenant = tenant
        self._generation = generation
        self._renew = renew
        self.pending: set[MemoryId] = set()
        self.buried: set[MemoryId] = set()
        self.waived: set[MemoryId] = set()

    def doubt(self, ids: Sequence[MemoryId], *, closely: bool) -> set[MemoryId]:
        """Check once; return the documents that are not right."""
        checks = self._check_once(ids, closely=closely)
        return {memory_id for memory_id, check in checks.items() if not isinstance(check, Right)}

    def confirm(self, doubts: Sequence[MemoryId], *, closely: bool) -> Iterator[Finding]:
        """Check until each document was wrong twice or right once; yield the wrong ones."""
        for slice_ in cut(doubts, CLOSE_CHECK_SIZE if closely else CHECK_SIZE):
            yield from self._confirm_slice(slice_, closely=closely)

    def _confirm_slice(self, ids: Sequence[MemoryId], *, closely: bool) -> Iterator[Finding]:
        times_wrong: Counter[MemoryId] = Counter()
        for _ in range(MAX_CHECKS):
            undecided: list[MemoryId] = []
            for memory_id, check in self._check_once(ids, closely=closely).items():
                if isinstance(check, Right):
                    continue
                if isinstance(check, Wrong):
                    times_wrong[memory_id] += 1
                    if times_wrong[memory_id] == CHECKS_TO_CONFIRM:
                        yield Finding(check.kind, self._tenant, memory_id, check.detail)
                        continue
                undecided.append(memory_id)
            if not undecided:
                return
            ids = undecided

    def _check_once(self, ids: Sequence[MemoryId], *, closely: bool) -> dict[MemoryId, Check]:
        """Check each of these documents; ``closely``: with its vector, text and reachability."""
        sides = self._sides
        rows = self._rows(ids, closely=closely)
        expected_before = sides.outbox.expected_differences(self._tenant, ids)
        stored = sides.index.fetch(self._generation, ids, seconds=self._renew(), whole=closely)
        unreachable = self._unreachable(stored) if closely else set()
        versions_after = sides.memories.versions(ids)
        expected_after = sides.outbox.expected_differences(self._tenant, ids)

        def check(memory_id: MemoryId) -> Check:
            row = rows.get(memory_id)
            wrong = self._difference(
                row, stored.get(memory_id), unreachable=memory_id in unreachable
            )
            if wrong is None:
                return Right()
            if any(
                self._is_expected(memory_id, wrong.kind, expected)
                for expected in (expected_before, expected_after)
            ):
                return Right()
            version_before = None if row is None else (row.tenant, row.version)
            return wrong if version_before == versions_after.get(memory_id) else Moved()

        return {memory_id: check(memory_id) for memory_id in ids}

    def _rows(self, ids: Sequence[MemoryId], *, closely: bool) -> dict[MemoryId, Memory]:
        rows: dict[MemoryId, Memory] = {}
        left = ids
        while left:
            some, left = self._sides.memories.read(left, vectors=closely)
            rows |= some
        return rows

    def _is_expected(
        self, memory_id: MemoryId, kind: FindingKind, expected: ExpectedDifferences
    ) -> bool:
        """Whether a change or a dead letter explains the difference; count it if one does."""
        if self._generation.state != "live" and kind not in STRAYS:
            # A reset repairs all of the live generation; of another, only what was deleted.
            expected = replace(expected, everything=False)
        if memory_id in expected.buried:
            self.buried.add(memory_id)
            self.waived.update({memory_id} & expected.waived)
        elif expected.everything or memory_id in expected.pending:
            self.pending.add(memory_id)
        return expected.explains(memory_id)

    def _unreachable(self, stored: Mapping[MemoryId, Stored]) -> set[MemoryId]:
        vectors = {i: s.vector for i, s in stored.items() if s.vector is not None}
        return self._sides.index.unreachable_by_vector(
            self._generation, vectors, seconds=self._renew()
        )

    def _difference(
        self, row: Memory | None, stored: Stored | None, *, unreachable: bool
    ) -> Wrong | None:
        """Return how a document differs from its row; None where it does not."""
        if row is None or row.tenant != self._tenant:
            return None if stored is None else _stray(row)
        if stored is None:
            return Wrong("missing", "no document is stored for it")
        if not same_metadata(stored.metadata, describe(row, self._sides.recipe)):
            return Wrong("stale", "its metadata or hash is not the memory's")
        if self._texts_differ(row, stored):
            return Wrong("stale", "its text is not the memory's")
        if self._vectors_differ(row, stored):
            return Wrong("vector", "its vector is not the memory's")
        unfound = Wrong("unreachable", "a search by its own vector does not find it")
        return unfound if unreachable else None

    def _texts_differ(self, row: Memory, stored: Stored) -> bool:
        fetched = stored.vector is not None and self._sides.recipe.document == "full"
        return fetched and stored.text != row.raw

    def _vectors_differ(self, row: Memory, stored: Stored) -> bool:
        if stored.vector is None or (row.embedding is None and row.backed_up is None):
            return False
        sides = self._sides
        kept = reusable_vector(
            row, compose(row, sides.recipe), model=sides.model, trust=sides.trust
        )
        if kept is None:  # the application's own vector, which the document was not made of
            return False
        vector, _ = kept
        scale = max(1.0, float(np.linalg.norm(vector)))
        return not np.allclose(vector, stored.vector, rtol=0.0, atol=VECTOR_TOLERANCE * scale)


def _stray(row: Memory | None) -> Wrong:
    if row is None:
        return Wrong("extra", "there is no such memory")
    return Wrong("foreign", "the memory is another tenant's")


def cut(ids: Iterable[MemoryId], size: int) -> Iterator[list[MemoryId]]:
    """Cut ids into slices of at most ``size``."""
    rest = iter(ids)
    while slice_ := list(islice(rest, size)):
        yield slice_
