"""Postgres and Chroma in one object: rows, changes, tenants, generations, collections."""

import math
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID, uuid4

import numpy as np

from memory_pipeline.domain.types import (
    BackedUpVector,
    Generation,
    GenerationState,
    Memory,
    MemoryId,
    MetadataValue,
    Provenance,
    ProvenanceUpdate,
    RebuildId,
    TenantId,
    Token,
    Vector,
)
from memory_pipeline.errors import Corrupt, Fenced
from memory_pipeline.ports import Lease
from memory_pipeline.settings import Settings

SAFETY_SECONDS = 0.5
HOUR_SECONDS = 3600.0
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
NEW_GENERATIONS_LIVE_SECONDS = 3600.0
Lands = Literal["never", "now", "late"]
PartState = Literal["waiting", "running", "done", "failed"]


@dataclass(frozen=True, slots=True)
class Fault:
    """The error that a step ends in, and whether the step takes effect all the same."""

    error: BaseException
    lands: Lands = "never"


class Step:
    """A step that is done now: it ends in its fault, or does not begin if the fault says so."""

    __slots__ = ("_fault",)

    def __init__(self, fault: Fault | None) -> None:
        if fault is not None and fault.lands == "never":
            raise fault.error
        self._fault = fault

    def __enter__(self) -> Fault | None:
        return self._fault

    def __exit__(self, kind: object, *_: object) -> None:
        if self._fault is not None and kind is None:
            raise self._fault.error


@dataclass(slots=True)
class FakeChange:
    """An outbox row."""

    seq: int
    tenant: TenantId
    memory_id: MemoryId | None
    not_before: float = 0.0
    claim_token: Token | None = None
    confirm: bool = False
    covered_by: UUID | None = None
    recheck: bool = False
    since: float = 0.0


@dataclass(slots=True)
class FakeTenant:
    """A row of the registry: pointers, lease, pause."""

    live: UUID | None = None
    building: UUID | None = None
    token: int = 0
    lease_until: float = 0.0
    retry_at: float = 0.0
    synced_at: float = -math.inf
    retries: int = 0
    last_error: str | None = None


@dataclass(slots=True)
class FakePart:
    """One tenant of one rebuild."""

    re_embed: bool
    state: PartState = "waiting"
    generation: UUID | None = None
    through: MemoryId | None = None
    owner: str | None = None
    owned_until: float = 0.0
    reused: int = 0
    embedded: int = 0
    error: str | None = None


@dataclass(slots=True)
class FakeFailure:
    """The attempts that failed for one memory; the causes under which its content was tried."""

    attempts: int
    last_error: str
    buried: bool = False
    content_hash: str | None = None
    cause: str = ""
    tried_under: tuple[str, ...] = ()
    waived: bool = False


@dataclass(slots=True)
class FakeErasure:
    """A tenant that is being forgotten."""

    fenced: bool = False
    settles_at: float = 0.0
    tried_at: float = 0.0
    waits_for: str = ""


@dataclass(slots=True)
class FakeDocument:
    """What a collection holds under one id."""

    vector: Vector
    text: str | None
    metadata: dict[str, MetadataValue]


@dataclass(slots=True)
class FakeCollection:
    """A collection on the one fake server."""

    id: UUID
    documents: dict[str, FakeDocument] = field(default_factory=dict)
    tenant: TenantId | None = None


