"""Bugs, planted one at a time: each takes one guard away, and the simulation has to notice.

A simulation that misses one is too weak. Each is a small patch of the core or of a guard in the
fakes, in force while its context lasts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast, get_args
from unittest.mock import patch

from memory_pipeline.content.document import compose, parse, vector_hash
from memory_pipeline.domain.changes import Claim
from memory_pipeline.domain.outcomes import Failure, Finding, FindingKind, Verified
from memory_pipeline.domain.types import (
    Generation,
    Memory,
    MemoryId,
    Provenance,
    ProvenanceUpdate,
    RebuildPart,
    TenantId,
    Vector,
)
from memory_pipeline.errors import ChromaUnavailable, PipelineError, Transient
from memory_pipeline.ports import Lease
from memory_pipeline.rebuild import chunks as filling
from memory_pipeline.rebuild import tenant as rebuild
from memory_pipeline.rebuild.chunks import ChunkWriter
from memory_pipeline.rebuild.ownership import Ownership
from memory_pipeline.rebuild.tenant import Rebuild
from memory_pipeline.search.query import Search, _Found
from memory_pipeline.sync import batch, generations, plan
from memory_pipeline.sync.damage import Damage
from memory_pipeline.sync.generations import Generations
from memory_pipeline.sync.plan import EmbeddedDraft
from memory_pipeline.sync.tenant import Sync
from memory_pipeline.verify import double_check
from memory_pipeline.verify.double_check import DoubleCheck
from memory_pipeline.verify.tenant import SAMPLE, Verify
from memory_pipeline_tests.fakes import (
    FakeChange,
    FakeLease,
    FakeMemories,
    FakeOutbox,
    FakeRebuilds,
    FakeRegistry,
    FakeWorld,
)
from memory_pipeline_tests.simulation import actors
from memory_pipeline_tests.simulation.run import Report, Simulation
from memory_pipeline_tests.simulation.world import SimulatedWorld


@dataclass(frozen=True, slots=True)
class Bug:
    """A bug that can be planted.

    ``guard``: what it takes away. ``harm``: collections are harmed beside it. ``behind``: a second
    guard, which makes it harmless; most of these are planted once more, without that one.
    """

    plant: Callable[[], AbstractContextManager[None]]
    guard: str
    harm: bool
    behind: str


BUGS: dict[str, Bug] = {}
Planting = Callable[[], Iterator[None]]


def bug(
    name: str, guard: str, *, harm: bool = True, behind: str = ""
) -> Callable[[Planting], Planting]:
    """Name a bug, and the guard that it takes away."""

    def named(planting: Planting) -> Planting:
        BUGS[name] = Bug(contextmanager(planting), guard, harm, behind)
        return planting

    return named


def together(name: str, guard: str, *bugs: str, harm: bool = True) -> None:
    """Name the bug of several at once: one, and what takes away the guard behind it."""

    @bug(name, guard, harm=harm)
    def _() -> Iterator[None]:
        with ExitStack() as planted:
            for each in bugs:
                planted.enter_context(BUGS[each].plant())
            yield


def instead(where: Any, name: str, made: Callable[[Any], Any]) -> Any:
    """Put something in the place of a method; it is made from the method itself."""
    return patch.object(where, name, made(getattr(where, name)))


# ---- the fourteen that every such pipeline has to notice


@bug("S1 ack before write", "a change is forgotten only once Chroma has what it asked for")
def _ack_first() -> Iterator[None]:
    def made(claim: Any) -> Any:
        def claim_and_forget(self: FakeOutbox, lease: Lease) -> Claim:
            found: Claim = claim(self, lease)
            for change in found.changes:
                self.world.changes.pop(change.seq, None)
            return found

        return claim_and_forget

    with instead(FakeOutbox, "claim", made):
        yield


@bug(
    "S2 ack without token", "an ack deletes only what its own token claimed, while its lease stands"
)
def _ack_without_token() -> Iterator[None]:
    def claimed(self: FakeOutbox, lease: Lease, claim: Claim) -> list[FakeChange]:
        return [c for c in map(self.world.changes.get, (c.seq for c in claim.changes)) if c]

    with patch.object(FakeOutbox, "_claimed", claimed), _unfenced("outbox.ack"):
        yield


@bug("S3 cursor instead of claim", "no cursor: what commits late is found as well")
def _cursor() -> Iterator[None]:
    def claimable(self: FakeWorld, tenant: TenantId) -> list[FakeChange]:
        seen = self.__dict__.setdefault("cursors", {}).get(tenant, 0)
        return [
            c
            for c in self.changes.values()
            if c.tenant == tenant and c.not_before <= self.now and c.seq > seen
        ]

    def made(ack: Any) -> Any:
        def move_on(self: FakeOutbox, lease: Lease, claim: Claim, **more: Any) -> Any:
            buried = ack(self, lease, claim, **more)
            cursors = self.world.__dict__.setdefault("cursors", {})
            cursors[lease.tenant] = max(c.seq for c in claim.changes)
            return buried

        return move_on

    with patch.object(FakeWorld, "claimable", claimable), instead(FakeOutbox, "ack", made):
        yield


@bug("S4 hints alone, no poll", "polling finds what no hint told")
def _hints_alone() -> Iterator[None]:
    def made(pending: Any) -> Any:
        def hinted(self: Any, *, paused: bool = False) -> list[TenantId]:
            # A hint reaches whoever listens when it is sent, and nobody else.
            written = len(self.world.stated)
            heard, self.__dict__["heard"] = self.__dict__.get("heard", written), written
            found: list[TenantId] = pending(self, paused=paused)
            return found if written > heard else []

        return hinted

    with instead(FakeOutbox, "pending_tenants", made):
        yield


@bug("S5 no reading after the claim", "a batch reads the rows as they stand after its claim")
def _no_reading() -> Iterator[None]:
    def made(take: Any) -> Any:
        def take_and_read(self: Any, tenant: TenantId) -> Any:
            lease = take(self, tenant)
            memories = FakeMemories(self.world)
            self.world.__dict__.setdefault("read", {})[self.world.scheduler.current] = {
                i: memories._row(i, vectors=True) for i in self.world.rows
            }
            return lease

        return take_and_read

    def made_read(read: Any) -> Any:
        def stale(self: Sync, lease: Lease, claim: Claim) -> Any:
            world = lease.world  # type: ignore[attr-defined]
            rows = world.read.get(world.scheduler.current, {})

            class Stale:
                def read(self, ids: Sequence[MemoryId]) -> Any:
                    return {i: rows[i] for i in ids if i in rows}, ()

            return read(replace(self, memories=cast("Any", Stale())), lease, claim)

        return stale

    with instead(FakeOutbox, "acquire_lease", made), instead(Sync, "_read", made_read):
        yield


@bug("S6 the old tenant of a move is forgotten", "a move is a change of either tenant")
def _old_tenant() -> Iterator[None]:
    def made(capture: Any) -> Any:
        def one_sided(
            self: FakeWorld, memory_id: MemoryId, before: Memory | None, after: Memory | None
        ) -> None:
            moved = before is not None and after is not None and before.tenant != after.tenant
            capture(self, memory_id, None if moved else before, after)

        return one_sided

    with instead(FakeWorld, "capture", made):
        yield


@bug("S7 TRUNCATE is ignored", "a TRUNCATE is one reset of every tenant")
def _truncate() -> Iterator[None]:
    def truncate(self: FakeWorld) -> None:
        self.rows.clear()

    with patch.object(FakeWorld, "truncate", truncate):
        yield


@bug(
    "S8 acks by key, not by number",
    "an ack names the changes that were claimed, not their memories",
)
def _by_key() -> Iterator[None]:
    def claimed(self: FakeOutbox, lease: Lease, claim: Claim) -> list[FakeChange]:
        ids = set(claim.memory_ids)
        changes = self.world.changes.values()
        return [c for c in changes if c.tenant == lease.tenant and c.memory_id in ids]

    with patch.object(FakeOutbox, "_claimed", claimed):
        yield


@bug("S9 flip before verify", "a generation is proven before searches go to it")
def _no_proof() -> Iterator[None]:
    with patch.object(Rebuild, "_prove", lambda *_: (0, 0)):
        yield


@bug("S10 a rebuild without double writes", "a claim names live and building")
def _one_target() -> Iterator[None]:
    def made(claim: Any) -> Any:
        def live_alone(self: FakeOutbox, lease: Lease) -> Claim:
            found: Claim = claim(self, lease)
            live = [g for g in found.targets if g.state == "live"]
            return replace(found, targets=tuple(live or found.targets))

        return live_alone

    with instead(FakeOutbox, "claim", made):
        yield


RENEWED = "S11 a lease is renewed without its token"


@bug(RENEWED, "whoever lost the lease cannot renew it")
def _renewed_by_anybody() -> Iterator[None]:
    def renew(self: FakeLease) -> float:
        with self.world.step("lease.renew"):
            tenant = self.world.tenant(self.tenant)
            tenant.lease_until = self.world.now + self.world.settings.lease_seconds
        return self.world.settings.request_seconds

    with patch.object(FakeLease, "renew", renew):
        yield


@bug("S12 outages are charged", "an outage is nobody's fault")
def _charged() -> Iterator[None]:
    def made(verdict: Any) -> Any:
        def charge(self: Sync, lease: Lease, claim: Claim, error: PipelineError) -> Any:
            if isinstance(error, Transient) and claim.changes:
                failures = [Failure(i, "outage") for i in claim.memory_ids]
                self.outbox.ack(lease, claim, landed={}, failures=failures, missed=(), recheck=())
            return verdict(self, lease, claim, error)

        return charge

    with instead(Sync, "_verdict", made):
        yield


@bug("S13 a timeout is a failure, and skipped", "an unknown outcome is done again")
def _skipped() -> Iterator[None]:
    def made(write: Any) -> Any:
        def skip(*args: Any, **kwargs: Any) -> list[Failure]:
            try:
                return write(*args, **kwargs)  # type: ignore[no-any-return]
            except ChromaUnavailable:
                return []

        return skip

    with instead(Generations, "write", made):
        yield


@bug("S14 verify compares counts", "verify compares each document")
def _counts() -> Iterator[None]:
    def count(  # noqa: PLR0917 - as the method that it stands for
        self: Verify,
        tenant: TenantId,
        generation: Generation,
        sample: object,
        known: object,
        renew: Callable[[], float],
    ) -> Verified:
        del sample, known
        held = sum(map(len, self.sides.index.pages(generation, renew=renew)))
        memories = self.sides.memories.count(tenant)
        return Verified(tenant, generation.id, documents=held, memories=memories)

    with patch.object(Verify, "_compare", count):
        yield


# ---- the guards of the protocol's model that are none of the fourteen


@bug("targets are cached", "each claim tells where to write")
def _cached_targets() -> Iterator[None]:
    def made(claim: Any) -> Any:
        def cached(self: FakeOutbox, lease: Lease) -> Claim:
            found: Claim = claim(self, lease)
            known = self.__dict__.setdefault("targets", {})
            return replace(found, targets=known.setdefault(lease.tenant, found.targets))

        return cached

    with instead(FakeOutbox, "claim", made):
        yield


@bug(
    "a generation is registered without the lease",
    "no batch is under way when a generation is registered",
    behind="what a batch has claimed before, the chunk reads afterwards",
)
def _unleased_register() -> Iterator[None]:
    with _unfenced("rebuilds.register_building"):
        yield


@bug(
    "versions of a chunk are not checked",
    "a chunk looks at the version of every row under its lease",
)
def _unchecked() -> Iterator[None]:
    with patch.object(ChunkWriter, "_current", lambda _self, _tenant, drafts: (list(drafts), [])):
        yield


@bug(
    "rows of a chunk that moved are not read again",
    "a row that moved is read again, not left out",
    behind="the proof before the flip finds what is missing",
)
def _not_read_again() -> Iterator[None]:
    def current(
        self: ChunkWriter, tenant: TenantId, drafts: Sequence[EmbeddedDraft]
    ) -> tuple[list[EmbeddedDraft], list[MemoryId]]:
        now = self.memories.versions([d.memory.id for d in drafts])
        return [d for d in drafts if now.get(d.memory.id) == (tenant, d.memory.version)], []

    with patch.object(ChunkWriter, "_current", current):
        yield


@bug(
    "no confirm after a takeover",
    "what was claimed before is looked at again after every late write",
)
def _no_confirm() -> Iterator[None]:
    with patch.object(FakeOutbox, "_confirm", lambda *_: None):
        yield


@bug(
    "a chunk is done again at once",
    "a chunk is done again when its first request has landed or died",
    behind="the proof before the flip, unless the first request lands after both",
)
def _redone_at_once() -> Iterator[None]:
    with patch.object(Ownership, "settle", lambda self: self.clock.sleep(0.1)):
        yield


@bug("a flip to what is not building", "a flip names the building generation")
def _flip_anywhere() -> Iterator[None]:
    def fills(self: FakeRebuilds, build: Any, lease: Lease, generation: Generation) -> bool:
        return self.world.holds(lease) and self._part(build) is not None

    with patch.object(FakeRebuilds, "_fills", fills):
        yield


@bug(
    "a flip without the token, to what is not building",
    "a flip names the token and the building generation",
)
def _flip_unguarded() -> Iterator[None]:
    def fills(self: FakeRebuilds, build: Any, lease: Lease, generation: Generation) -> bool:
        return self._part(build) is not None

    with patch.object(FakeRebuilds, "_fills", fills):
        yield


@bug("no renewal before a request", "each request renews the lease first")
def _no_renewal() -> Iterator[None]:
    with patch.object(FakeLease, "renew", lambda self: self.world.settings.request_seconds):
        yield


@bug("the backup looks at no version", "a vector is stored only in the row that was read")
def _blind_backup() -> Iterator[None]:
    def back_up(
        self: FakeMemories, vectors: dict[MemoryId, tuple[Memory, Vector, Provenance]]
    ) -> frozenset[MemoryId]:
        world = self.world
        with world.step("memories.back_up"):
            if world.settings.backup == "off":
                return frozenset(vectors)
            for i, (_, vector, provenance) in vectors.items():
                if i in world.rows:
                    version = str(world.number())
                    world.rows[i] = replace(world.rows[i], embedding=vector, version=version)
                    world.provenance[i] = provenance
            return frozenset(vectors)

    with patch.object(FakeMemories, "back_up", back_up):
        yield


@bug("what the backup missed is acked", "a miss of the backup leaves the change")
def _missed_acked() -> Iterator[None]:
    def made(ack: Any) -> Any:
        def all_of_it(
            self: FakeOutbox, lease: Lease, claim: Claim, *, landed: Any, missed: Any, **more: Any
        ) -> Any:
            landed = {**dict.fromkeys(missed), **landed}
            return ack(self, lease, claim, landed=landed, missed=(), **more)

        return all_of_it

    with instead(FakeOutbox, "ack", made):
        yield


@bug("two writers a tenant", "one writer a tenant, each under a token of its own")
def _two_writers() -> Iterator[None]:
    def take(self: FakeOutbox, tenant: TenantId) -> FakeLease | None:
        world = self.world
        with world.step("outbox.acquire_lease"):
            known = world.tenants.get(tenant)
            if known is None:
                return None
            known.token = known.token or 1  # one token for all of them
            known.lease_until = world.now + world.settings.lease_seconds
            return FakeLease(world, tenant, known.token)  # type: ignore[arg-type]

    # Where they were told apart by their leases' ends alone, most would be fenced after all.
    with patch.object(FakeOutbox, "acquire_lease", take), BUGS[RENEWED].plant():
        yield


@bug("search trusts the index", "search asks Postgres whose each hit is")
def _trusting_search() -> Iterator[None]:
    def confirmed(self: Search, tenant: TenantId, matches: Any, condition: Any) -> Any:
        rows = self._memories.read([m.memory_id for m in matches])[0]
        found = [(m, rows[m.memory_id]) for m in matches if m.memory_id in rows]
        return [_Found(m, row, compose(row, self._recipe)).hit() for m, row in found]

    with patch.object(Search, "_confirmed", confirmed):
        yield


@bug("search shows the text of the index", "search shows the memory as Postgres has it")
def _text_of_the_index() -> Iterator[None]:
    def made(confirmed: Any) -> Any:
        def older(self: Search, tenant: TenantId, matches: Any, condition: Any) -> Any:
            world = self._memories.world  # type: ignore[attr-defined]
            texts = {
                match.memory_id: document.text
                for match in matches
                for collection in world.collections.values()
                if (document := collection.documents.get(f"memory_log_{match.memory_id}"))
                and document.metadata == match.metadata
            }
            return [
                replace(hit, memory=parse(texts[hit.memory_id])) if hit.memory_id in texts else hit
                for hit in confirmed(self, tenant, matches, condition)
            ]

        return older

    with instead(Search, "_confirmed", made):
        yield


@bug("search caches the pointer", "each search resolves the pointer")
def _cached_pointer() -> Iterator[None]:
    def made(search: Any) -> Any:
        def cached(self: Search, tenant: TenantId, *args: Any, **kwargs: Any) -> Any:
            known = self.__dict__.setdefault("known", {})
            registry = self._registry

            class Cached:
                def live(self, tenant: TenantId) -> Generation | None:
                    if known.get(tenant) is None:
                        known[tenant] = registry.live(tenant)
                    return known[tenant]  # type: ignore[no-any-return]

            self._registry = Cached()  # type: ignore[assignment]
            try:
                return search(self, tenant, *args, **kwargs)
            finally:
                self._registry = registry

        return cached

    with instead(Search, "search", made):
        yield


# ---- the guards of the rebuild, the claim and the flip that stand beside the model's


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
    with _unfenced("registry.go_live"):
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


# ---- what the verify before the flip hides; without harm, which that verify alone would find


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


# ---- races that earlier designs had


@bug("a finding whatever the version", "a row that moved between two looks is no finding")
def _any_version() -> Iterator[None]:
    def look(self: DoubleCheck, ids: Sequence[MemoryId], *, closely: bool) -> Any:
        rows = self._rows(ids, closely=closely)
        excuses = self._sides.outbox.expected_differences(self._tenant, ids)
        stored = self._sides.index.fetch(
            self._generation, ids, seconds=self._renew(), whole=closely
        )
        later = self._sides.outbox.expected_differences(self._tenant, ids)
        judged = {i: self._judge(rows.get(i), stored.get(i), hidden=False) for i in ids}
        return {
            i: found
            for i, found in judged.items()
            if found and not any(self._excused(i, found[0], e) for e in (excuses, later))
        }

    with patch.object(DoubleCheck, "_check_once", look):
        yield


@bug(
    "what waits is asked for afterwards alone",
    "what waits is asked for before and after",
    behind="it would have to be brought amid the look both times",
)
def _waits_afterwards() -> Iterator[None]:
    def look(self: DoubleCheck, ids: Sequence[MemoryId], *, closely: bool) -> Any:
        outbox, first = self._sides.outbox, True

        class Afterwards:
            def expected_differences(self, *asked: Any) -> Any:
                nonlocal first
                found = outbox.expected_differences(*asked)
                first, was = False, first
                return replace(found, pending=frozenset(), everything=False) if was else found

        parts = replace(self._sides, outbox=cast("Any", Afterwards()))
        other = DoubleCheck(parts, self._tenant, self._generation, self._renew)
        return sandwiched(other, ids, closely=closely)

    sandwiched = DoubleCheck._check_once
    with patch.object(DoubleCheck, "_check_once", look):
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
    with patch.object(DoubleCheck, "_excused", lambda *_: False):
        yield


@bug("a finding whatever was flipped", "a flip amid a verify has it look again")
def _whatever_flipped() -> Iterator[None]:
    def run(self: Verify, tenant: TenantId, **how: Any) -> Any:
        target = how.get("generation") or self.registry.live(tenant)
        renew = how.get("renew") or (lambda: self.seconds)
        return self._look(tenant, target, how.get("sample", SAMPLE), how.get("known"), renew)

    with patch.object(Verify, "run", run):
        yield


@bug(
    "a vector is known by its text alone",
    "a vector is known by its text, the model and its own hash",
)
def _vector_by_text() -> Iterator[None]:
    def reusable_provenance(
        memory: Memory, content: Any, *, model: str, trust: bool
    ) -> Provenance | None:
        known = memory.provenance
        if memory.embedding is None:
            return None
        if known is not None:
            return known if (known.text_hash, known.model) == (content.text_hash, model) else None
        return Provenance(content.text_hash, model, vector_hash(memory.embedding))

    with (
        patch.object(plan, "reusable_provenance", reusable_provenance),
        patch.object(double_check, "reusable_provenance", reusable_provenance),
    ):
        yield


@bug("a memory is charged without a control", "a refusal is charged only where a control passes")
def _no_control() -> Iterator[None]:
    def write(
        index: Any, generation: Generation, ready: Any, deletes: Any, *, renew: Any, fresh: Any = 0
    ) -> list[Failure]:
        index.write(generation, (), deletes, renew=renew)

        def attempt(part: Any) -> None:
            index.write(generation, [d.document for d in part], (), renew=renew, fresh=bool(fresh))

        return [Failure(d.memory.id, str(e)) for d, e in plan.isolate(ready, attempt)]

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

    with patch.object(batch, "isolate", isolate):
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


# ---- what the simulation itself has found


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
    def note(self: FakeWorld, notings: Mapping[MemoryId, ProvenanceUpdate]) -> None:
        self.provenance.update({i: noting.now for i, noting in notings.items()})

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
    def made(sandwiched: Any) -> Any:
        def look(self: DoubleCheck, ids: Sequence[MemoryId], *, closely: bool) -> Any:
            looked = sandwiched(self, ids, closely=closely)
            return {i: wrong for i, wrong in looked.items() if wrong is not None}

        return look

    # It takes a touch amid both looks, of the very row that is wrong.
    touches = [100 * (kind == "touch") + 1 for kind in actors.KINDS]
    often = patch.multiple(actors, WEIGHTS=touches, WEIGHTS_AMID=touches)
    with instead(DoubleCheck, "_check_once", made), often:
        yield


@bug(
    "found: a reset excuses whatever differs in a building generation",
    "of a building generation a reset mends only what went",
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

            with patch.object(Verify, "_look", look):
                try:
                    return run(self, tenant, **how)
                except ChromaUnavailable as error:
                    if "replaced" in str(error):
                        return last[-1]
                    raise

        return judged

    looked = Verify._look
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
        return of_the_whole(self, tenant, generation)

    of_the_whole = Verify._of_the_whole
    with patch.object(Verify, "_of_the_whole", whole):
        yield


# ---- tools of the bugs


@contextmanager
def _unfenced(*steps: str) -> Iterator[None]:
    """Let these steps of the fakes go on under a dead token."""

    def made_fence(fence: Any) -> Any:
        def lenient(self: SimulatedWorld, lease: Lease) -> None:
            if self.doing not in steps:
                fence(self, lease)

        return lenient

    def made_holds(holds: Any) -> Any:
        def lenient(self: SimulatedWorld, lease: Lease) -> bool:
            return self.doing in steps or holds(self, lease)

        return lenient

    with instead(FakeWorld, "fence", made_fence), instead(FakeWorld, "holds", made_holds):
        yield


@dataclass(frozen=True, slots=True)
class Caught:
    """How soon the simulation noticed a bug, and what it said; None where it did not."""

    name: str
    seeds: int
    report: Report | None


def hunt(name: str, seeds: Sequence[int]) -> Caught:
    """Plant a bug and run seeds until one notices."""
    bug = BUGS[name]
    for number, seed in enumerate(seeds, 1):
        with bug.plant():
            report = Simulation(seed, harm=bug.harm).run()
        # Where the seed is broken without the bug as well, it says nothing about it.
        if report.broken and not Simulation(seed, harm=bug.harm).run().broken:
            return Caught(name, number, report)
    return Caught(name, len(seeds), None)
