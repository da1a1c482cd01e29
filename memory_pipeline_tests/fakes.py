"""The world in memory: rows, outbox, leases on a clock of its own, collections. For simulations.

Small and honest: it keeps the guards of the real thing (tokens, leases, versions, due times) and
nothing else. The contract tests say the same sentences to it and to the real thing.

Every method of a port is a step with a name such as ``outbox.claim``. A test may script what goes
wrong at a step (``fail``), and may let others act before it (``watch``).
"""

import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, Protocol
from uuid import UUID, uuid4

import numpy as np

from memory_pipeline.chroma.client import CONTROL_ID
from memory_pipeline.chroma.reachability import NEIGHBOURS, SAME_DISTANCE
from memory_pipeline.domain.changes import Change, Claim, ExpectedDifferences
from memory_pipeline.domain.dead_letters import Cause, DeadLetterFilter
from memory_pipeline.domain.outcomes import Failure
from memory_pipeline.domain.types import (
    DIMENSION,
    Checkpoint,
    Document,
    Generation,
    GenerationState,
    Match,
    Memory,
    MemoryId,
    Provenance,
    ProvenanceUpdate,
    RebuildId,
    RebuildPart,
    Scalar,
    Stored,
    TenantId,
    Token,
    Vector,
    document_id,
    memory_id_of,
)
from memory_pipeline.errors import ChromaUnavailable, Corrupt, Fenced, Poison, ServerLost
from memory_pipeline.ports import Index, Lease, RenewLease
from memory_pipeline.postgres import memories as postgres_memories
from memory_pipeline.postgres.outbox import MISSED_PAUSE_SECONDS
from memory_pipeline.postgres.registry import AUTOMATIC_REBUILDS_AN_HOUR, RECENT_SECONDS
from memory_pipeline.search.conditions import RANGES, kind_of
from memory_pipeline.settings import Settings

SAFETY_SECONDS = 0.5
HOUR_SECONDS = 3600.0
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
NEW_GENERATIONS_LIVE_SECONDS = 3600.0

Lands = Literal["never", "now", "late"]
PartState = Literal["waiting", "running", "done", "failed"]


class QueryableIndex(Index, Protocol):
    """An index that can be searched, too."""

    def query(
        self,
        generation: Generation,
        vector: Vector,
        *,
        limit: int,
        where: Mapping[str, Any] | None,
        seconds: float,
    ) -> list[Match]:
        """Return the nearest documents, nearest first."""
        ...


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong at a step, and whether the step takes effect all the same."""

    error: BaseException
    lands: Lands = "never"


class Step:
    """A step that is done now: it ends in its fault, or does not begin where that says so."""

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
class FakeDocument:
    """What a collection holds under one id."""

    vector: Vector
    text: str | None
    metadata: dict[str, Scalar]


@dataclass(slots=True)
class FakeCollection:
    """A collection on the one fake server."""

    id: UUID
    documents: dict[str, FakeDocument] = field(default_factory=dict)


class FakeWorld:
    """Postgres and Chroma in one object; its clock moves only when a test moves it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.now = 1.0
        self.server = self.uuid()
        self.rows: dict[MemoryId, Memory] = {}
        self.changes: dict[int, FakeChange] = {}
        self.truncations = 0
        self.tenants: dict[TenantId, FakeTenant] = {}
        self.generations: dict[UUID, Generation] = {}
        self.begun: dict[UUID, float] = {}
        self.ended: dict[UUID, float] = {}
        self.dropped: set[UUID] = set()
        self.parts: dict[tuple[RebuildId, TenantId], FakePart] = {}
        self.failures: dict[tuple[TenantId, MemoryId], FakeFailure] = {}
        self.provenance: dict[MemoryId, Provenance] = {}
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
        """Have a request arrive only after its sender was told that it failed."""
        self.in_flight.append(land)

    def land(self) -> None:
        """Let the oldest request arrive that is still on its way to the index."""
        try:
            self.in_flight.popleft()()
        except Corrupt:
            return  # its collection is gone: nobody is left to hear of it

    def uuid(self) -> UUID:
        """Draw an id that nobody has."""
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
        """Let others act, then do the step unless a scripted error says otherwise."""
        self.watch(name)
        return Step(self._faults[name].popleft() if self._faults[name] else None)

    def enqueue(
        self, tenant: TenantId, memory_id: MemoryId | None, *, recheck: bool = False
    ) -> None:
        """Append a change, as the trigger does."""
        seq = self.number()
        self.changes[seq] = FakeChange(seq, tenant, memory_id, recheck=recheck)

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
        """Say whether a lease that stands has claimed it."""
        tenant = self.tenant(change.tenant)
        return change.claim_token == tenant.token and tenant.lease_until > self.now

    def end(self, generation: UUID, state: GenerationState) -> None:
        """Note that a generation is used no more, or not as one that is whole."""
        self.generations[generation] = replace(self.generations[generation], state=state)
        self.ended[generation] = self.now

    def note_provenance(self, updates: Mapping[MemoryId, ProvenanceUpdate]) -> None:
        """Note where vectors come from, where nobody has since their rows were read."""
        for memory_id, update in updates.items():
            if self.provenance.get(memory_id) == update.before:
                self.provenance[memory_id] = update.now

    def forget_failures_of_gone(self, tenant: TenantId) -> None:
        """Forget the failures of memories that a tenant has no more."""
        for whose, memory_id in list(self.failures):
            row = self.rows.get(memory_id)
            if whose == tenant and (row is None or row.tenant != tenant):
                del self.failures[whose, memory_id]

    def tenant(self, tenant: TenantId) -> FakeTenant:
        """Return a registered tenant, or one that nobody can lease."""
        return self.tenants.get(tenant) or FakeTenant(token=-1)

    def holds(self, lease: Lease) -> bool:
        """Say whether this lease still stands."""
        tenant = self.tenant(lease.tenant)
        return tenant.token == lease.token and tenant.lease_until > self.now

    def fence(self, lease: Lease) -> None:
        """Raise Fenced unless the lease still stands."""
        if not self.holds(lease):
            raise Fenced(f"the lease with token {lease.token} is no longer ours")


