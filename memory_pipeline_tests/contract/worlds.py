"""Both sides of a contract in the words of a test: the world in memory, and Postgres."""

from dataclasses import replace
from typing import Any, Literal, Protocol
from uuid import UUID, uuid4

import psycopg

from memory_pipeline.domain.changes import Claim, ExpectedDifferences
from memory_pipeline.domain.dead_letters import Cause, DeadLetterFilter
from memory_pipeline.domain.outcomes import Failure
from memory_pipeline.domain.types import (
    Generation,
    GenerationState,
    MemoryId,
    Provenance,
    ProvenanceUpdate,
    RebuildId,
    RebuildPart,
    TenantId,
)
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.ports import Lease
from memory_pipeline.postgres.memories import PostgresMemories
from memory_pipeline.rebuild.ports import Rebuilds
from memory_pipeline.settings import Settings
from memory_pipeline_tests.contract.ports import Memories, Outbox, Registry
from memory_pipeline_tests.fakes import (
    FakeLetters,
    FakeMemories,
    FakeOutbox,
    FakeRebuilds,
    FakeRegistry,
    FakeWorld,
)

Backup = Literal["on", "table", "off"]
ADA, BOB = TenantId("ada"), TenantId("bob")
OURS = Provenance("text", "model", "vector")

CHOSEN = {
    "retry_seconds": 2.0,
    "retry_max_seconds": 60.0,
    "max_attempts": 3,
    "batch_size": 4,
    "batch_bytes": 100_000,
}
TABLES = (
    "change",
    "tenant",
    "generation",
    "failure",
    "provenance",
    "rebuild",
    "truncation",
    "vector_backup",
)


class DeadLetters(Protocol):
    """What is done with dead letters."""

    def replay(self, which: DeadLetterFilter) -> int:
        """Have dead letters tried again, with all their attempts; return how many."""
        ...

    def replay_cured(self, cause: Cause) -> int:
        """Replay what was refused under another cause, once for each; return how many."""
        ...

    def waive(self, which: DeadLetterFilter, *, by: str, because: str) -> int:
        """Note that a person lets dead letters be; return how many were not waived before."""
        ...

    def unwaive(self, which: DeadLetterFilter) -> int:
        """Take a waiver back; return of how many."""
        ...


class World(Protocol):
    """What a test needs beside the ports: an application, a clock and a look at the tables."""

    outbox: Outbox
    memories: Memories
    registry: Registry
    rebuilds: Rebuilds
    letters: DeadLetters
    settings: Settings

    def put(self, tenant: str, raw: str = '{"n": 1}', *, memory_id: int | None = None) -> MemoryId:
        """Insert a memory, or change the one with this id."""
        ...

    def touch(self, memory_id: MemoryId) -> None:
        """Write a row again without changing anything but its time."""
        ...

    def with_backup(self, backup: Backup) -> Memories:
        """Return the memories as an installation with this backup sees them."""
        ...

    def refuse_backups(self) -> None:
        """Have the table refuse that vectors are stored."""
        ...

    def expected_differences(self, tenant: TenantId, ids: list[MemoryId]) -> ExpectedDifferences:
        """Tell for which of these memories a document may differ, and why."""
        ...

    def delete(self, memory_id: MemoryId) -> None:
        """Delete a memory."""
        ...

    def truncate(self) -> None:
        """Truncate the table."""
        ...

    def pass_time(self, seconds: float) -> None:
        """Let every deadline come nearer, and all that ended lie further back."""
        ...

    def pending(self, tenant: TenantId) -> int:
        """Count what waits, due or not."""
        ...

    def confirms(self, tenant: TenantId) -> set[int | None]:
        """Return the memories that have a confirm."""
        ...

    def due_tenants(self, *, paused: bool = False) -> list[str]:
        """Tell who has changes to claim, oldest first."""
        ...

    def attempts(self, tenant: TenantId, memory_id: MemoryId) -> tuple[int, bool] | None:
        """Return the failed attempts of a memory, and whether it is buried."""
        ...

    def waived(self, tenant: TenantId, memory_id: MemoryId) -> bool:
        """Whether a memory that failed is waived."""
        ...

    def server(self) -> UUID:
        """Return a Chroma server that is registered."""
        ...

    def retire(self, server: UUID) -> None:
        """Give up a Chroma server whose data is gone."""
        ...

    def damaged(self) -> list[str]:
        """Tell whose collections wait for a rebuild that nobody does."""
        ...

    def ask(self, rebuild: RebuildId, *tenants: TenantId, re_embed: bool = False) -> None:
        """Ask for a rebuild of these tenants."""
        ...

    def state(self, generation: UUID) -> GenerationState:
        """Tell the state that a generation is in."""
        ...

    def counted(self, rebuild: RebuildId, tenant: TenantId) -> tuple[int, int]:
        """Tell how many vectors a part of a rebuild has reused, and how many it has embedded."""
        ...

    def everything(self) -> object:
        """Tell all that the pipeline keeps, to be compared."""
        ...


