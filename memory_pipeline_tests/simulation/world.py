"""The world of a simulation: the fakes, where every step may be the last, and what was done to it.

It remembers what no promise covers: documents that were spoilt by hand, requests that landed later
than the grace. All the rest the promises are held to.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from hashlib import blake2b
from typing import Protocol
from uuid import UUID

import numpy as np

from memory_pipeline.domain.changes import Claim
from memory_pipeline.domain.outcomes import Failure
from memory_pipeline.domain.types import (
    DIMENSION,
    Document,
    Generation,
    Memory,
    MemoryId,
    MetadataValue,
    Provenance,
    ProvenanceUpdate,
    TenantId,
    Vector,
)
from memory_pipeline.errors import EmbedderUnavailable, PipelineError, Poison
from memory_pipeline.ports import Lease, RenewLease
from memory_pipeline.settings import Settings
from memory_pipeline_tests.fakes import (
    FakeChange,
    FakeIndex,
    FakeMemories,
    FakeOutbox,
    FakeWorld,
    Fault,
    Step,
)
from memory_pipeline_tests.simulation.scheduler import Crashed, Scheduler

# What a memory says when the model, or the index, refuses it.
POISON_FOR_MODEL = "poison-model"
POISON_FOR_INDEX = "poison-index"
BEYOND_SHARE = 0.3
BEYOND_SECONDS = 30.0
NOTHING_WRONG = Step(None)
# Steps that only look, or only hold: what a promise is judged by is the same after them.
READ_STEPS = frozenset(
    {
        "embedder.embed",
        "embedder.load",
        "erasures.empty_tenants",
        "erasures.generations",
        "erasures.pending",
        "erasures.traces",
        "erasures.unknown",
        "index.count",
        "index.generations_of",
        "index.fetch",
        "index.hashes",
        "index.unreachable_by_vector",
        "index.reachable_ids",
        "index.pages",
        "index.prime",
        "index.query",
        "index.unreachable",
        "lease.renew",
        "memories.count",
        "memories.get",
        "memories.ids",
        "memories.read",
        "memories.versions",
        "outbox.has_due_changes",
        "outbox.expected_differences",
        "outbox.newest_seq",
        "outbox.pending",
        "outbox.pending_tenants",
        "rebuilds.may_fill",
        "rebuilds.checkpoint",
        "rebuilds.renew_part",
        "rebuilds.part_state",
        "registry.building",
        "registry.damaged",
        "registry.droppable",
        "registry.live",
        "registry.servers",
        "registry.serves_others",
    }
)


class Faults(Protocol):
    """What goes wrong."""

    def meddle(self) -> None:
        """Let the application, or whoever does harm, act."""
        ...

    def at(self, step: str) -> Fault | None:
        """Tell what goes wrong at this step of whoever is current; may pause or kill it."""
        ...


class NoFaults:
    """Nothing goes wrong."""

    def meddle(self) -> None:
        """Do nothing."""

    def at(self, step: str) -> Fault | None:
        """Tell that nothing does."""


class SimulatedWorld(FakeWorld):
    """Rows, outbox and collections whose every step lets others act first."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self._uuids = 0
        super().__init__(settings)
        self.scheduler = Scheduler(seed, self)
        self.faults: Faults = NoFaults()
        self.trace: list[tuple[float, str, str]] = []
        self.broken: list[str] = []
        self.doing = ""  # the step that is done now
        self.touched = True  # whether anything was done but looking, since all was judged last
        self.trust = True
        self.served: Sequence[TenantId] = ()  # whom the application writes for
        # Whether rebuilds may compute every vector anew: over the application's own, where it has
        # any, and before the live documents have them.
        self.re_embeds = False
        self.own_vectors: set[bytes] = set()  # that the application has set
        # Whose newest vector is not kept: refused, or the row was in other hands for too long.
        self.unbacked: set[MemoryId] = set()
        # Spoilt by hand or by a request that landed later than the grace, and not mended since.
        self.spoilt: set[tuple[UUID, MemoryId]] = set()
        self.spoils: list[MemoryId] = []  # all that ever were, mended or not, in their order
        self.damaged: set[TenantId] = set()  # whose collections were damaged by hand
        self.server_was_away = False  # whether it ever seemed to have lost its data
        self.wedged: set[UUID] = set()  # generations that refuse every write
        self.proven: set[UUID] = set()  # generations that a verify has begun to look at
        self.ever_poison: set[MemoryId] = set()
        self.stated: dict[MemoryId, int] = {}  # the version that the application wrote last
        self.beyond_the_grace = False  # whether requests may land later than that
        self._landing_beyond = False
        self.frozen_until = 0.0  # by then nobody sleeps any more who holds something old
        self.on_their_way = 0  # requests whose senders were told that they failed
        self.drawn: int | None = None  # the number of the next change

    def uuid(self) -> UUID:
        """Draw an id, the same in every run of a seed."""
        self._uuids += 1
        return UUID(int=self._uuids)

    def note(self, what: str) -> None:
        """Note what happens, for whoever reads the schedule of a seed that failed."""
        self.touched = True
        actor = self.scheduler.current
        self.trace.append((self.now, actor.name if actor else "world", what))

    def breaks(self, promise: str) -> None:
        """Note that a promise is broken."""
        self.broken.append(promise)

    def step(self, name: str) -> Step:
        """Let others act; then do the step, unless something goes wrong."""
        actor = self.scheduler.current
        if actor is None:  # the test itself looks
            return NOTHING_WRONG
        if actor.process.dead:
            raise Crashed
        self.scheduler.sleep(self.scheduler.rng.random() * actor.process.pace_seconds)
        fault = self.faults.at(name)
        self.doing = name
        self.touched = self.touched or name not in READ_STEPS
        self.trace.append((self.now, actor.name, name))
        return NOTHING_WRONG if fault is None else Step(fault)

    def send_late(self, land: Callable[[], None]) -> None:
        """Have a request land while its sender has given it up, but within the grace."""
        actor = self.scheduler.current
        if actor is None:
            raise AssertionError("only an actor sends")
        latest = actor.held_at + self.settings.request_seconds + self.settings.grace_seconds
        when = self.now + max(0.0, latest - self.now) * self.scheduler.rng.random()
        beyond = self.beyond_the_grace and self.scheduler.rng.random() < BEYOND_SHARE
        if beyond:
            when = latest + self.scheduler.rng.random() * BEYOND_SECONDS

        def arrive() -> None:
            self.note(f"a request of {actor.name} lands {'beyond the grace' if beyond else 'late'}")
            self.on_their_way -= 1
            self._landing_beyond = beyond
            with suppress(PipelineError):  # nobody is left to hear of it
                land()
            self._landing_beyond = False

        self.on_their_way += 1
        self.scheduler.at(when, arrive)
        # It matters only where something else is written before it lands.
        for _ in range(self.scheduler.rng.randrange(3)):
            share = self.scheduler.rng.random() ** 2
            self.scheduler.at(self.now + (when - self.now) * share, self.faults.meddle)

    def spoil(self, generation: UUID, ids: Collection[MemoryId]) -> None:
        """Take note that these are not what they should be, and nobody knows of it."""
        self.spoilt |= {(generation, i) for i in ids}
        self.spoils += ids

    def landed(self, generation: UUID, ids: Collection[MemoryId], *, add_only: bool) -> None:
        """Take note of a write: what it brings is as right as what was sent."""
        keys = {(generation, i) for i in ids}
        if self._landing_beyond:
            self.spoil(generation, ids)
        elif self.spoilt and not add_only:
            self.spoilt -= keys

    def enqueue(
        self, tenant: TenantId, memory_id: MemoryId | None, *, recheck: bool = False
    ) -> None:
        """Append a change; one whose number was drawn long before comes before others."""
        self.touched = True  # a look enqueues what a TRUNCATE is for
        drawn, self.drawn = self.drawn, None
        if drawn is None:
            super().enqueue(tenant, memory_id, recheck=recheck)
            return
        self.changes[drawn] = FakeChange(drawn, tenant, memory_id, recheck=recheck, since=self.now)
        self.changes = dict(sorted(self.changes.items()))

    def refuses(self, row: Memory) -> bool:
        """Say whether this memory can be indexed by nobody, as it stands."""
        return POISON_FOR_INDEX in row.raw or POISON_FOR_MODEL in row.raw

    def store(self, memory_id: MemoryId, row: Memory | None) -> None:
        """Change a row, and remember whether it was ever poison."""
        before = self.rows.get(memory_id)
        if before is None or row is None or before.embedding is not row.embedding:
            self.unbacked.discard(memory_id)
        if row is not None:
            self.stated[memory_id] = int(row.version)
            if "poison" in row.raw:
                self.ever_poison.add(memory_id)
        super().store(memory_id, row)