@dataclass(frozen=True, slots=True)
class FakeLease:
    """A lease as its holder sees it."""

    world: FakeWorld
    tenant: TenantId
    token: Token
    retries: int = 0

    def renew(self) -> float:
        """Renew; return the seconds that the next call may take. Raises Fenced."""
        with self.world.step("lease.renew"):
            self.world.fence(self)
            settings = self.world.settings
            self.world.tenant(self.tenant).lease_until = self.world.now + settings.lease_seconds
        return min(settings.request_seconds, settings.lease_seconds - SAFETY_SECONDS)


class FakeOutbox:
    """The outbox and the leases."""

    def __init__(self, world: FakeWorld) -> None:
        self.world = world

    def pending_tenants(self, *, paused: bool = False) -> list[TenantId]:
        """Tell who has changes to claim, oldest first; TRUNCATEs are fanned out on the way."""
        world = self.world
        with world.step("outbox.pending_tenants"):
            if world.truncations:
                world.truncations = 0
                for tenant in world.tenants:
                    world.enqueue(tenant, None)
            oldest = {
                tenant: claimable[0].seq
                for tenant in {c.tenant for c in world.changes.values()}
                if (claimable := [c for c in world.claimable(tenant) if not world.in_hand(c)])
            }
            return [
                tenant
                for tenant in sorted(oldest, key=lambda t: oldest[t])
                if paused or world.tenant(tenant).retry_at <= world.now
            ]

    def pending(self, tenant: TenantId) -> int:
        """Count the tenant's changes, due or not."""
        with self.world.step("outbox.pending"):
            return sum(c.tenant == tenant for c in self.world.changes.values())

    def expected_differences(
        self, tenant: TenantId, memory_ids: Sequence[MemoryId]
    ) -> ExpectedDifferences:
        """Tell for which of these memories a document may differ, and why."""
        world = self.world
        with world.step("outbox.expected_differences"):
            building = world.tenant(tenant).building
            waiting = {
                c.memory_id
                for c in world.changes.values()
                if c.tenant == tenant
                and (c.claim_token or c.covered_by is None or c.covered_by != building)
            }
            buried = {i for (t, i), f in world.failures.items() if t == tenant and f.buried}
            return ExpectedDifferences(
                frozenset(i for i in waiting if i is not None).intersection(memory_ids),
                frozenset(buried).intersection(memory_ids),
                None in waiting or bool(world.truncations),
            )

    def acquire_lease(self, tenant: TenantId) -> FakeLease | None:
        """Take the tenant's lease with a new token; None while another worker holds it."""
        world = self.world
        with world.step("outbox.acquire_lease"):
            known = world.tenants.get(tenant)
            if known is None or known.lease_until > world.now:
                return None
            known.token += 1
            known.lease_until = world.now + world.settings.lease_seconds
            return FakeLease(world, tenant, Token(known.token), known.retries)

    def claim(self, lease: Lease) -> Claim:
        """Claim the oldest due changes; schedule confirms for those that were claimed before."""
        world = self.world
        with world.step("outbox.claim"):
            world.fence(lease)
            due = world.claimable(lease.tenant)[: world.settings.batch_size]
            recheck = {c.memory_id for c in due if c.claim_token and c.memory_id is not None}
            for change in due:
                change.claim_token = lease.token
            for memory_id in sorted(recheck):
                self._confirm(lease.tenant, memory_id)
            tenant = world.tenant(lease.tenant)
            pointed = [world.generations[g] for g in (tenant.live, tenant.building) if g]
            return Claim(
                tuple(Change(c.seq, c.memory_id, recheck=c.recheck) for c in due),
                tuple(g for g in pointed if g.id == tenant.building or g.state == "live"),
                full=len(due) == world.settings.batch_size,
            )

    def ack(
        self,
        lease: Lease,
        claim: Claim,
        *,
        landed: dict[MemoryId, ProvenanceUpdate | None],
        failures: Sequence[Failure],
        missed: Sequence[MemoryId],
        recheck: Sequence[MemoryId],
    ) -> int:
        """Forget what landed, charge what failed, let go what was missed, enqueue ``again``."""
        world = self.world
        with world.step("outbox.ack"):
            world.fence(lease)
            once = {f.memory_id: f for f in failures}  # and not once a target
            cause = _cause(claim.targets) if failures else ""
            buried = {i for i, f in once.items() if self._charge(lease.tenant, f, cause)}
            for memory_id in sorted(set(recheck)):
                world.enqueue(lease.tenant, memory_id, recheck=True)
            for change in self._claimed(lease, claim):
                if change.memory_id is None or change.memory_id in {*landed, *buried}:
                    del world.changes[change.seq]
            retried = {f.memory_id for f in failures} - buried
            self._give_back(lease, claim, set(missed), MISSED_PAUSE_SECONDS)
            self._give_back(lease, claim, retried, world.settings.retry_seconds)
            for memory_id, update in landed.items():
                world.failures.pop((lease.tenant, memory_id), None)
                if update is not None:
                    world.note_provenance({memory_id: update})
                elif memory_id not in world.rows:
                    world.provenance.pop(memory_id, None)
            if claim.resets:
                world.forget_failures_of_gone(lease.tenant)
            return len(buried)

    def newest_seq(self, tenant: TenantId) -> int:
        """Return the number of the tenant's newest change; 0 where it has none."""
        with self.world.step("outbox.newest_seq"):
            mine = [c.seq for c in self.world.changes.values() if c.tenant == tenant]
            return max(mine, default=0)

    def has_due_changes(self, tenant: TenantId) -> bool:
        """Whether the tenant has a change that could be claimed now."""
        with self.world.step("outbox.has_due_changes"):
            return tenant in self.world.tenants and bool(self.world.claimable(tenant))

    def enqueue(self, tenant: TenantId, memory_ids: Sequence[MemoryId]) -> None:
        """Have memories looked at again, as if they had changed."""
        with self.world.step("outbox.enqueue"):
            for memory_id in sorted(set(memory_ids)):
                self.world.enqueue(tenant, memory_id, recheck=True)

    def unclaim(self, lease: Lease, claim: Claim) -> None:
        """Give changes back for which nothing was sent."""
        with self.world.step("outbox.unclaim"):
            self._give_back(lease, claim, {c.memory_id for c in claim.changes}, 0.0)

    def release_lease(self, lease: Lease, *, error: str | None = None) -> None:
        """Give the lease back; with an error, not before a pause that grows. Harmless when lost."""
        world = self.world
        with world.step("outbox.release_lease"):
            tenant = world.tenant(lease.tenant)
            if tenant.token != lease.token:
                return
            tenant.lease_until, tenant.last_error = 0.0, error
            if error is None:
                tenant.retry_at, tenant.retries = 0.0, 0
                tenant.synced_at = world.now
            else:
                pause_seconds = world.settings.retry_seconds * 2.0 ** min(tenant.retries, 16)
                tenant.retry_at = world.now + min(world.settings.retry_max_seconds, pause_seconds)
                tenant.retries += 1

    def _confirm(self, tenant: TenantId, memory_id: MemoryId) -> None:
        world = self.world
        known = [
            c
            for c in world.changes.values()
            if c.confirm and (c.tenant, c.memory_id) == (tenant, memory_id)
        ]
        seq = known[0].seq if known else world.number()
        wait_seconds = world.settings.request_seconds + world.settings.grace_seconds
        world.changes[seq] = FakeChange(
            seq, tenant, memory_id, not_before=world.now + wait_seconds, confirm=True
        )

    def _charge(self, tenant: TenantId, failure: Failure, cause: str) -> bool:
        key = (tenant, failure.memory_id)
        known = self.world.failures.get(key) or FakeFailure(0, failure.reason)
        same = known.content_hash == failure.content_hash
        tried = known.tried_under if same else ()
        attempts = known.attempts + 1
        buried = attempts >= self.world.settings.max_attempts
        self.world.failures[key] = FakeFailure(
            attempts,
            failure.reason,
            buried,
            failure.content_hash,
            cause,
            tried if cause in tried else (*tried, cause),
            waived=known.waived and same,
        )
        return buried

    def _claimed(self, lease: Lease, claim: Claim) -> list[FakeChange]:
        changes = [self.world.changes.get(c.seq) for c in claim.changes]
        return [c for c in changes if c is not None and c.claim_token == lease.token]

    def _give_back(
        self,
        lease: Lease,
        claim: Claim,
        ids: set[MemoryId] | set[MemoryId | None],
        pause_seconds: float,
    ) -> None:
        for change in self._claimed(lease, claim):
            if change.memory_id in ids:
                change.claim_token = None
                change.not_before = self.world.now + pause_seconds if pause_seconds else 0.0