class FakeWorld:
    """Postgres and Chroma in one object; its clock moves only when a test moves it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.now = 1.0
        self.server = self.uuid()
        self.rows: dict[MemoryId, Memory] = {}
        self.changes: dict[int, FakeChange] = {}
        self.truncations = 0
        self.registrations = 0
        self.tenants: dict[TenantId, FakeTenant] = {}
        self.generations: dict[UUID, Generation] = {}
        self.begun: dict[UUID, float] = {}
        self.ended: dict[UUID, float] = {}
        self.dropped: set[UUID] = set()
        self.erasures: dict[TenantId, FakeErasure] = {}
        self.erased: set[UUID] = set()  # generations of forgotten registrations, not dropped yet
        self.deleted: set[UUID] = set()  # those of them whose rows are gone
        self.parts: dict[tuple[RebuildId, TenantId], FakePart] = {}
        self.failures: dict[tuple[TenantId, MemoryId], FakeFailure] = {}
        self.provenance: dict[MemoryId, Provenance] = {}
        self.vectors: dict[MemoryId, BackedUpVector] = {}  # kept in a table of the pipeline's own
        self.refuses_backup: Callable[[MemoryId], bool] = lambda _: False
        self.collections: dict[str, FakeCollection] = {}
        self.in_flight: deque[Callable[[], None]] = deque()
        self.watch: Callable[[str], None] = lambda _: None
        self._faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self._numbers = 0

    # ---- what the test does

    def fail(
        self, step: str, error: BaseException, *, lands: Lands = "never", times: int = 1
    ) -> None:
        """Let the next calls of a step end in an error; ``late`` is for ``index.write`` alone."""
        self._faults[step].extend([Fault(error, lands)] * times)

    def send_late(self, land: Callable[[], None]) -> None:
        """Let a request arrive after its sender has received an error."""
        self.in_flight.append(land)

    def land(self) -> None:
        """Let the oldest request arrive that is still on its way to the index."""
        try:
            self.in_flight.popleft()()
        except Corrupt:
            return  # its collection is gone: nobody is left to hear of it

    def uuid(self) -> UUID:
        """Draw a new id."""
        return uuid4()

    def number(self) -> int:
        """Draw from the one sequence of ids, versions and change numbers."""
        self._numbers += 1
        return self._numbers

    # ---- what an application does

    def put(
        self,
        tenant: str,
        raw: str,
        *,
        memory_id: int | None = None,
        embedding: Vector | None = None,
    ) -> MemoryId:
        """Insert a memory, or change all of it: content, vector, tenant."""
        number = self.number()
        found = MemoryId(number if memory_id is None else memory_id)
        before = self.rows.get(found)
        row = Memory(
            id=found,
            tenant=TenantId(tenant),
            user_id=tenant,
            project_id=None,
            raw=raw,
            embedding=embedding,
            created_at=before.created_at if before else BEGINNING,
            updated_at=BEGINNING,
            version=str(number),
        )
        self.store(found, row)
        return found

    def delete(self, memory_id: MemoryId) -> None:
        """Delete a memory."""
        self.store(memory_id, None)

    def store(self, memory_id: MemoryId, row: Memory | None) -> None:
        """Insert, change or delete a row, and capture it."""
        before = self.rows.pop(memory_id, None)
        if row is not None:
            self.rows[memory_id] = row
        self.capture(memory_id, before, row)

    def capture(self, memory_id: MemoryId, before: Memory | None, after: Memory | None) -> None:
        """Append a change for each tenant concerned, as the trigger does."""
        was = None if before is None else before.tenant
        now_is = None if after is None else after.tenant
        if before is not None and after is not None and was == now_is:
            if not _differs(before, after):
                return
            was = None
        if was is not None:
            self.enqueue(was, memory_id)
        if now_is is not None:
            self.enqueue(now_is, memory_id)

    def truncate(self) -> None:
        """Delete everything of everyone; ids stay free for others."""
        self.rows.clear()
        self.truncations += 1

    # ---- what the ports share

    def step(self, name: str) -> Step:
        """Let others act, then do the step unless a scripted error prevents it."""
        self.watch(name)
        return Step(self._faults[name].popleft() if self._faults[name] else None)

    def enqueue(
        self, tenant: TenantId, memory_id: MemoryId | None, *, recheck: bool = False
    ) -> None:
        """Append a change, as the trigger does."""
        seq = self.number()
        self.changes[seq] = FakeChange(seq, tenant, memory_id, recheck=recheck, since=self.now)

    def claimable(self, tenant: TenantId) -> list[FakeChange]:
        """Return the changes that are due and that no rebuild under way covers."""
        building = self.tenant(tenant).building
        return [
            c
            for c in self.changes.values()
            if c.tenant == tenant
            and c.not_before <= self.now
            and (c.covered_by is None or c.covered_by != building)
        ]

    def in_hand(self, change: FakeChange) -> bool:
        """Whether a lease that is still held has claimed the change."""
        tenant = self.tenant(change.tenant)
        return change.claim_token == tenant.token and tenant.lease_until > self.now

    def end(self, generation: UUID, state: GenerationState) -> None:
        """Record that a generation has ended, or is not whole any more."""
        self.generations[generation] = replace(self.generations[generation], state=state)
        self.ended[generation] = self.now

    def note_provenance(self, updates: Mapping[MemoryId, ProvenanceUpdate]) -> None:
        """Record the provenance of vectors, unless it was changed since their rows were read."""
        for memory_id, update in updates.items():
            if self.provenance.get(memory_id) == update.expected:
                self.provenance[memory_id] = update.new

    def forget_failures_of_gone(self, tenant: TenantId) -> None:
        """Forget the failures of memories that a tenant has no more."""
        for whose, memory_id in list(self.failures):
            row = self.rows.get(memory_id)
            if whose == tenant and (row is None or row.tenant != tenant):
                del self.failures[whose, memory_id]

    def register(self, tenant: TenantId) -> None:
        """Register a tenant; its tokens are above those of its registrations before."""
        self.registrations += 1
        self.tenants[tenant] = FakeTenant(token=self.registrations << 32)

    def tenant(self, tenant: TenantId) -> FakeTenant:
        """Return a registered tenant, or one that cannot be leased."""
        return self.tenants.get(tenant) or FakeTenant(token=-1)

    def holds(self, lease: Lease) -> bool:
        """Whether this lease is still held."""
        tenant = self.tenant(lease.tenant)
        return tenant.token == lease.token and tenant.lease_until > self.now

    def fence(self, lease: Lease) -> None:
        """Raise Fenced unless the lease is still held."""
        if not self.holds(lease):
            raise Fenced(f"the lease with token {lease.token} is no longer ours")


def _differs(before: Memory, after: Memory) -> bool:
    """Whether anything that a document depends on has changed, for one tenant."""
    one, other = before.embedding, after.embedding
    same_vector = one is other or (
        one is not None and other is not None and np.array_equal(one, other)
    )
    return not same_vector or (before.raw, before.project_id, before.created_at) != (
        after.raw,
        after.project_id,
        after.created_at,
    )