class SimulatedIndex(FakeIndex):
    """Collections that can be damaged, wedged, and lost with their server."""

    world: SimulatedWorld

    def pages(
        self, generation: Generation, *, renew: RenewLease
    ) -> Iterator[list[tuple[str, Mapping[str, MetadataValue]]]]:
        """Walk through a collection; note that it is looked at."""
        self.world.proven.add(generation.id)
        yield from super().pages(generation, renew=renew)

    def control_write(self, generation: Generation, *, renew: RenewLease) -> None:
        """Send a write that changes nothing; a wedged collection refuses even that."""
        if generation.id in self.world.wedged:
            renew()
            with self.world.step("index.control_write"):
                raise Poison("it refuses everything")
        super().control_write(generation, renew=renew)

    def _refuse(self, generation: Generation, documents: Sequence[Document]) -> None:
        if generation.id in self.world.wedged:
            raise Poison("it refuses everything")
        for document in documents:
            if POISON_FOR_INDEX in (document.text or ""):
                raise Poison("it cannot be indexed")

    def _apply(
        self,
        generation: Generation,
        documents: Sequence[Document],
        deletes: Sequence[MemoryId],
        *,
        add_only: bool,
    ) -> None:
        world = self.world
        super()._apply(generation, documents, deletes, add_only=add_only)
        texts = {d.memory_id: d.text for d in documents}
        world.note(f"g{generation.id.int} gets {texts}, loses {[*deletes]}")
        world.landed(generation.id, {*texts, *deletes}, add_only=add_only)


