"""Who acts: an application, workers, rebuilds, verifiers, searchers, and somebody who does harm.

Every process of the pipeline is made of the real core; what it has in memory it loses in a crash.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any
from uuid import UUID

from memory_pipeline.admin.forget import Forget
from memory_pipeline.content.document import Recipe, parse, recipe_from
from memory_pipeline.domain.outcomes import Outcome, Rebuilt, Verified
from memory_pipeline.domain.types import MemoryId, RebuildId, TenantId, Vector
from memory_pipeline.errors import ChromaUnavailable, Corrupt, PipelineError, PostgresUnavailable
from memory_pipeline.maintenance.cleanup import drop_retired, retire_empty
from memory_pipeline.rebuild.chunks import ChunkWriter
from memory_pipeline.rebuild.ownership import Ownership
from memory_pipeline.rebuild.proof import Prover
from memory_pipeline.rebuild.tenant import Rebuild
from memory_pipeline.search.query import Search
from memory_pipeline.settings import Settings
from memory_pipeline.sync.freshness import Freshness
from memory_pipeline.sync.tenant import Sync
from memory_pipeline.verify.double_check import Sides
from memory_pipeline.verify.repair import Repair
from memory_pipeline.verify.tenant import Verify
from memory_pipeline.worker.tenant_scheduler import TenantScheduler
from memory_pipeline_tests.fakes import FakeErasures, FakeLetters, FakeRebuilds, FakeRegistry
from memory_pipeline_tests.fakes.outbox import FakeLease
from memory_pipeline_tests.simulation.scheduler import (
    NoLock,
    VirtualClock,
    VirtualEvent,
    VirtualPrefetch,
)
from memory_pipeline_tests.simulation.world import (
    POISON_FOR_INDEX,
    POISON_FOR_MODEL,
    SimulatedEmbedder,
    SimulatedIndex,
    SimulatedMemories,
    SimulatedOutbox,
    SimulatedWorld,
    vector_of,
)

TENANTS = tuple(TenantId(name) for name in ("ada", "bob", "cyd"))
AUDIT_SECONDS = 5.0


@lru_cache(maxsize=8)
def _recipe(settings: Settings) -> Recipe:
    return recipe_from(settings)


class Core:
    """The core of one process, over the simulated world."""

    def __init__(
        self, world: SimulatedWorld, *, loaded: bool = True, idle_seconds: float = 1.0
    ) -> None:
        self.world = world
        self.idle_seconds = idle_seconds  # the longest that it does nothing
        settings = world.settings
        self.outbox = SimulatedOutbox(world)
        self.memories = SimulatedMemories(world)
        self.registry = FakeRegistry(world)
        self.rebuilds = FakeRebuilds(world)
        self.erasures = FakeErasures(world)
        self.index = SimulatedIndex(world)
        self.embedder = SimulatedEmbedder(world, loaded=loaded)
        recipe = _recipe(settings)
        clock, prefetch = VirtualClock(world.scheduler), VirtualPrefetch(world.scheduler)
        self.sync = Sync(
            outbox=_OutboxOfSync(world),
            memories=self.memories,
            registry=self.registry,
            index=self.index,
            embedder=self.embedder,
            recipe=recipe,
            trust=world.trust,
            slice_seconds=settings.lease_seconds / 4,
            freshness=Freshness(clock),
            clock=clock,
            placing=NoLock(),
        )
        parts = Sides(
            memories=self.memories,
            outbox=self.outbox,
            index=self.index,
            recipe=recipe,
            model=self.embedder.model,
            trust=world.trust,
        )
        self.verify = Verify(parts, self.registry, AUDIT_SECONDS, clock, prefetch)
        ownership = Ownership(
            self.outbox,
            self.rebuilds,
            self.verify.seconds,
            VirtualEvent(world.scheduler),
            clock,
        )
        chunk_writer = ChunkWriter(
            outbox=self.outbox,
            memories=self.memories,
            rebuilds=self.rebuilds,
            index=self.index,
            embedder=self.embedder,
            recipe=recipe,
            trust=world.trust,
            slice_seconds=settings.lease_seconds / 4,
            clock=clock,
        )
        self.rebuild = Rebuild(
            ownership=ownership,
            outbox=self.outbox,
            registry=self.registry,
            rebuilds=self.rebuilds,
            index=self.index,
            chunk_writer=chunk_writer,
            sync=self.sync,
            # Of a large collection the proof looks at next to no vectors; these stand for such.
            prover=Prover(
                ownership, chunk_writer, self.verify, settings.rebuild_batch_size, sample=0
            ),
            chunk_documents=settings.rebuild_batch_size,
            chunk_documents_idle=settings.rebuild_batch_size_idle,
            clock=clock,
            prefetch=prefetch,
        )
        self.search = Search(
            memories=self.memories,
            registry=self.registry,
            index=self.index,
            embedder=self.embedder,
            recipe=recipe,
            seconds=AUDIT_SECONDS,
            dead_letters=FakeLetters(world),
            dead_letter_search=settings.dead_letter_search,
        )

    @property
    def forget(self) -> Forget:
        """Return what forgets a tenant."""
        return Forget(
            erasures=self.erasures,
            outbox=self.outbox,
            registry=self.registry,
            memories=self.memories,
            index=self.index,
            generations=self.erasures,
            log_tenants="name",
            clock=VirtualClock(self.world.scheduler),
        )

    def rebuild_alone(self, tenant: TenantId) -> Rebuilt:
        """Rebuild one tenant under a name of its own."""
        name = RebuildId(f"auto-{self.world.number()}")
        self.rebuilds.request(name, [tenant], re_embed=False)
        return self.rebuild.run(name, tenant)

    @property
    def repair(self) -> Repair:
        """Return what verifies and repairs."""
        outbox = self.outbox
        clock = VirtualClock(self.world.scheduler)
        return Repair(self.verify, outbox, self.sync, self.rebuild_alone, clock)


class _OutboxOfSync(SimulatedOutbox):
    """Where others may come between the choice of a tenant and its lease.

    It is the moment at which a sync once registered its tenant: with it each seed is the schedule
    that it was, and the rarest of the planted bugs are noticed by the seeds that are known.
    """

    def __init__(self, world: SimulatedWorld) -> None:
        super().__init__(world)
        self._passed: set[TenantId] = set()

    def acquire_lease(self, tenant: TenantId) -> FakeLease | None:
        """Take the tenant's lease; None while another holds it, or the tenant is unknown."""
        if tenant not in self._passed:
            with self.world.step("registry.register"):
                pass
            if tenant not in self.world.tenants:
                self._passed.add(tenant)  # the sync registers it, and comes again at once
                return None
        self._passed.discard(tenant)
        return super().acquire_lease(tenant)