class FakeSide:
    """The fake behind the test's words."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.world = FakeWorld(settings)
        self.outbox: Outbox = FakeOutbox(self.world)
        self.memories: Memories = FakeMemories(self.world)
        self.registry: Registry = FakeRegistry(self.world)
        self.rebuilds: Rebuilds = FakeRebuilds(self.world)
        self.letters: DeadLetters = FakeLetters(self.world)

    def put(self, tenant: str, raw: str = '{"n": 1}', *, memory_id: int | None = None) -> MemoryId:
        """Insert a memory, or change the one with this id, whose vector stays."""
        before = None if memory_id is None else self.world.rows.get(MemoryId(memory_id))
        vector = before.embedding if before else None
        return self.world.put(tenant, raw, memory_id=memory_id, embedding=vector)

    def touch(self, memory_id: MemoryId) -> None:
        """Write a row again without changing anything but its time."""
        row = self.world.rows[memory_id]
        self.world.store(memory_id, replace(row, version=str(self.world.number())))

    def with_backup(self, backup: Backup) -> Memories:
        """Return the memories as an installation with this backup sees them."""
        self.world.settings = self.world.settings.model_copy(update={"backup": backup})
        return self.memories

    def refuse_backups(self) -> None:
        """Have the table refuse that vectors are stored."""
        self.world.refuses_backup = lambda _: True

    def expected_differences(self, tenant: TenantId, ids: list[MemoryId]) -> ExpectedDifferences:
        """Tell for which of these memories a document may differ, and why."""
        return FakeOutbox(self.world).expected_differences(tenant, ids)

    def delete(self, memory_id: MemoryId) -> None:
        """Delete a memory."""
        self.world.delete(memory_id)

    def truncate(self) -> None:
        """Truncate the table."""
        self.world.truncate()

    def pass_time(self, seconds: float) -> None:
        """Let every deadline come nearer, and all that ended lie further back."""
        self.world.now += seconds

    def pending(self, tenant: TenantId) -> int:
        """Count what waits, due or not."""
        return FakeOutbox(self.world).pending(tenant)

    def confirms(self, tenant: TenantId) -> set[int | None]:
        """Return the memories that have a confirm."""
        changes = self.world.changes.values()
        return {c.memory_id for c in changes if c.confirm and c.tenant == tenant}

    def due_tenants(self, *, paused: bool = False) -> list[str]:
        """Tell who has changes to claim, oldest first."""
        return list(FakeOutbox(self.world).pending_tenants(paused=paused))

    def attempts(self, tenant: TenantId, memory_id: MemoryId) -> tuple[int, bool] | None:
        """Return the failed attempts of a memory, and whether it is buried."""
        found = self.world.failures.get((tenant, memory_id))
        return None if found is None else (found.attempts, found.buried)

    def waived(self, tenant: TenantId, memory_id: MemoryId) -> bool:
        """Whether a memory that failed is waived."""
        return self.world.failures[tenant, memory_id].waived

    def server(self) -> UUID:
        """Return a Chroma server that is registered."""
        return self.world.server

    def retire(self, server: UUID) -> None:
        """Give up a Chroma server whose data is gone."""
        FakeRegistry(self.world).retire_server(server)

    def damaged(self) -> list[str]:
        """Tell whose collections wait for a rebuild that nobody does."""
        return list(FakeRegistry(self.world).damaged())

    def ask(self, rebuild: RebuildId, *tenants: TenantId, re_embed: bool = False) -> None:
        """Ask for a rebuild of these tenants."""
        FakeRebuilds(self.world).request(rebuild, tenants, re_embed=re_embed)

    def state(self, generation: UUID) -> GenerationState:
        """Tell the state that a generation is in."""
        return self.world.generations[generation].state

    def counted(self, rebuild: RebuildId, tenant: TenantId) -> tuple[int, int]:
        """Tell how many vectors a part of a rebuild has reused, and how many it has embedded."""
        part = self.world.parts[rebuild, tenant]
        return part.reused, part.embedded

    def everything(self) -> object:
        """Tell all that the pipeline keeps, to be compared."""
        world = self.world
        kept = (world.changes, world.tenants, world.generations, world.ended, world.failures)
        return repr((*kept, world.provenance, world.parts, world.truncations))


class RealSide:
    """Postgres behind the test's words; its clock is moved by moving every deadline."""

    def __init__(self, pipeline: Pipeline, db: psycopg.Connection) -> None:
        self.settings = pipeline.settings
        self.outbox: Outbox = pipeline.outbox
        self.memories: Memories = pipeline.memories
        self.registry: Registry = pipeline.registry
        self.rebuilds: Rebuilds = pipeline.rebuilds
        self.letters: DeadLetters = pipeline.dead_letters
        self._pipeline = pipeline
        self._db = db

    def put(self, tenant: str, raw: str = '{"n": 1}', *, memory_id: int | None = None) -> MemoryId:
        """Insert a memory, or change the one with this id."""
        row = self._db.execute(
            "INSERT INTO memory_logs (id, user_id, raw_data) VALUES"
            " (coalesce(%(id)s, nextval(pg_get_serial_sequence('memory_logs', 'id'))),"
            " %(tenant)s, %(raw)s::jsonb)"
            " ON CONFLICT (id) DO UPDATE SET user_id = EXCLUDED.user_id,"
            " raw_data = EXCLUDED.raw_data RETURNING id",
            {"id": memory_id, "tenant": tenant, "raw": raw},
        ).fetchone()
        assert row is not None
        return MemoryId(row[0])

    def touch(self, memory_id: MemoryId) -> None:
        """Write a row again without changing anything but its time."""
        self._db.execute("UPDATE memory_logs SET updated_at = now() WHERE id = %s", (memory_id,))

    def with_backup(self, backup: Backup) -> Memories:
        """Return the memories as an installation with this backup sees them."""
        settings = self.settings.model_copy(update={"backup": backup})
        return PostgresMemories(self._pipeline.database, settings)

    def refuse_backups(self) -> None:
        """Have the table refuse that vectors are stored."""
        self._db.execute(
            "ALTER TABLE memory_logs ADD CONSTRAINT no_vectors CHECK (embedding IS NULL) NOT VALID"
        )

    def expected_differences(self, tenant: TenantId, ids: list[MemoryId]) -> ExpectedDifferences:
        """Tell for which of these memories a document may differ, and why."""
        return self._pipeline.outbox.expected_differences(tenant, ids)

    def delete(self, memory_id: MemoryId) -> None:
        """Delete a memory."""
        self._db.execute("DELETE FROM memory_logs WHERE id = %s", (memory_id,))

    def truncate(self) -> None:
        """Truncate the table."""
        self._db.execute("TRUNCATE memory_logs")

    def pass_time(self, seconds: float) -> None:
        """Let every deadline come nearer, and all that ended lie further back."""
        for table, column in (
            ("tenant", "lease_until"),
            ("tenant", "retry_at"),
            ("tenant", "last_synced_at"),
            ("change", "not_before"),
            ("rebuild", "owned_until"),
            ("generation", "ended_at"),
        ):
            self._db.execute(
                f"UPDATE memory_pipeline.{table}"
                f" SET {column} = {column} - make_interval(secs => %s)".encode(),
                (seconds,),
            )

    def pending(self, tenant: TenantId) -> int:
        """Count what waits, due or not."""
        return self._pipeline.outbox.pending(tenant)

    def confirms(self, tenant: TenantId) -> set[int | None]:
        """Return the memories that have a confirm."""
        rows = self._db.execute(
            "SELECT memory_id FROM memory_pipeline.change WHERE confirm AND tenant = %s", (tenant,)
        )
        return {row[0] for row in rows}

    def due_tenants(self, *, paused: bool = False) -> list[str]:
        """Tell who has changes to claim, oldest first."""
        return [p.tenant for p in self._pipeline.outbox.pending_tenants(paused=paused)]

    def attempts(self, tenant: TenantId, memory_id: MemoryId) -> tuple[int, bool] | None:
        """Return the failed attempts of a memory, and whether it is buried."""
        row = self._db.execute(
            "SELECT attempts, buried_at IS NOT NULL FROM memory_pipeline.failure"
            " WHERE tenant = %s AND memory_id = %s",
            (tenant, memory_id),
        ).fetchone()
        return None if row is None else (row[0], row[1])

    def waived(self, tenant: TenantId, memory_id: MemoryId) -> bool:
        """Whether a memory that failed is waived."""
        waived: bool = self._one(
            "SELECT waived_at IS NOT NULL FROM memory_pipeline.failure"
            " WHERE tenant = %s AND memory_id = %s",
            tenant,
            memory_id,
        )[0]
        return waived

    def server(self) -> UUID:
        """Return a Chroma server that is registered."""
        server = uuid4()
        self._pipeline.registry.register_server(server, "http://127.0.0.1:1")
        return server

    def retire(self, server: UUID) -> None:
        """Give up a Chroma server whose data is gone."""
        self._pipeline.registry.retire_server(server)

    def damaged(self) -> list[str]:
        """Tell whose collections wait for a rebuild that nobody does."""
        return list(self._pipeline.registry.damaged())

    def ask(self, rebuild: RebuildId, *tenants: TenantId, re_embed: bool = False) -> None:
        """Ask for a rebuild of these tenants."""
        self._pipeline.rebuilds.request(rebuild, tenants, re_embed=re_embed)

    def state(self, generation: UUID) -> GenerationState:
        """Tell the state that a generation is in."""
        found: GenerationState = self._one(
            "SELECT state FROM memory_pipeline.generation WHERE id = %s", generation
        )[0]
        return found

    def counted(self, rebuild: RebuildId, tenant: TenantId) -> tuple[int, int]:
        """Tell how many vectors a part of a rebuild has reused, and how many it has embedded."""
        written, reused, embedded = self._one(
            "SELECT written, reused, embedded FROM memory_pipeline.rebuild"
            " WHERE id = %s AND tenant = %s",
            rebuild,
            tenant,
        )
        assert written == reused + embedded
        return reused, embedded

    def everything(self) -> object:
        """Tell all that the pipeline keeps, to be compared."""
        return {
            table: sorted(map(repr, self._db.execute(f"TABLE memory_pipeline.{table}".encode())))
            for table in TABLES
        }

    def _one(self, query: str, *values: object) -> tuple[Any, ...]:
        row = self._db.execute(query.encode(), values).fetchone()
        assert row is not None
        return row


