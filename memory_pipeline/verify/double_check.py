"""Look at documents between two looks at Postgres, so that a write under way is no finding.

A document is wrong only if its row was the same before and after (version), if nothing was pending
for it, and if it disagreed; a finding is one that was wrong twice. Where the row was not the same
nothing can be said, and it is looked at again: not all that moves a row changes the memory.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from memory_pipeline.chroma.index import ChromaIndex
from memory_pipeline.content.document import Recipe, compose, describe
from memory_pipeline.content.vector_reuse import reusable_provenance
from memory_pipeline.domain.changes import ExpectedDifferences
from memory_pipeline.domain.outcomes import Finding, FindingKind
from memory_pipeline.domain.types import Generation, Memory, MemoryId, Stored, TenantId
from memory_pipeline.ports import RenewLease
from memory_pipeline.postgres.memories import PostgresMemories
from memory_pipeline.postgres.outbox import PostgresOutbox

# Whole documents looked at in one request: 250 vectors are some 4 MB of answer.
CLOSE_CHECK_SIZE = 250
CHECK_SIZE = 1000
CHECKS_TO_CONFIRM = 2
# A row that moves in all of them is left to the next verify.
MAX_CHECKS = 8
VECTOR_TOLERANCE = 1e-5
STRAYS: frozenset[FindingKind] = frozenset({"extra", "foreign"})


@dataclass(frozen=True, slots=True)
class Sides:
    """What a look needs: both sides, and how one is made from the other."""

    memories: PostgresMemories
    outbox: PostgresOutbox
    index: ChromaIndex
    recipe: Recipe
    model: str
    trust: bool


class DoubleCheck:
    """Looks at documents of one generation between two looks at Postgres, as often as asked."""

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
        """Look once; return those that seem wrong."""
        return set(self._check_once(ids, closely=closely))

    def confirm(self, doubts: Sequence[MemoryId], *, closely: bool) -> Iterator[Finding]:
        """Look until each was wrong twice or right once; yield what was wrong."""
        for part in cut(doubts, CLOSE_CHECK_SIZE if closely else CHECK_SIZE):
            left: Sequence[MemoryId] = part
            times: Counter[MemoryId] = Counter()
            for _ in range(MAX_CHECKS):
                looked = self._check_once(left, closely=closely)
                left = []
                for memory_id, wrong in looked.items():
                    times[memory_id] += wrong is not None
                    if wrong is None or times[memory_id] < CHECKS_TO_CONFIRM:
                        left.append(memory_id)
                    else:
                        yield Finding(wrong[0], self._tenant, memory_id, wrong[1])
                if not left:
                    break

    def _check_once(
        self, ids: Sequence[MemoryId], *, closely: bool
    ) -> dict[MemoryId, tuple[FindingKind, str] | None]:
        """Tell what is wrong with each that is; None: it seems so, but its row has moved."""
        sides = self._sides
        rows = self._rows(ids, closely=closely)
        excuses = sides.outbox.expected_differences(self._tenant, ids)
        stored = sides.index.fetch(self._generation, ids, seconds=self._renew(), whole=closely)
        hidden = self._hidden(stored) if closely else set()
        versions = sides.memories.versions(ids)
        later = sides.outbox.expected_differences(self._tenant, ids)
        found: dict[MemoryId, tuple[FindingKind, str] | None] = {}
        for memory_id in ids:
            row = rows.get(memory_id)
            was = None if row is None else (row.tenant, row.version)
            judged = self._judge(row, stored.get(memory_id), hidden=memory_id in hidden)
            if judged is None:
                continue
            if any(self._excused(memory_id, judged[0], said) for said in (excuses, later)):
                continue
            found[memory_id] = judged if was == versions.get(memory_id) else None
        return found

    def _rows(self, ids: Sequence[MemoryId], *, closely: bool) -> dict[MemoryId, Memory]:
        rows: dict[MemoryId, Memory] = {}
        left = ids
        while left:
            some, left = self._sides.memories.read(left, vectors=closely)
            rows |= some
        return rows

    def _excused(
        self, memory_id: MemoryId, kind: FindingKind, excuses: ExpectedDifferences
    ) -> bool:
        if self._generation.state != "live" and kind not in STRAYS:
            # A reset compares all of the live generation; from another it takes what went alone.
            excuses = replace(excuses, everything=False)
        if memory_id in excuses.buried:
            self.buried.add(memory_id)
            self.waived.update({memory_id} & excuses.waived)
        elif excuses.everything or memory_id in excuses.pending:
            self.pending.add(memory_id)
        return excuses.cover(memory_id)

    def _hidden(self, stored: Mapping[MemoryId, Stored]) -> set[MemoryId]:
        vectors = {i: s.vector for i, s in stored.items() if s.vector is not None}
        return self._sides.index.unreachable_by_vector(
            self._generation, vectors, seconds=self._renew()
        )

    def _judge(
        self, row: Memory | None, stored: Stored | None, *, hidden: bool
    ) -> tuple[FindingKind, str] | None:
        """Say what is wrong with a document, from the row and what is stored; None: nothing."""
        if row is None or row.tenant != self._tenant:
            return None if stored is None else _stray(row)
        if stored is None:
            return "missing", "no document is stored for it"
        if describe(row, self._sides.recipe) != dict(stored.metadata):
            return "stale", "its metadata or hash is not the memory's"
        if self._texts_differ(row, stored):
            return "stale", "its text is not the memory's"
        if self._vectors_differ(row, stored):
            return "vector", "its vector is not the memory's"
        return ("unreachable", "a search by its own vector does not find it") if hidden else None

    def _texts_differ(self, row: Memory, stored: Stored) -> bool:
        looked_at = stored.vector is not None and self._sides.recipe.document == "full"
        return looked_at and stored.text != row.raw

    def _vectors_differ(self, row: Memory, stored: Stored) -> bool:
        if row.embedding is None or stored.vector is None:
            return False
        sides = self._sides
        known = reusable_provenance(
            row, compose(row, sides.recipe), model=sides.model, trust=sides.trust
        )
        if known is None:  # the application's own, which the document was not made with
            return False
        scale = max(1.0, float(np.linalg.norm(row.embedding)))
        return not np.allclose(
            row.embedding, stored.vector, rtol=0.0, atol=VECTOR_TOLERANCE * scale
        )


def _stray(row: Memory | None) -> tuple[FindingKind, str]:
    if row is None:
        return "extra", "there is no such memory"
    return "foreign", "the memory is another tenant's"


def cut(ids: Iterable[MemoryId], size: int) -> Iterator[list[MemoryId]]:
    """Cut ids into parts of at most ``size``."""
    walk = iter(ids)
    while part := list(islice(walk, size)):
        yield part