@dataclass(slots=True)
class Closing:
    """Whether new work is still begun."""

    now: bool = False


# ---- the processes of the pipeline


def worker(core: Core, closing: Closing, late_seconds: float) -> None:
    """Sync turn by turn, as a worker does; some turns are a run's, which drains a tenant."""
    scheduler, rng = core.world.scheduler, core.world.scheduler.rng
    scheduler.sleep(late_seconds * rng.random())
    turns = TenantScheduler(1)
    if not core.embedder.loaded and rng.random() < 0.5:
        with contextlib.suppress(PipelineError):
            core.embedder.load()
    while True:
        with contextlib.suppress(PostgresUnavailable):
            turns.update_pending(core.outbox.pending_tenants())
        for tenant in turns.start_next(core.world.now):
            outcome = Outcome(tenant, "postponed")
            try:
                outcome = core.sync.run(tenant, once=rng.random() < 0.7)
            except PostgresUnavailable:
                outcome = Outcome(tenant, "fenced")
            turns.finish(outcome, core.world.now)
        scheduler.sleep(0.1 + rng.random() * 1.5)


def rebuilder(core: Core, closing: Closing, name: str) -> None:
    """Rebuild a tenant now and then; what a crash cut off goes on under its name."""
    world, rng = core.world, core.world.scheduler.rng
    while True:
        left = sorted(
            (rebuild, tenant)
            for (rebuild, tenant), part in world.parts.items()
            if rebuild.startswith(name) and part.state in {"waiting", "running"}
        )
        if not left and not closing.now and rng.random() < 0.5:
            rebuild, tenant = RebuildId(f"{name}-{world.number()}"), rng.choice(world.served)
            left = [(rebuild, tenant)]
            with contextlib.suppress(PostgresUnavailable):
                core.registry.register(tenant)
                core.rebuilds.request(
                    rebuild, [tenant], re_embed=world.re_embeds and rng.random() < 0.5
                )
        for rebuild, tenant in left:
            with contextlib.suppress(PostgresUnavailable, ChromaUnavailable):
                core.rebuild.run(rebuild, tenant)
        world.scheduler.sleep(0.5 + rng.random() * core.idle_seconds)