def taken(world: World, tenant: TenantId = ADA) -> Lease:
    """Take a tenant's lease, which has to be free."""
    lease = world.outbox.acquire_lease(tenant)
    assert lease is not None
    return lease


def ack(
    world: World,
    lease: Lease,
    claim: Claim,
    *,
    failures: tuple[Failure, ...] = (),
    missed: tuple[MemoryId, ...] = (),
    recheck: tuple[MemoryId, ...] = (),
) -> int:
    """Ack everything of a claim that neither failed nor was missed."""
    apart = {*missed, *(f.memory_id for f in failures)}
    return world.outbox.ack(
        lease,
        claim,
        landed={i: ProvenanceUpdate(OURS) for i in claim.memory_ids if i not in apart},
        failures=failures,
        missed=missed,
        recheck=recheck,
    )


def drained(world: World, tenant: TenantId = ADA) -> list[MemoryId]:
    """Claim and ack until nothing is due; return what was claimed, in order."""
    lease = taken(world, tenant)
    seen: list[MemoryId] = []
    while (claim := world.outbox.claim(lease)).changes:
        seen.extend(claim.memory_ids)
        ack(world, lease, claim)
    world.outbox.release_lease(lease)
    return seen


def begun(world: World, tenant: TenantId = ADA, *, server: UUID | None = None) -> Generation:
    """Note a generation, and name a collection for it that nobody looks for."""
    generation = world.registry.begin_generation(
        tenant, server or world.server(), model="model", config_hash="config", memories=0
    )
    return replace(generation, collection_id=uuid4())


