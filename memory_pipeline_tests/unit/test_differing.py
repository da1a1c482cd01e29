"""A whole tenant is compared with a collection: what differs, and what has no memory."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

import pytest

from memory_pipeline.content.document import compose, recipe_from
from memory_pipeline.domain.types import (
    Generation,
    Memory,
    MemoryId,
    TenantId,
    Token,
    document_id,
)
from memory_pipeline.errors import Fenced
from memory_pipeline.ports import RenewLease
from memory_pipeline.settings import Settings
from memory_pipeline.sync import comparison
from memory_pipeline.sync.comparison import find_differing, find_strays

ADA = TenantId("ada")
RECIPE = recipe_from(Settings())
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
TOKEN = Token(1)
LIVE = Generation(UUID(int=1), ADA, UUID(int=2), UUID(int=3), "m", "c")


def a_memory(number: int, text: str = "a memory") -> Memory:
    """Return a row of ada's."""
    return Memory(MemoryId(number), ADA, "ada", None, f'"{text}"', None, MOMENT, MOMENT, "7")


@dataclass
class Rows:
    """The memories of a tenant, in pages of two."""

    rows: list[Memory]

    def of_tenant(self, tenant: TenantId) -> Iterator[Memory]:
        """Iterate over them."""
        return (row for row in self.rows if row.tenant == tenant)

    def ids(self, tenant: TenantId) -> Iterator[list[MemoryId]]:
        """Iterate over their ids."""
        ids = [row.id for row in self.of_tenant(tenant)]
        return (ids[at : at + 2] for at in range(0, len(ids), 2))


@dataclass
class Held:
    """A collection by its content hashes."""

    documents: dict[str, str]

    def hashes(self, generation: Generation, *, renew: RenewLease) -> dict[str, str]:
        """Return them."""
        assert generation == LIVE
        renew()
        return dict(self.documents)


@dataclass
class Lease:
    """A lease that is lost after some renewals."""

    tenant: TenantId = ADA
    token: Token = TOKEN
    retries: int = 0
    lost_after: int = 100
    renewals: list[int] = field(default_factory=list)

    def renew(self) -> float:
        """Renew, or be fenced."""
        self.renewals.append(1)
        if len(self.renewals) > self.lost_after:
            raise Fenced("the lease is lost")
        return 1.0


def held(*memories: Memory) -> dict[str, str]:
    """Return the documents of these memories, as they should be."""
    return {document_id(m.id): compose(m, RECIPE).content_hash for m in memories}


def differing(
    rows: list[Memory], documents: dict[str, str], lease: Lease | None = None
) -> list[MemoryId]:
    """Compare by content."""
    return find_differing(Held(documents), Rows(rows), LIVE, RECIPE, lease=lease or Lease())


def strays(
    rows: list[Memory], documents: dict[str, str], lease: Lease | None = None
) -> list[MemoryId]:
    """Compare by id only."""
    return find_strays(Held(documents), Rows(rows), LIVE, lease=lease or Lease())


one, two, three = a_memory(1), a_memory(2), a_memory(3)


def test_an_equal_collection_differs_in_nothing() -> None:
    """By content hash, in whatever order."""
    assert differing([one, two, three], held(three, one, two)) == []
    assert differing([], {}) == []


def test_missing_stale_and_extra_documents_differ() -> None:
    """A recheck repairs each of them; the rows come first, then what has no row."""
    stale = held(a_memory(2, "another text"))
    assert differing([one, two], {**stale, **held(three)}) == [1, 2, 3]


def test_strays_are_documents_without_a_memory_alone() -> None:
    """Of a generation under construction, missing and stale documents come by themselves."""
    stale = held(a_memory(2, "another text"))
    assert strays([one, two], {**stale, **held(three)}) == [3]
    assert strays([one, two, three], {}) == []


def test_a_document_that_the_pipeline_did_not_write_is_left_alone() -> None:
    """It names no memory that could be rechecked."""
    assert differing([one], {**held(one), "notes.txt": "x", "memory_log_007": "y"}) == []
    assert strays([one], {"notes.txt": "x"}) == []


def test_a_large_tenant_renews_the_lease_and_stops_when_it_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A comparison may take longer than a lease: another worker may have the tenant by then."""
    monkeypatch.setattr(comparison, "MEMORIES_A_RENEWAL", 1)
    rows = [one, two, three]
    lease = Lease()
    assert differing(rows, held(*rows), lease) == []
    assert len(lease.renewals) == 1 + len(rows)
    with pytest.raises(Fenced):
        differing(rows, held(*rows), Lease(lost_after=2))
    with pytest.raises(Fenced):
        strays(rows, held(*rows), Lease(lost_after=2))