class SimulatedOutbox(FakeOutbox):
    """The outbox, with a witness of what is acked and under which token."""

    world: SimulatedWorld

    def claim(self, lease: Lease) -> Claim:
        """Claim; note what."""
        claim = super().claim(lease)
        if claim.changes:
            changes = [(c.seq, c.memory_id) for c in claim.changes]
            targets = [g.id.int for g in claim.targets]
            self.world.note(f"t{lease.token} of {lease.tenant} claims {changes} for {targets}")
        return claim

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
        """Ack; tell where the token was dead."""
        world = self.world
        buried = super().ack(
            lease, claim, landed=landed, failures=failures, missed=missed, recheck=recheck
        )
        refused = [f.memory_id for f in failures]
        world.note(f"t{lease.token} acks {[*landed]}, refused {refused}, missed {[*missed]}")
        tenant = world.tenants[lease.tenant]
        if tenant.token != lease.token or tenant.lease_until <= world.now:
            world.breaks(f"P1: an ack of {lease.tenant} under the dead token {lease.token}")
        return buried


class SimulatedMemories(FakeMemories):
    """Rows whose backup is checked against what the application has."""

    world: SimulatedWorld

    def back_up(
        self, vectors: dict[MemoryId, tuple[Memory, Vector, Provenance]]
    ) -> frozenset[MemoryId]:
        """Store vectors; tell where that was done over what the application had set since."""
        done, world = super().back_up(vectors), self.world
        stores = world.settings.backup == "on"
        for i, (read, _, _) in vectors.items():
            if not stores or i not in done or world.refuses_backup(i):
                world.unbacked.add(i)
                continue
            world.unbacked.discard(i)
            if world.stated.get(i, 0) > int(read.version):
                world.breaks(f"P6: the backup of m{i} went over what the application set")
        return done


class SimulatedEmbedder:
    """A model that embeds, refuses, is cold, or is not there."""

    model = "simulated"

    def __init__(self, world: SimulatedWorld, *, loaded: bool) -> None:
        self._world = world
        self.loaded = loaded

    def load(self) -> None:
        """Load the model."""
        with self._world.step("embedder.load"):
            self.loaded = True

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Return one vector a text; refuse the texts that are poison."""
        with self._world.step("embedder.embed"):
            if not self.loaded:
                raise EmbedderUnavailable("the model is not loaded")
            if any(POISON_FOR_MODEL in text for text in texts):
                raise Poison("the model refuses it")
            return [vector_of(text) for text in texts]


@lru_cache(maxsize=4096)
def vector_of(text: str) -> Vector:
    """Return the vector of a text: another text, another direction."""
    at = int.from_bytes(blake2b(text.encode(), digest_size=4).digest(), "big")
    vector: Vector = np.zeros(DIMENSION, dtype=np.float32)
    vector[at % DIMENSION] = 1.0
    vector[(at // DIMENSION) % DIMENSION] += 0.5
    return vector


def same_vector(one: Vector | None, other: Vector | None) -> bool:
    """Say whether two vectors are one."""
    return one is other or (one is not None and other is not None and np.array_equal(one, other))