def _cause(targets: Sequence[Generation]) -> str:
    first = [(g.model, g.config_hash) for g in targets[:1]] or [("", "")]
    return Cause.of_now(*first[0]).word


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


class FakeMemories:
    """The rows, read by id, and their embedding backup."""

    def __init__(self, world: FakeWorld) -> None:
        self.world = world

    def read(
        self, ids: Sequence[MemoryId], *, vectors: bool = True
    ) -> tuple[dict[MemoryId, Memory], tuple[MemoryId, ...]]:
        """Return the rows that exist, and the ids left out because the batch is full."""
        with self.world.step("memories.read"):
            fit: dict[MemoryId, Memory] = {}
            left_out: list[MemoryId] = []
            size = 0
            for memory_id in sorted(set(ids) & set(self.world.rows)):
                size += len(self.world.rows[memory_id].raw)
                if fit and size > self.world.settings.batch_bytes:
                    left_out.append(memory_id)
                else:
                    fit[memory_id] = self._row(memory_id, vectors=vectors)
            return fit, tuple(left_out)

    def versions(self, ids: Sequence[MemoryId]) -> dict[MemoryId, tuple[TenantId | None, str]]:
        """Return whose each of these rows is now, and its version; nothing of those that went."""
        with self.world.step("memories.versions"):
            rows = self.world.rows
            return {i: (rows[i].tenant, rows[i].version) for i in ids if i in rows}

    def ids(self, tenant: TenantId, *, after: MemoryId | None = None) -> Iterator[list[MemoryId]]:
        """Walk through the ids of a tenant's memories, in order, a page at a time."""
        most = postgres_memories.PAGE
        while True:
            with self.world.step("memories.ids"):
                mine = sorted(i for i, row in self.world.rows.items() if row.tenant == tenant)
                page = [i for i in mine if after is None or i > after][:most]
            if page:
                yield page
            if len(page) < most:
                return
            after = page[-1]

    def get(
        self, tenant: TenantId, ids: Sequence[MemoryId], *, vectors: bool = False
    ) -> dict[MemoryId, Memory]:
        """Return those of these memories that exist and are the tenant's, however large."""
        with self.world.step("memories.get"):
            rows = self.world.rows
            mine = sorted(i for i in set(ids) & set(rows) if rows[i].tenant == tenant)
            return {i: self._row(i, vectors=vectors) for i in mine}

    def of_tenant(self, tenant: TenantId) -> Iterator[Memory]:
        """Walk through a tenant's memories in id order, without their vectors."""
        for page in self.ids(tenant):
            yield from self.get(tenant, page).values()

    def count(self, tenant: TenantId) -> int:
        """Count a tenant's memories."""
        with self.world.step("memories.count"):
            return sum(row.tenant == tenant for row in self.world.rows.values())

    def back_up(
        self, vectors: dict[MemoryId, tuple[Memory, Vector, Provenance]]
    ) -> frozenset[MemoryId]:
        """Store vectors where the row is still the one that was read; return those that are."""
        world = self.world
        with world.step("memories.back_up"):
            if world.settings.backup == "off":
                world.note_provenance(postgres_memories.of_another_text(vectors))
                return frozenset(vectors)
            done: set[MemoryId] = set()
            for memory_id, (read, vector, provenance) in vectors.items():
                row = world.rows.get(memory_id)
                if row is not None and row.version == read.version:
                    version = str(world.number())
                    world.rows[memory_id] = replace(row, embedding=vector, version=version)
                    world.provenance[memory_id] = provenance
                    done.add(memory_id)
            return frozenset(done)

    def _row(self, memory_id: MemoryId, *, vectors: bool) -> Memory:
        row = replace(self.world.rows[memory_id], provenance=self.world.provenance.get(memory_id))
        return row if vectors else replace(row, embedding=None)


