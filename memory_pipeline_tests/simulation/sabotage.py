"""Bugs, planted one at a time: each takes one guard away, and the simulation has to notice.

A simulation that misses one is too weak. Each is a small patch of the core or of a guard in the
fakes, in force while its context lasts.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast
from unittest.mock import patch

from memory_pipeline import batch, filling, generations, plan, sandwich, sync, verify
from memory_pipeline.content import compose, parse, vector_hash
from memory_pipeline.errors import ChromaUnavailable, PipelineError, Transient
from memory_pipeline.filling import Filling
from memory_pipeline.generations import Generations
from memory_pipeline.model import (
    Claim,
    Failure,
    Finding,
    Generation,
    Memory,
    MemoryId,
    Provenance,
    TenantId,
    Vector,
    Verified,
)
from memory_pipeline.plan import EmbeddedDraft
from memory_pipeline.ports import Lease, Memories
from memory_pipeline.rebuild import Rebuild
from memory_pipeline.sandwich import Sandwich
from memory_pipeline.search import Search, _Found
from memory_pipeline.sync import Sync
from memory_pipeline.verify import Verify
from memory_pipeline_tests.fakes import (
    FakeChange,
    FakeLease,
    FakeMemories,
    FakeOutbox,
    FakeRebuilds,
    FakeRegistry,
    FakeWorld,
)
from memory_pipeline_tests.simulation.run import Report, Simulation
from memory_pipeline_tests.simulation.world import SimulatedWorld


@dataclass(frozen=True, slots=True)
class Bug:
    """A bug that can be planted.

    ``harm``: collections are harmed beside it. ``noticed``: within some thousand seeds; those that
    are not are either covered by another guard or need three things at once, and stay listed here
    so that nobody takes the simulation for stronger than it is.
    """

    plant: Callable[[], AbstractContextManager[None]]
    harm: bool
    noticed: bool


BUGS: dict[str, Bug] = {}
Planting = Callable[[], Iterator[None]]


def bug(name: str, *, harm: bool = True, noticed: bool = True) -> Callable[[Planting], Planting]:
    """Name a bug."""

    def named(planting: Planting) -> Planting:
        BUGS[name] = Bug(contextmanager(planting), harm, noticed)
        return planting

    return named


def instead(where: Any, name: str, made: Callable[[Any], Any]) -> Any:
    """Put something in the place of a method; it is made from the method itself."""
    return patch.object(where, name, made(getattr(where, name)))


# ---- the fourteen that every such pipeline has to notice


@bug("S1 ack before write")
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


@bug("S2 ack without token")
def _ack_without_token() -> Iterator[None]:
    def claimed(self: FakeOutbox, lease: Lease, claim: Claim) -> list[FakeChange]:
        return [c for c in map(self.world.changes.get, (c.seq for c in claim.changes)) if c]

    with patch.object(FakeOutbox, "_claimed", claimed), _unfenced("outbox.ack"):
        yield


@bug("S3 cursor instead of claim")
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


@bug("S4 hints alone, no poll")
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


@bug("S5 no reading after the claim")
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

    def made_run(batch_: Any) -> Any:
        def stale(self: Sync, lease: Lease, claim: Claim, so_far: Any) -> Any:
            world = lease.world  # type: ignore[attr-defined]
            rows = world.read.get(world.scheduler.current, {})

            class Stale:
                def __init__(self, memories: Any) -> None:
                    self._memories = memories

                def __getattr__(self, name: str) -> Any:
                    return getattr(self._memories, name)

                def read(self, ids: Sequence[MemoryId]) -> Any:
                    return {i: rows[i] for i in ids if i in rows}, ()

            return batch_(
                replace(self, memories=cast("Memories", Stale(self.memories))), lease, claim, so_far
            )

        return stale

    with instead(FakeOutbox, "take", made), instead(Sync, "_batch", made_run):
        yield


@bug("S6 the old tenant of a move is forgotten")
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


@bug("S7 TRUNCATE is ignored")
def _truncate() -> Iterator[None]:
    def truncate(self: FakeWorld) -> None:
        self.rows.clear()

    with patch.object(FakeWorld, "truncate", truncate):
        yield


@bug("S8 acks by key, not by number")
def _by_key() -> Iterator[None]:
    def claimed(self: FakeOutbox, lease: Lease, claim: Claim) -> list[FakeChange]:
        ids = set(claim.memory_ids)
        changes = self.world.changes.values()
        return [c for c in changes if c.tenant == lease.tenant and c.memory_id in ids]

    with patch.object(FakeOutbox, "_claimed", claimed):
        yield


@bug("S9 flip before verify")
def _no_proof() -> Iterator[None]:
    with patch.object(Rebuild, "_prove", lambda *_: (0, 0)):
        yield


@bug("S10 a rebuild without double writes")
def _one_target() -> Iterator[None]:
    def made(claim: Any) -> Any:
        def live_alone(self: FakeOutbox, lease: Lease) -> Claim:
            found: Claim = claim(self, lease)
            live = [g for g in found.targets if g.state == "live"]
            return replace(found, targets=tuple(live or found.targets))

        return live_alone

    with instead(FakeOutbox, "claim", made):
        yield


@bug("S11 a lease is renewed without its token")
def _renewed_by_anybody() -> Iterator[None]:
    def hold(self: FakeLease) -> float:
        with self.world.step("lease.hold"):
            tenant = self.world.tenant(self.tenant)
            tenant.lease_until = self.world.now + self.world.settings.lease_seconds
        return self.world.settings.request_seconds

    with patch.object(FakeLease, "hold", hold):
        yield


@bug("S12 outages are charged")
def _charged() -> Iterator[None]:
    def made(verdict: Any) -> Any:
        def charge(self: Sync, lease: Lease, claim: Claim, error: PipelineError) -> Any:
            if isinstance(error, Transient) and claim.changes:
                failures = [Failure(i, "outage") for i in claim.memory_ids]
                self.outbox.ack(lease, claim, landed={}, failures=failures, missed=(), again=())
            return verdict(self, lease, claim, error)

        return charge

    with instead(Sync, "_verdict", made):
        yield


@bug("S13 a timeout is a failure, and skipped")
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


@bug("S14 verify compares counts")
def _counts() -> Iterator[None]:
    def count(  # noqa: PLR0917 - as the method that it stands for
        self: Verify,
        tenant: TenantId,
        generation: Generation,
        sample: object,
        known: object,
        hold: Callable[[], float],
    ) -> Verified:
        del sample, known
        held = sum(map(len, self.parts.index.pages(generation, hold=hold)))
        memories = self.parts.memories.count(tenant)
        return Verified(tenant, generation.id, documents=held, memories=memories)

    with patch.object(Verify, "_compare", count):
        yield


# ---- the guards of the protocol's model that are none of the fourteen


@bug("targets are cached")
def _cached_targets() -> Iterator[None]:
    def made(claim: Any) -> Any:
        def cached(self: FakeOutbox, lease: Lease) -> Claim:
            found: Claim = claim(self, lease)
            known = self.__dict__.setdefault("targets", {})
            return replace(found, targets=known.setdefault(lease.tenant, found.targets))

        return cached

    with instead(FakeOutbox, "claim", made):
        yield


@bug("a generation is registered without the lease", noticed=False)
def _unleased_register() -> Iterator[None]:
    with _unfenced("rebuilds.register"):
        yield


@bug("versions of a chunk are not checked", noticed=False)  # the verify before the flip mends it
def _unchecked() -> Iterator[None]:
    with patch.object(Filling, "_current", lambda _self, _tenant, drafts: (list(drafts), [])):
        yield


@bug("rows of a chunk that moved are not read again", noticed=False)
def _not_read_again() -> Iterator[None]:
    def current(
        self: Filling, tenant: TenantId, drafts: Sequence[EmbeddedDraft]
    ) -> tuple[list[EmbeddedDraft], list[MemoryId]]:
        now = self.memories.versions([d.memory.id for d in drafts])
        return [d for d in drafts if now.get(d.memory.id) == (tenant, d.memory.version)], []

    with patch.object(Filling, "_current", current):
        yield


@bug("no confirm after a takeover")
def _no_confirm() -> Iterator[None]:
    with patch.object(FakeOutbox, "_confirm", lambda *_: None):
        yield


@bug("a chunk is done again at once", noticed=False)
def _redone_at_once() -> Iterator[None]:
    with patch.object(FakeRebuilds, "redo_seconds", property(lambda _: 0.2)):
        yield


@bug("a flip to what is not building")
def _flip_anywhere() -> Iterator[None]:
    def fills(self: FakeRebuilds, build: Any, lease: Lease, generation: Generation) -> bool:
        return self.world.holds(lease) and self._part(build) is not None

    with patch.object(FakeRebuilds, "_fills", fills):
        yield


@bug("a flip without the token, to what is not building")
def _flip_unguarded() -> Iterator[None]:
    def fills(self: FakeRebuilds, build: Any, lease: Lease, generation: Generation) -> bool:
        return self._part(build) is not None

    with patch.object(FakeRebuilds, "_fills", fills):
        yield


@bug("no renewal before a request")
def _no_renewal() -> Iterator[None]:
    with patch.object(FakeLease, "hold", lambda self: self.world.settings.request_seconds):
        yield


@bug("the backup looks at no version")
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


@bug("what the backup missed is acked")
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


@bug("two writers a tenant", noticed=False)
def _two_writers() -> Iterator[None]:
    def take(self: FakeOutbox, tenant: TenantId) -> FakeLease | None:
        world = self.world
        with world.step("outbox.take"):
            known = world.tenants.get(tenant)
            if known is None:
                return None
            known.token = known.token or 1  # one token for all of them
            known.lease_until = world.now + world.settings.lease_seconds
            return FakeLease(world, tenant, known.token)  # type: ignore[arg-type]

    with patch.object(FakeOutbox, "take", take):
        yield


@bug("search trusts the index")
def _trusting_search() -> Iterator[None]:
    def confirmed(self: Search, tenant: TenantId, matches: Any, condition: Any) -> Any:
        rows = self._memories.read([m.memory_id for m in matches])[0]
        found = [(m, rows[m.memory_id]) for m in matches if m.memory_id in rows]
        return [_Found(m, row, compose(row, self._recipe)).hit() for m, row in found]

    with patch.object(Search, "_confirmed", confirmed):
        yield


@bug("search shows the text of the index")
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


@bug("search caches the pointer")
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


# ---- what the verify before the flip hides; without harm, which that verify alone would find


@bug("no verify, and a generation is registered without the lease", harm=False, noticed=False)
def _unproven_register() -> Iterator[None]:
    with BUGS["S9 flip before verify"].plant(), _unfenced("rebuilds.register"):
        yield


@bug("no verify, and versions of a chunk are not checked", harm=False)
def _unproven_unchecked() -> Iterator[None]:
    unchecked = BUGS["versions of a chunk are not checked"]
    with BUGS["S9 flip before verify"].plant(), unchecked.plant():
        yield


@bug("no verify, and rows of a chunk that moved are not read again", harm=False)
def _unproven_not_read_again() -> Iterator[None]:
    not_read = BUGS["rows of a chunk that moved are not read again"]
    with BUGS["S9 flip before verify"].plant(), not_read.plant():
        yield


@bug("no verify, and a chunk is done again at once", harm=False, noticed=False)
def _unproven_at_once() -> Iterator[None]:
    at_once = BUGS["a chunk is done again at once"]
    with BUGS["S9 flip before verify"].plant(), at_once.plant():
        yield


# ---- races that earlier designs had


@bug("a finding whatever the version", noticed=False)
def _any_version() -> Iterator[None]:
    def look(self: Sandwich, ids: Sequence[MemoryId], *, closely: bool) -> Any:
        rows = self._rows(ids, closely=closely)
        excuses = self._parts.outbox.excuses(self._tenant, ids)
        stored = self._parts.index.fetch(self._generation, ids, seconds=self._hold(), whole=closely)
        later = self._parts.outbox.excuses(self._tenant, ids)
        judged = {i: self._judge(rows.get(i), stored.get(i), hidden=False) for i in ids}
        return {
            i: found
            for i, found in judged.items()
            if found and not self._excused(i, excuses) and not self._excused(i, later)
        }

    with patch.object(Sandwich, "_sandwich", look):
        yield


@bug("a finding whatever waits")
def _whatever_waits() -> Iterator[None]:
    with patch.object(Sandwich, "_excused", lambda *_: False):
        yield


@bug("a finding whatever was flipped")
def _whatever_flipped() -> Iterator[None]:
    with patch.object(verify, "FLIPS", 1):
        yield


@bug("a vector is known by its text alone")
def _vector_by_text() -> Iterator[None]:
    def covering(memory: Memory, content: Any, *, model: str, trust: bool) -> Provenance | None:
        known = memory.provenance
        if memory.embedding is None:
            return None
        if known is not None:
            return known if (known.text_hash, known.model) == (content.text_hash, model) else None
        return Provenance(content.text_hash, model, vector_hash(memory.embedding))

    with patch.object(plan, "covering", covering), patch.object(sandwich, "covering", covering):
        yield


@bug("a memory is charged without a control")
def _no_control() -> Iterator[None]:
    def write(
        index: Any, generation: Generation, ready: Any, deletes: Any, *, hold: Any, fresh: Any = 0
    ) -> list[Failure]:
        index.write(generation, (), deletes, hold=hold)

        def attempt(part: Any) -> None:
            index.write(generation, [d.document for d in part], (), hold=hold, fresh=bool(fresh))

        return [Failure(d.memory.id, str(e)) for d, e in plan.isolate(ready, attempt)]

    with (
        patch.object(generations, "write_documents", write),
        patch.object(filling, "write_documents", write),
    ):
        yield


@bug("poison stops its batch")
def _no_isolation() -> Iterator[None]:
    def isolate(part: Any, attempt: Any) -> list[Any]:
        if part:
            attempt(part)
        return []

    with patch.object(batch, "isolate", isolate):
        yield


@bug("attempts begin anew with each change")
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


@bug("a building generation that fails stops the live one", noticed=False)
def _building_blocks() -> Iterator[None]:
    def give_up(self: Generations, lease: Lease, generation: Generation, error: Any) -> None:
        raise error

    with patch.object(Generations, "_give_up", give_up):
        yield


@bug("damage is not marked")
def _unmarked() -> Iterator[None]:
    with patch.object(Generations, "condemn", lambda *_: "postponed"):
        yield


@bug("a reset compares nothing")
def _empty_reset() -> Iterator[None]:
    with patch.object(sync, "find_differing", lambda *_, **__: []):
        yield


# ---- what the simulation itself has found


@bug("found: what was building alone is given up without a reset")
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


@bug("found: dead letters of what a TRUNCATE took")
def _dead_letters_stay() -> Iterator[None]:
    with patch.object(FakeWorld, "forget_failures_of_gone", lambda *_: None):
        yield


@bug("found: a vector that a row keeps is taken for this text's")
def _kept_vector() -> Iterator[None]:
    with patch.object(EmbeddedDraft, "noted", property(lambda self: self.provenance)):
        yield


@bug("found: a reset passes over what a rebuild has filled", noticed=False)
def _strays_stay() -> Iterator[None]:
    with patch.object(sync, "find_strays", lambda *_, **__: []):
        yield


@bug("found: a first generation that is left half-built is nobody's")
def _left_half_built() -> Iterator[None]:
    def made(waits: Any) -> Any:
        def live_alone(self: FakeRegistry, tenant: TenantId) -> bool:
            return self.world.tenants[tenant].live is not None and waits(self, tenant)

        return live_alone

    with instead(FakeRegistry, "_waits", made):
        yield


# A collection that takes no write is looked at closely by now, and rebuilt.
@bug("found: a delete that is refused is tried for ever", noticed=False)
def _refused_deletes() -> Iterator[None]:
    def made(write: Any) -> Any:
        def untold(index: Any, generation: Any, ready: Any, deletes: Any, **more: Any) -> Any:
            index.write(generation, (), deletes, hold=more["hold"])
            return write(index, generation, ready, (), **more)

        return untold

    with instead(generations, "write_documents", made):
        yield


@bug("found: a collection begins between two looks at what waits")
def _counted_last() -> Iterator[None]:
    def whole(self: Verify, tenant: TenantId, generation: Generation | None) -> Finding | None:
        if generation is None:
            waits = self.parts.outbox.pending(tenant) or self.registry.building(tenant)
            if waits or not self.parts.memories.count(tenant):
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


def hunt(name: str, seeds: range) -> Caught:
    """Plant a bug and run seeds until one notices."""
    bug = BUGS[name]
    for number, seed in enumerate(seeds, 1):
        with bug.plant():
            report = Simulation(seed, harm=bug.harm).run()
        # Where the seed is broken without the bug as well, it says nothing about it.
        if report.broken and not Simulation(seed, harm=bug.harm).run().broken:
            return Caught(name, number, report)
    return Caught(name, len(seeds), None)