def mender(core: Core, closing: Closing) -> None:
    """Rebuild what is damaged; drop what has ended."""
    world = core.world
    while True:
        with contextlib.suppress(PostgresUnavailable, ChromaUnavailable):
            for tenant in core.registry.damaged():
                core.rebuild_alone(tenant)
            drop_retired(
                core.registry,
                core.index,
                grace_seconds=world.settings.retire_seconds,
                limit=3,
                clock=VirtualClock(world.scheduler),
            )
        world.scheduler.sleep(4.0 + world.scheduler.rng.random() * 4.0)


def forgetter(core: Core, closing: Closing) -> None:
    """Forget a tenant now and then, finish what was cut off, and retire what is empty."""
    world, rng = core.world, core.world.scheduler.rng
    while True:
        world.scheduler.sleep(1.0 + rng.random() * core.idle_seconds * 4.0)
        with contextlib.suppress(PipelineError):
            if not closing.now and rng.random() < 0.5:
                core.forget.run(rng.choice(world.served), delete_memories=rng.random() < 0.8)
            for tenant in [t for t, e in world.erasures.items() if not e.fenced and closing.now]:
                # What only the command may do: a worker never deletes a memory.
                core.forget.run(tenant, delete_memories=True)
            core.forget.resume(idle_seconds=0.0)
        with contextlib.suppress(PipelineError):
            retire_empty(core.erasures, core.outbox, seconds=rng.choice((0.001, 2.0)))


def verifier(core: Core, closing: Closing) -> None:
    """Verify a tenant now and then, and repair what is found; nothing may be invented."""
    world, rng = core.world, core.world.scheduler.rng
    while True:
        world.scheduler.sleep(0.5 + rng.random() * core.idle_seconds)
        tenant = rng.choice(world.served)
        spoilt, damaged = {i for _, i in world.spoilt}, set(world.damaged)
        since = len(world.spoils)
        with contextlib.suppress(PostgresUnavailable, ChromaUnavailable):
            if rng.random() < 0.75 or closing.now:
                verified = core.verify.run(tenant, sample=rng.choice((None, 0)))
            else:
                verified = core.repair.run(tenant, sample=None).before
            # What was spoilt during it may be repaired by now.
            tell_the_truth(world, verified, spoilt.union(world.spoils[since:]), damaged)


def tell_the_truth(
    world: SimulatedWorld,
    verified: Verified,
    spoilt: set[MemoryId],
    damaged: set[TenantId],
) -> None:
    """P8: a finding is about what was spoilt or damaged, and about nothing else."""
    for finding in verified.findings:
        if finding.memory_id is None:
            harmed = finding.tenant in damaged | world.damaged
            known = (finding.kind in {"damaged", "lost"} and harmed) or (
                finding.kind == "lost" and world.server_was_away
            )
        else:
            known = finding.memory_id in spoilt
        if not known:
            world.breaks(f"P8: verify invents {finding.kind} of m{finding.memory_id}")


def searcher(core: Core, closing: Closing) -> None:
    """Search; what is found has to be the tenant's, and to be what Postgres says."""
    world, rng = core.world, core.world.scheduler.rng
    while True:
        world.scheduler.sleep(0.5 + rng.random() * core.idle_seconds)
        tenant = rng.choice(world.served)
        try:
            hits = core.search.search(tenant, "anything", k=8)
        except Corrupt:
            if tenant not in world.damaged:
                world.breaks("P7: a search finds a collection gone")
            continue
        except (PostgresUnavailable, PipelineError):
            continue
        for hit in hits:
            row = world.rows.get(hit.memory_id)
            if row is None or row.tenant != tenant:
                world.breaks(f"P3/P4: {tenant} finds m{hit.memory_id}, which is not there")
            elif hit.memory != parse(row.raw):
                world.breaks(f"P4: {tenant} finds m{hit.memory_id} with another text")


def replayer(core: Core, closing: Closing) -> None:
    """Enqueue memories again, dead letters first: harmless at any time."""
    world, rng = core.world, core.world.scheduler.rng
    while True:
        world.scheduler.sleep(3.0 + rng.random() * 15.0)
        tenant = rng.choice(world.served)
        buried = [i for (t, i), f in world.failures.items() if t == tenant and f.buried]
        ids = buried or [i for i in world.rows if rng.random() < 0.3]
        if not closing.now:
            with contextlib.suppress(PostgresUnavailable):
                core.outbox.enqueue(tenant, ids)