class FakeRegistry:
    """Tenants and the generations that they search."""

    def __init__(self, world: FakeWorld) -> None:
        self.world = world

    def register(self, tenant: TenantId) -> str:
        """Register a tenant unless it is; return its partition key."""
        with self.world.step("registry.register"):
            self.world.tenants.setdefault(tenant, FakeTenant())
            return str(tenant)

    def live(self, tenant: TenantId) -> Generation | None:
        """Return the generation that searches of this tenant go to now."""
        with self.world.step("registry.live"):
            live = self.world.tenant(tenant).live
            return None if live is None else self.world.generations[live]

    def building(self, tenant: TenantId) -> Generation | None:
        """Return the generation that a rebuild of this tenant fills now."""
        with self.world.step("registry.building"):
            building = self.world.tenant(tenant).building
            return None if building is None else self.world.generations[building]

    def serves_others(self, server: UUID, tenant: TenantId) -> bool:
        """Whether other tenants of this server were synced of late."""
        with self.world.step("registry.serves_others"):
            return any(
                self.world.generations[f.live].server == server
                and t != tenant
                and f.synced_at > self.world.now - RECENT_SECONDS
                for t, f in self.world.tenants.items()
                if f.live is not None
            )

    def is_being_filled(self, generation: UUID) -> bool:
        """Whether a rebuild under way fills this generation."""
        with self.world.step("registry.is_being_filled"):
            return any(
                part.generation == generation
                and part.state == "running"
                and part.owned_until > self.world.now
                for part in self.world.parts.values()
            )

    def begin_generation(
        self, tenant: TenantId, server: UUID, *, model: str, config_hash: str, memories: int
    ) -> Generation:
        """Note a new generation before its collection exists."""
        del memories  # decides where the next real generation is placed
        with self.world.step("registry.begin_generation"):
            generation = Generation(
                self.world.uuid(), tenant, server, None, model, config_hash, "new"
            )
            self.world.generations[generation.id] = generation
            self.world.begun[generation.id] = self.world.now
            return generation

    def go_live(self, lease: Lease, generation: Generation) -> None:
        """Make a tenant's first generation live; enqueue the reset that fills it. Raises Fenced."""
        with self.world.step("registry.go_live"):
            self.world.fence(lease)
            tenant = self.world.tenant(lease.tenant)
            if tenant.live is not None or tenant.building is not None:
                raise Fenced("the tenant has a generation by now")
            if self.world.generations[generation.id].state != "new":
                raise Fenced("its server was given up")
            tenant.live = generation.id
            self.world.generations[generation.id] = replace(generation, state="live")
            self.world.enqueue(lease.tenant, None)

    def abandon(self, lease: Lease, generation: UUID) -> None:
        """Mark a damaged generation; give it up if it was building. Raises Fenced."""
        with self.world.step("registry.abandon"):
            self.world.fence(lease)
            tenant = self.world.tenant(lease.tenant)
            if tenant.building == generation:
                tenant.building = None
                if tenant.live is None:  # what was acked stood in it alone
                    self.world.enqueue(lease.tenant, None)
            live = self.world.generations[generation].state == "live"
            self.world.end(generation, "corrupt" if live else "abandoned")

    def damaged(self) -> dict[TenantId, str]:
        """Return the tenants whose collections wait for a rebuild that nobody does, with keys."""
        with self.world.step("registry.damaged"):
            return {t: str(t) for t in self.world.tenants if self._waits(t)}

    def retire_server(self, server: UUID) -> None:
        """Give up a server whose data is gone: every generation on it is lost."""
        with self.world.step("registry.retire_server"):
            lost = {g.id for g in self.world.generations.values() if g.server == server}
            for generation in lost:
                self.world.end(generation, "lost")
            for name, tenant in self.world.tenants.items():
                if tenant.building in lost:
                    tenant.building = None
                    if tenant.live is None:
                        self.world.enqueue(name, None)

    def droppable(self, *, grace_seconds: float, limit: int) -> list[Generation]:
        """Return ended generations whose collections nobody can be using any more."""
        world = self.world
        with world.step("registry.droppable"):
            pointed = {g for t in world.tenants.values() for g in (t.live, t.building)}
            over = [
                g
                for g in world.generations.values()
                if g.id not in world.dropped
                and g.id not in pointed
                and self._is_over(g, grace_seconds)
            ]
            return sorted(over, key=lambda g: world.ended.get(g.id, math.inf))[:limit]

    def dropped(self, generation: UUID) -> None:
        """Note that a generation's collection is gone."""
        with self.world.step("registry.dropped"):
            self.world.dropped.add(generation)

    def _is_over(self, generation: Generation, grace_seconds: float) -> bool:
        world = self.world
        ended = world.ended.get(generation.id)
        if ended is not None:
            return ended <= world.now - grace_seconds
        began = world.begun.get(generation.id, world.now)
        return generation.state == "new" and began <= world.now - NEW_GENERATIONS_LIVE_SECONDS

    def _waits(self, tenant: TenantId) -> bool:
        world = self.world
        live, building = world.tenants[tenant].live, world.tenants[tenant].building
        if building is None if live is None else world.generations[live].state == "live":
            return False
        under_way = any(
            whose == tenant and part.state == "running" and part.owned_until > world.now
            for (_, whose), part in world.parts.items()
        )
        lately = [
            g
            for g, when in world.ended.items()
            if world.generations[g].tenant == tenant
            and world.generations[g].state == "corrupt"
            and when > world.now - HOUR_SECONDS
        ]
        return not under_way and len(lately) <= AUTOMATIC_REBUILDS_AN_HOUR


