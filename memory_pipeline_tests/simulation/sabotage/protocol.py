"""Guards of the protocol's model that none of the essential bugs takes away."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from memory_pipeline.content.document import compose, parse
from memory_pipeline.domain.changes import Claim
from memory_pipeline.domain.types import (
    Generation,
    Memory,
    MemoryId,
    Provenance,
    TenantId,
    Token,
    Vector,
)
from memory_pipeline.ports import Lease
from memory_pipeline.rebuild.chunks import ChunkWriter, CurrentChunk
from memory_pipeline.rebuild.ownership import Ownership
from memory_pipeline.search.query import Search, _Candidate
from memory_pipeline.sync.plan import EmbeddedDraft
from memory_pipeline_tests.fakes import (
    FakeLease,
    FakeMemories,
    FakeOutbox,
    FakeRebuilds,
)
from memory_pipeline_tests.simulation.sabotage.planting import (
    BUGS,
    RENEWED,
    _unfenced,
    bug,
    instead,
)


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
    with patch.object(
        ChunkWriter, "_current", lambda _self, _tenant, drafts: CurrentChunk(tuple(drafts), ())
    ):
        yield


@bug(
    "rows of a chunk that moved are not read again",
    "a row that moved is read again, not left out",
    behind="the proof before the flip finds what is missing",
)
def _not_read_again() -> Iterator[None]:
    def current(
        self: ChunkWriter, tenant: TenantId, drafts: Sequence[EmbeddedDraft]
    ) -> CurrentChunk:
        now = self.memories.versions([d.memory.id for d in drafts])
        unmoved = (d for d in drafts if now.get(d.memory.id) == (tenant, d.memory.version))
        return CurrentChunk(tuple(unmoved), ())

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
    with patch.object(Ownership, "wait_for_sent_requests", lambda self: self.clock.sleep(0.1)):
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
            return FakeLease(world, tenant, Token(known.token))

    # Where they were told apart by their leases' ends alone, most would be fenced after all.
    with patch.object(FakeOutbox, "acquire_lease", take), BUGS[RENEWED].plant():
        yield


@bug("search trusts the index", "search asks Postgres whose each hit is")
def _trusting_search() -> Iterator[None]:
    def confirmed(self: Search, tenant: TenantId, matches: Any, condition: Any) -> Any:
        rows = self._memories.read([m.memory_id for m in matches])[0]  # type: ignore[attr-defined]
        found = [(m, rows[m.memory_id]) for m in matches if m.memory_id in rows]
        return [_Candidate(m, row, compose(row, self._recipe)).hit() for m, row in found]

    with patch.object(Search, "_confirm", confirmed):
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

    with instead(Search, "_confirm", made):
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

            self._registry = Cached()
            try:
                return search(self, tenant, *args, **kwargs)
            finally:
                self._registry = registry

        return cached

    with instead(Search, "search", made):
        yield