# ---- the application


class Application:
    """States: whatever an application may do to its own table, one statement at a time."""

    def __init__(
        self,
        world: SimulatedWorld,
        statements: int,
        tenants: Sequence[TenantId],
        *,
        many: int,
        pauses_seconds: Sequence[float],
    ) -> None:
        self._world = world
        self._rng = world.scheduler.rng
        self._left = statements
        self._pause_seconds = world.scheduler.rng.choice(pauses_seconds)
        self._tenants = tenants
        self._many = many  # memories, above which it inserts no more
        self.done = False

    def run(self) -> None:
        """Make the statements, with pauses between them."""
        while self._left:
            self._left -= 1
            self.state(WEIGHTS)
            rng = self._rng
            self._world.scheduler.sleep(
                rng.random() * (0.05 if rng.random() < 0.5 else self._pause_seconds)
            )
        self.done = True

    def meddle(self) -> None:
        """Make one statement just before somebody else's step; the rare are not rare there."""
        if self._left:
            self._left -= 1
            self.state(WEIGHTS if self._rng.random() < 0.5 else WEIGHTS_AMID)

    def state(self, weights: Sequence[int]) -> None:
        """Make one statement."""
        rng, rows = self._rng, self._world.rows
        kind = rng.choices(KINDS, weights)[0]
        if kind == "insert" and len(rows) >= self._many:
            kind = "update"
        if kind == "vector" and self._world.re_embeds:
            kind = "update"
        if not rows or kind == "insert":
            self.insert()
            return
        if kind == "truncate":
            self._truncate()
            return
        memory_id = rng.choice(list(rows))
        if kind == "delete":
            self._world.note(f"deletes m{memory_id}")
            self._world.delete(memory_id)
            return
        row = rows[memory_id]
        changes: dict[str, Callable[[], dict[str, Any]]] = {
            "update": self._text,
            "vector": lambda: {"embedding": self._own_vector()},
            "null": lambda: {"embedding": None},
            "move": lambda: self._owner(rng.choice((*self._tenants, None))),
            "project": lambda: {"project_id": f"p{self._world.number()}"},
            "touch": dict,
        }
        if kind == "vector" and POISON_FOR_MODEL in row.raw:
            kind = "update"  # with a vector of its own, no model would be asked about it
        changed = changes[kind]()
        number = self._world.number()
        self._world.note(f"{kind} m{memory_id} {changed if kind != 'vector' else ''}")
        self._world.store(memory_id, replace(row, version=str(number), **changed))

    def insert(self) -> None:
        """Insert; sometimes under an id that was used before, sometimes with a late commit."""
        world, rng = self._world, self._rng
        number = world.number()
        used = [i for i in world.stated if i not in world.rows]
        memory_id = MemoryId(number)
        if used and rng.random() < 0.3:
            memory_id = rng.choice(used)
        tenant, raw = rng.choice(self._tenants), self._raw()
        if rng.random() < 0.15:
            # The number of its change is drawn, and others commit before it does.
            drawn = world.number()
            world.scheduler.at(
                world.now + rng.random() * 2.0, lambda: self._put(tenant, raw, memory_id, drawn)
            )
        else:
            self._put(tenant, raw, memory_id, None)

    def _put(self, tenant: TenantId, raw: str, memory_id: MemoryId, drawn: int | None) -> None:
        world = self._world
        if memory_id not in world.rows:
            world.drawn = drawn
            world.note(f"inserts m{memory_id} of {tenant}: {raw}")
            world.put(tenant, raw, memory_id=memory_id)

    def _truncate(self) -> None:
        """Truncate; sometimes the same transaction writes other memories under the old ids."""
        world, rng = self._world, self._rng
        used = list(world.rows)
        world.note("truncates")
        world.truncate()
        if rng.random() < 0.5:
            for memory_id in used[: rng.randrange(3)]:
                tenant = rng.choice(self._tenants)
                world.note(f"inserts m{memory_id} of {tenant} in the same transaction")
                world.put(tenant, self._raw(), memory_id=memory_id)

    def _owner(self, tenant: TenantId | None) -> dict[str, Any]:
        return {"tenant": tenant, "user_id": tenant}

    def _own_vector(self) -> Vector:
        vector = vector_of(f"own {self._world.number()}")
        self._world.own_vectors.add(vector.tobytes())
        return vector

    def _text(self) -> dict[str, Any]:
        raw = self._raw()
        return {"raw": raw, "embedding": None} if POISON_FOR_MODEL in raw else {"raw": raw}

    def _raw(self) -> str:
        kind = self._rng.random()
        poison = POISON_FOR_MODEL if kind < 0.05 else POISON_FOR_INDEX if kind < 0.1 else "good"
        return f'{{"text": "{poison} {self._world.number()}"}}'