class FakeRebuilds:
    """The parts of rebuilds, one a tenant, each with one owner who has to go on saying so."""

    def __init__(self, world: FakeWorld) -> None:
        self.world = world

    @property
    def redo_seconds(self) -> float:
        """How long a chunk waits that may have been written, before it is written again."""
        settings = self.world.settings
        return max(settings.lease_seconds, settings.request_seconds + settings.grace_seconds)

    def request(self, rebuild: RebuildId, tenants: Sequence[TenantId], *, re_embed: bool) -> None:
        """Note which tenants a rebuild is for; those it has already stay as they are."""
        with self.world.step("rebuilds.request"):
            for tenant in tenants:
                self.world.parts.setdefault((rebuild, tenant), FakePart(re_embed))

    def acquire_part(self, rebuild: RebuildId, tenant: TenantId) -> RebuildPart | None:
        """Become the owner of a tenant's part; None where it is done or somebody else's."""
        world = self.world
        with world.step("rebuilds.acquire_part"):
            part = world.parts.get((rebuild, tenant))
            others = [
                p for (i, whose), p in world.parts.items() if whose == tenant and i != rebuild
            ]
            for dead in others:
                if dead.state == "running" and dead.owned_until <= world.now:
                    dead.state, dead.error = "failed", "its process ended"
            if part is None or part.state == "done":
                return None
            if part.state == "running" and part.owned_until > world.now:
                return None
            if any(p.state == "running" for p in others):
                return None
            part.state, part.owner, part.error = "running", world.uuid().hex, None
            part.owned_until = world.now + self.redo_seconds
            return RebuildPart(rebuild, tenant, part.owner, part.re_embed)

    def part_state(self, rebuild: RebuildId, tenant: TenantId) -> str | None:
        """Tell how far a rebuild is with a tenant: waiting, running, done or failed."""
        with self.world.step("rebuilds.part_state"):
            part = self.world.parts.get((rebuild, tenant))
            return None if part is None else part.state

    def renew_part(self, part: RebuildPart) -> None:
        """Go on being the owner. Raises Fenced where somebody else is by now."""
        with self.world.step("rebuilds.renew_part"):
            self._mine(part).owned_until = self.world.now + self.redo_seconds

    def checkpoint(self, generation: Generation) -> Checkpoint:
        """Tell how far a building generation was filled."""
        with self.world.step("rebuilds.checkpoint"):
            filled = [
                part
                for (_, tenant), part in self.world.parts.items()
                if tenant == generation.tenant and part.generation == generation.id
            ]
            if not filled:
                return Checkpoint()
            through = [part.through for part in filled if part.through is not None]
            anew = all(part.re_embed for part in filled)
            return Checkpoint(max(through, default=None), anew)

    def resume_part(
        self, part: RebuildPart, generation: Generation, checkpoint: Checkpoint
    ) -> None:
        """Go on with a generation from where it was left. Raises Fenced."""
        with self.world.step("rebuilds.resume_part"):
            row = self._mine(part)
            row.generation, row.through = generation.id, checkpoint.through

    def register_building(self, part: RebuildPart, lease: Lease, generation: Generation) -> None:
        """Make a generation the tenant's building one. Raises Fenced."""
        world = self.world
        with world.step("rebuilds.register_building"):
            world.fence(lease)
            row = self._mine(part)
            tenant = world.tenant(part.tenant)
            if tenant.building is not None:
                raise Fenced("another generation is building")
            if world.generations[generation.id].state != "new":
                raise Fenced("its server was given up")
            tenant.building = generation.id
            world.generations[generation.id] = replace(generation, state="building")
            row.generation, row.through = generation.id, None
            if tenant.live is not None and world.generations[tenant.live].state == "live":
                return
            for change in world.changes.values():
                if change.tenant == part.tenant and not (change.claim_token or change.confirm):
                    change.covered_by = generation.id

    def may_fill(self, part: RebuildPart, lease: Lease, generation: Generation) -> bool:
        """Whether this generation is still the one to fill, by this owner, under this lease."""
        with self.world.step("rebuilds.may_fill"):
            return self._fills(part, lease, generation)

    def record_chunk(
        self,
        part: RebuildPart,
        lease: Lease,
        generation: Generation,
        *,
        through: MemoryId,
        provenance: Mapping[MemoryId, ProvenanceUpdate],
        recheck: Sequence[MemoryId],
        landed: Sequence[MemoryId],
        embedded: int,
    ) -> None:
        """Record a chunk as done, enqueue ``again``, give the lease back. Raises Fenced."""
        world = self.world
        with world.step("rebuilds.record_chunk"):
            row = self._filled(part, lease, generation)
            for memory_id in sorted(set(recheck)):
                world.enqueue(part.tenant, memory_id)
            world.note_provenance(provenance)
            world.tenant(part.tenant).lease_until = 0.0
            row.through = through
            row.reused += len(landed) - embedded
            row.embedded += embedded
            for key in [(part.tenant, i) for i in landed if (part.tenant, i) in world.failures]:
                failure = world.failures[key]
                failure.attempts *= not failure.buried
                failure.buried = False
                world.enqueue(*key, recheck=True)
            row.owned_until = world.now + self.redo_seconds

    def flip(
        self, part: RebuildPart, lease: Lease, generation: Generation, *, memories: int
    ) -> None:
        """Let searches go to the building generation; retire the old one. Raises Fenced."""
        del memories  # decides where the next real generation is placed
        world = self.world
        with world.step("rebuilds.flip"):
            row = self._filled(part, lease, generation)
            tenant = world.tenant(part.tenant)
            if tenant.live is not None:
                state = world.generations[tenant.live].state
                world.end(tenant.live, "retired" if state == "live" else state)
            tenant.live, tenant.building = generation.id, None
            tenant.lease_until, tenant.last_error = 0.0, None
            tenant.retry_at, tenant.retries = 0.0, 0
            found = world.generations[generation.id]
            world.generations[generation.id] = replace(found, state="live")
            for change in list(world.changes.values()):
                if change.covered_by == generation.id and change.claim_token is None:
                    del world.changes[change.seq]
            row.state = "done"
            world.forget_failures_of_gone(part.tenant)

    def return_lease(self, lease: Lease) -> None:
        """Give a lease back under which no sync took place. Harmless when it is lost."""
        with self.world.step("rebuilds.return_lease"):
            tenant = self.world.tenant(lease.tenant)
            if tenant.token == lease.token:
                tenant.lease_until = 0.0

    def release_part(self, part: RebuildPart) -> None:
        """Leave a part to whoever goes on with the rebuild; nothing where somebody else has it."""
        with self.world.step("rebuilds.release_part"):
            row = self._part(part)
            if row is not None:
                row.state, row.owner, row.owned_until = "waiting", None, 0.0

    def fail_part(self, part: RebuildPart, error: str) -> None:
        """Close a part that did not end well; nothing where somebody else has it."""
        with self.world.step("rebuilds.fail_part"):
            row = self._part(part)
            if row is not None:
                row.state, row.error = "failed", error

    def _part(self, part: RebuildPart) -> FakePart | None:
        row = self.world.parts[part.rebuild, part.tenant]
        return row if (row.owner, row.state) == (part.owner, "running") else None

    def _mine(self, part: RebuildPart) -> FakePart:
        row = self._part(part)
        if row is None:
            raise Fenced("this part of the rebuild is no longer ours")
        return row

    def _fills(self, part: RebuildPart, lease: Lease, generation: Generation) -> bool:
        return (
            self.world.holds(lease)
            and self.world.tenant(part.tenant).building == generation.id
            and self._part(part) is not None
        )

    def _filled(self, part: RebuildPart, lease: Lease, generation: Generation) -> FakePart:
        if not self._fills(part, lease, generation):
            raise Fenced("the lease, or this part of the rebuild, is no longer ours")
        return self._mine(part)