def went_live(world: World, tenant: TenantId = ADA) -> Generation:
    """Make a tenant's first generation live, and do its reset and all that waits."""
    lease, generation = taken(world, tenant), begun(world, tenant)
    world.registry.flip_first(lease, generation)
    world.outbox.release_lease(lease)
    drained(world, tenant)
    return generation


def damage(world: World, tenant: TenantId = ADA) -> None:
    """Find a tenant's live generation damaged."""
    live = world.registry.live(tenant)
    assert live is not None
    lease = taken(world, tenant)
    world.registry.abandon(lease, live.id)
    world.outbox.release_lease(lease)


def owned(world: World, rebuild: str = "r", tenant: TenantId = ADA) -> RebuildPart:
    """Ask for a rebuild and become the owner of a tenant's part, which has to be free."""
    world.ask(RebuildId(rebuild), tenant)
    build = world.rebuilds.acquire_part(RebuildId(rebuild), tenant)
    assert build is not None
    return build


def registered(world: World, build: RebuildPart, *, server: UUID | None = None) -> Generation:
    """Begin a generation for a part of a rebuild and make it the building one."""
    generation = begun(world, build.tenant, server=server)
    lease = taken(world, build.tenant)
    world.rebuilds.register_building(build, lease, generation)
    world.rebuilds.return_lease(lease)
    return generation


def flipped(world: World, build: RebuildPart, generation: Generation) -> None:
    """Flip to what a rebuild has filled."""
    world.rebuilds.flip(build, taken(world, build.tenant), generation, memories=0)