KINDS = ("insert", "update", "delete", "move", "vector", "null", "project", "touch", "truncate")
WEIGHTS = (34, 26, 12, 9, 5, 3, 4, 3, 4)
WEIGHTS_AMID = (0, 10, 10, 10, 10, 5, 5, 0, 20)


# ---- harm


class Vandal:
    """Does to collections what no promise excludes and verify has to find."""

    def __init__(self, world: SimulatedWorld, deeds: int) -> None:
        self._world = world
        self._rng = world.scheduler.rng
        self._deeds = deeds

    def run(self) -> None:
        """Do harm now and then."""
        while True:
            self._world.scheduler.sleep(2.0 + self._rng.random() * 15.0)
            if not self._deeds:
                return
            self._deeds -= 1
            self._harm()

    def stop(self) -> None:
        """Do no more harm."""
        self._deeds = 0

    def meddle(self) -> None:
        """Spoil something just before somebody else's step; what is being built, if anything is."""
        world = self._world
        building = [f.building for f in world.tenants.values() if f.building is not None]
        if not self._deeds or not building:
            return
        self._deeds -= 1
        generation = self._rng.choice(building)
        if generation in world.proven or self._rng.random() < 0.3:
            self._wedge(world.generations[generation].tenant, generation)
        else:
            self._spoil(generation, building=True)

    def wedge_what_is_left(self) -> None:
        """Wedge what is being built; nobody but the batches comes to it any more."""
        for tenant, known in self._world.tenants.items():
            if known.building is not None:
                self._wedge(tenant, known.building)

    def _wedge(self, tenant: TenantId, generation: UUID) -> None:
        self._world.note(f"wedges a collection of {tenant}")
        self._world.damaged.add(tenant)
        self._world.wedged.add(generation)

    def _harm(self) -> None:
        world, rng = self._world, self._rng
        known = [(t, f) for t, f in world.tenants.items() if f.live is not None]
        if not known:
            return
        tenant, found = rng.choice(known)
        chance = rng.random()
        building = found.building is not None and found.building not in world.proven
        generation = found.building if building and rng.random() < 0.7 else found.live
        assert generation is not None
        if chance < 0.12 and world.settings.backup != "off":
            self._lose_the_server()
        elif chance < 0.3 and generation == found.live:
            world.note(f"deletes the collection of {tenant}")
            world.damaged.add(tenant)
            world.collections.pop(world.generations[generation].collection, None)
        elif chance < 0.4:
            self._wedge(tenant, generation)
        else:
            self._spoil(generation, building=generation != found.live)

    def _lose_the_server(self) -> None:
        world = self._world
        world.note("the server is lost, and given up")
        world.damaged.update(world.tenants)
        world.collections.clear()
        lost, world.server = world.server, world.uuid()
        FakeRegistry(world).retire_server(lost)

    def _spoil(self, generation: UUID, *, building: bool) -> None:
        world, rng = self._world, self._rng
        found = world.generations[generation]
        collection = world.collections.get(found.collection)
        if collection is None or not collection.documents:
            return
        name = rng.choice(sorted(collection.documents))
        memory_id = MemoryId(int(name.rpartition("_")[2]))
        if building:
            world.note(f"spoils m{memory_id} in building g{found.id.int}")
        else:
            world.note(f"spoils m{memory_id} in g{found.id.int}")
            world.spoil(found.id, [memory_id])
        document = collection.documents[name]
        row = world.rows.get(memory_id)
        # Where no vector is kept beside the row, no verify can tell that one is wrong.
        kept = row is not None and row.embedding is not None and world.settings.backup == "on"
        kept = kept and memory_id not in world.unbacked
        # Nor does the proof before a flip look at the vectors of more than a few.
        kind = rng.randrange(3 if kept and not building else 2)
        if kind == 0:
            del collection.documents[name]
        elif kind == 1:
            document.text, document.metadata = '{"text": "stale"}', {"hash": "stale"}
        else:
            document.vector = vector_of("spoilt")