class FakeIndex:
    """Collections of documents on one server; every document is always reachable."""

    def __init__(self, world: FakeWorld) -> None:
        self.world = world

    def check_identity(self, server: UUID) -> None:
        """Check that a server is who it is. Raises ServerLost."""
        with self.world.step("index.check_identity"):
            if server != self.world.server:
                raise ServerLost(f"no server {server} answers here")

    def takes_writes(self, server: UUID) -> bool:
        """Whether a server that is who it should be takes a write now."""
        try:
            with self.world.step("index.takes_writes"):
                return server == self.world.server
        except ChromaUnavailable:
            return False

    def choose_server(self) -> UUID:
        """Choose the server of a new generation."""
        with self.world.step("index.choose_server"):
            return self.world.server

    def create(self, generation: Generation, *, memories: int, renew: RenewLease) -> Generation:
        """Create the generation's collection; return it with the collection's id."""
        del memories  # decides how a real collection is tuned
        renew()
        with self.world.step("index.create"):
            self._server(generation)
            if generation.collection in self.world.collections:
                raise ChromaUnavailable(f"collection {generation.collection} already exists")
            collection = FakeCollection(self.world.uuid())
            self.world.collections[generation.collection] = collection
            return replace(generation, collection_id=collection.id)

    def prime(self, generation: Generation, *, renew: RenewLease) -> None:
        """Prepare a collection for the first write after a lease was taken."""
        renew()
        with self.world.step("index.prime"):
            self._collection(generation)

    def write(
        self,
        generation: Generation,
        documents: Sequence[Document],
        deletes: Sequence[MemoryId],
        *,
        renew: RenewLease,
        fresh: bool = False,
    ) -> None:
        """Bring the documents and deletes into the collection; a fresh one displaces nothing."""
        if not documents and not deletes:
            return
        renew()

        def land() -> None:
            self._apply(generation, documents, deletes, fresh=fresh)

        with self.world.step("index.write") as fault:
            self._refuse(generation, documents)
            self._collection(generation)
            if fault is not None and fault.lands == "late":
                self.world.send_late(land)
            else:
                land()

    def control_write(self, generation: Generation, *, renew: RenewLease) -> None:
        """Send a write that changes nothing and cannot be refused."""
        renew()
        with self.world.step("index.control_write"):
            self._collection(generation).documents.pop(CONTROL_ID, None)

    def unreachable(self, generation: Generation, *, renew: RenewLease) -> list[MemoryId]:
        """Return documents that no query lists: none, here."""
        renew()
        with self.world.step("index.unreachable"):
            self._collection(generation)
            return []

    def hashes(self, generation: Generation, *, renew: RenewLease) -> dict[str, str]:
        """Return document id to content hash of all that the collection holds."""
        renew()
        with self.world.step("index.hashes"):
            held = self._collection(generation).documents
            return {name: str(d.metadata.get("hash", "")) for name, d in held.items()}

    def query(
        self,
        generation: Generation,
        vector: Vector,
        *,
        limit: int,
        where: Mapping[str, Any] | None,
        seconds: float,
    ) -> list[Match]:
        """Return the nearest documents, nearest first."""
        del seconds  # nothing here takes any
        with self.world.step("index.query"):
            matches = [
                Match(memory_id, cosine_distance(vector, found.vector), dict(found.metadata))
                for name, found in self._collection(generation).documents.items()
                if (memory_id := memory_id_of(name)) is not None and meets(found.metadata, where)
            ]
        return sorted(matches, key=lambda m: m.distance)[:limit]

    def count(self, generation: Generation, *, seconds: float) -> int:
        """Count the documents of a generation."""
        del seconds  # nothing here takes any
        with self.world.step("index.count"):
            return len(self._collection(generation).documents)

    def pages(
        self, generation: Generation, *, renew: RenewLease
    ) -> Iterator[list[tuple[str, Mapping[str, Scalar]]]]:
        """Walk through the ids and metadata of all documents, a page at a time."""
        renew()
        with self.world.step("index.pages"):
            held = self._collection(generation).documents
            page: list[tuple[str, Mapping[str, Scalar]]] = [
                (name, dict(found.metadata)) for name, found in held.items()
            ]
        yield page

    def fetch(
        self,
        generation: Generation,
        ids: Sequence[MemoryId],
        *,
        seconds: float,
        whole: bool = False,
    ) -> dict[MemoryId, Stored]:
        """Return what is stored for these memories; with vectors and texts where ``whole``."""
        del seconds  # nothing here takes any
        with self.world.step("index.fetch"):
            held = self._collection(generation).documents
            return {
                i: Stored(
                    dict(found.metadata),
                    found.vector if whole else None,
                    found.text if whole else None,
                )
                for i in ids
                if (found := held.get(document_id(i))) is not None
            }

    def reachable_ids(self, generation: Generation, count: int, *, seconds: float) -> list[str]:
        """Return the ids of all documents that a query can find: all of them, here."""
        del count, seconds  # nothing is lost here, and nothing takes time
        with self.world.step("index.reachable_ids"):
            return list(self._collection(generation).documents)

    def unreachable_by_vector(
        self, generation: Generation, vectors: Mapping[MemoryId, Vector], *, seconds: float
    ) -> set[MemoryId]:
        """Return those that a query by their own vector does not find, twins apart."""
        if not vectors:
            return set()
        del seconds  # nothing here takes any
        with self.world.step("index.unreachable_by_vector"):
            held = self._collection(generation).documents
            if len(held) <= NEIGHBOURS:  # a query lists them all
                return {i for i in vectors if document_id(i) not in held}
            return {i for i, vector in vectors.items() if _is_beaten(held, i, vector)}

    def delete_batch(self, generation: Generation, *, seconds: float) -> bool:
        """Delete some documents of a large collection that has ended: none is large, here."""
        del seconds  # nothing here takes any
        with self.world.step("index.thin_out"):
            self._collection(generation)
            return False

    def drop(self, generation: Generation, *, seconds: float) -> None:
        """Delete a generation's collection; nothing where it is gone."""
        del seconds  # nothing here takes any
        with self.world.step("index.drop"):
            self.world.collections.pop(generation.collection, None)

    def _refuse(self, generation: Generation, documents: Sequence[Document]) -> None:
        del generation  # all collections refuse the same, here
        refuse(documents)

    def _server(self, generation: Generation) -> None:
        if generation.server != self.world.server:
            raise ServerLost(f"no server {generation.server} answers here")

    def _collection(self, generation: Generation) -> FakeCollection:
        self._server(generation)
        found = self.world.collections.get(generation.collection)
        if found is None or generation.collection_id not in {None, found.id}:
            raise Corrupt("the collection is gone or another", generation=generation.id)
        return found

    def _apply(
        self,
        generation: Generation,
        documents: Sequence[Document],
        deletes: Sequence[MemoryId],
        *,
        fresh: bool,
    ) -> None:
        held = self._collection(generation).documents
        for memory_id in deletes:
            held.pop(document_id(memory_id), None)
        for document in documents:
            name = document_id(document.memory_id)
            before = held.get(name)
            if fresh and before is not None:
                continue
            # As Chroma does: what an upsert does not mention stays.
            held[name] = FakeDocument(
                document.vector,
                document.text if document.text is not None or before is None else before.text,
                {**(before.metadata if before else {}), **document.metadata},
            )


def _differs(before: Memory, after: Memory) -> bool:
    """Say whether anything that a document depends on has changed, for one tenant."""
    one, other = before.embedding, after.embedding
    same_vector = one is other or (
        one is not None and other is not None and np.array_equal(one, other)
    )
    return not same_vector or (before.raw, before.project_id, before.created_at) != (
        after.raw,
        after.project_id,
        after.created_at,
    )


def _is_beaten(held: Mapping[str, FakeDocument], memory_id: MemoryId, vector: Vector) -> bool:
    """Say whether nearer documents, and not merely twins, keep one out of its own answer."""
    near = sorted((cosine_distance(vector, d.vector), name) for name, d in held.items())
    near = near[:NEIGHBOURS]
    names = {name for _, name in near}
    return document_id(memory_id) not in names and near[-1][0] > SAME_DISTANCE


def refuse(documents: Sequence[Document]) -> None:
    """Raise Poison for what no collection takes."""
    for document in documents:
        if document.vector.shape != (DIMENSION,) or not np.isfinite(document.vector).all():
            raise Poison("the vector has the wrong dimension or is not finite")
        try:
            (document.text or "").encode()
        except UnicodeEncodeError as error:
            raise Poison("the text has lone surrogates") from error


def cosine_distance(one: Vector, other: Vector) -> float:
    """Measure as Chroma does; a zero vector is far from everything."""
    length = float(np.linalg.norm(one) * np.linalg.norm(other))
    return 1.0 - float(one @ other) / length if length else 1.0


def meets(metadata: Mapping[str, Scalar], where: Mapping[str, Any] | None) -> bool:
    """Tell whether metadata meets a Chroma filter."""
    return all(_meets(metadata, key, asked) for key, asked in (where or {}).items())


def _meets(metadata: Mapping[str, Scalar], key: str, asked: Any) -> bool:
    if key in {"$and", "$or"}:
        parts = (meets(metadata, part) for part in asked)
        return all(parts) if key == "$and" else any(parts)
    found = metadata.get(key)
    [(op, value)] = asked.items() if isinstance(asked, Mapping) else [("$eq", asked)]
    if op in RANGES:
        return isinstance(found, int | float) and bool(RANGES[op](found, value))
    values = value if op in {"$in", "$nin"} else [value]
    among = any(found == v and kind_of(found) == kind_of(v) for v in values)
    return among if op in {"$eq", "$in"} else not among


def a_vector(seed: int) -> Vector:
    """Make a vector of length one; another seed, another direction."""
    values = np.random.default_rng(seed).standard_normal(DIMENSION).astype(np.float32)
    vector: Vector = values / np.linalg.norm(values)
    return vector


def a_document(
    memory_id: int,
    *,
    seed: int | None = None,
    text: str | None = '{"summary": "a memory"}',
    rewritten: bool = False,
    **metadata: Scalar,
) -> Document:
    """Make a document whose vector is told by its seed, which is its id unless given."""
    vector = a_vector(abs(memory_id) if seed is None else seed)
    found: dict[str, Scalar] = {"hash": f"hash of {memory_id}", **metadata}
    return Document(MemoryId(memory_id), vector, text, found, rewritten)


def no_lease() -> float:
    """Hold as somebody whose lease never ends."""
    return 5.0
