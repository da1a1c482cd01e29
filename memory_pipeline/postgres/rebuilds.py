"""Rebuilds in Postgres: a part a tenant, its owner, its checkpoint. One transaction a method."""

from collections.abc import Mapping, Sequence
from uuid import uuid4

import psycopg

from memory_pipeline.domain.status import LastRebuild, Progress
from memory_pipeline.domain.types import (
    Checkpoint,
    Generation,
    MemoryId,
    ProvenanceUpdate,
    RebuildId,
    RebuildPart,
    TenantId,
)
from memory_pipeline.errors import Fenced
from memory_pipeline.ports import Lease
from memory_pipeline.postgres.clock_steps import ClockSteps
from memory_pipeline.postgres.database import Database, queries
from memory_pipeline.postgres.flip import flip
from memory_pipeline.postgres.outbox import record_provenance
from memory_pipeline.settings import Settings

LOST = "the lease or the ownership of this rebuild part is lost, or the generation was abandoned"


class PostgresRebuilds:
    """The parts of rebuilds, one a tenant. Each has one owner, which must renew its ownership.

    Ownership lasts as long as a request to Chroma may still arrive: a process that takes over from
    a dead owner can write its last chunk again without another wait.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._clock_steps = ClockSteps(database, settings)
        self._seconds = max(
            settings.lease_seconds, settings.request_seconds + settings.grace_seconds
        )

    @property
    def redo_seconds(self) -> float:
        """Seconds before a chunk with an unknown outcome may be written again."""
        return self._seconds

    def request(self, rebuild: RebuildId, tenants: Sequence[TenantId], *, re_embed: bool) -> None:
        """Record which tenants a rebuild is for; parts that exist stay as they are."""
        with self._database.transaction() as connection:
            queries().request_rebuild(
                connection, id=rebuild, tenants=list(tenants), re_embed=re_embed
            )

    def acquire_part(self, rebuild: RebuildId, tenant: TenantId) -> RebuildPart | None:
        """Become the owner of a tenant's part; None where it is done or has another owner."""
        self._clock_steps.shorten_waits()
        owner = uuid4().hex
        try:
            with self._database.transaction() as connection:
                queries().fail_dead_parts(connection, id=rebuild, tenant=tenant)
                owned = queries().acquire_part(
                    connection, id=rebuild, tenant=tenant, owner=owner, seconds=self._seconds
                )
        except psycopg.errors.UniqueViolation:  # another process was first
            return None
        return None if owned is None else RebuildPart(rebuild, tenant, owner, owned.re_embed)

    def part_state(self, rebuild: RebuildId, tenant: TenantId) -> str | None:
        """Return the state of a tenant's part: waiting, running, done or failed."""
        with self._database.transaction() as connection:
            found: str | None = queries().part_state(connection, id=rebuild, tenant=tenant)
        return found

    def renew_part(self, part: RebuildPart) -> None:
        """Renew the ownership of a part. Raises Fenced where another process owns it by now."""
        with self._database.transaction() as connection:
            _one(queries().renew_part(connection, **_part(part), seconds=self._seconds))

    def checkpoint(self, generation: Generation) -> Checkpoint:
        """Return how far a building generation was filled."""
        with self._database.transaction() as connection:
            row = queries().checkpoint(
                connection, tenant=generation.tenant, generation=generation.id
            )
        return Checkpoint() if row is None else Checkpoint(row.through, row.re_embed)

    def resume_part(
        self, part: RebuildPart, generation: Generation, checkpoint: Checkpoint
    ) -> None:
        """Continue a generation from its checkpoint. Raises Fenced."""
        with self._database.transaction() as connection:
            _one(
                queries().resume_part(
                    connection, **_part(part), generation=generation.id, through=checkpoint.through
                )
            )

    def register_building(self, part: RebuildPart, lease: Lease, generation: Generation) -> None:
        """Make a generation the tenant's building one: from this commit every batch writes it.

        Raises:
            Fenced: the lease or the part is lost, or another generation is building.

        """
        with self._database.transaction() as connection:
            _one(
                queries().register_building(
                    connection,
                    **_part(part),
                    token=lease.token,
                    generation=generation.id,
                    collection_id=generation.collection_id,
                )
            )

    def may_fill(self, part: RebuildPart, lease: Lease, generation: Generation) -> bool:
        """Whether this generation is still the one to fill, by this owner, under this lease."""
        with self._database.transaction() as connection:
            return bool(
                queries().may_fill(
                    connection, **_part(part), token=lease.token, generation=generation.id
                )
            )

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
        """Record a chunk as done, enqueue the rechecks, release the lease.

        Args:
            part: the owner's part.
            lease: under which the chunk was written.
            generation: to which it was written.
            through: the last id of the chunk.
            provenance: of the vectors that were written and had none.
            recheck: memories of the chunk that a batch has to write.
            landed: memories whose documents were written; a memory that failed before is
                rechecked.
            embedded: how many of these had to be embedded.

        Raises:
            Fenced: the lease is lost, the generation was abandoned, or the part has another
                owner: nothing was recorded, and the chunk has to be written again after a pause.

        """
        with self._database.transaction() as connection:
            if recheck:
                queries().enqueue(connection, tenant=part.tenant, memory_ids=sorted(set(recheck)))
            if provenance:
                record_provenance(connection, provenance)
            # Not cleared: this generation may still be abandoned. A batch writes them to live too.
            queries().recheck_failures(connection, tenant=part.tenant, memory_ids=list(landed))
            _one(
                queries().record_chunk(
                    connection,
                    **_part(part),
                    token=lease.token,
                    generation=generation.id,
                    through=through,
                    written=len(landed),
                    reused=len(landed) - embedded,
                    embedded=embedded,
                    seconds=self._seconds,
                )
            )

    def flip(
        self, part: RebuildPart, lease: Lease, generation: Generation, *, memories: int
    ) -> None:
        """Switch searches to the building generation; retire the old one.

        Raises:
            Fenced: the lease or the part is lost, or the generation was abandoned.

        """
        with self._database.transaction() as connection:
            if not flip(connection, part, lease, generation, memories=memories):
                raise Fenced(LOST)
            # The changes of deleted memories may have been covered by this rebuild.
            queries().forget_failures_of_gone(connection, tenant=part.tenant)

    def return_lease(self, lease: Lease) -> None:
        """Release a lease under which no sync took place. Harmless when it is lost."""
        with self._database.transaction() as connection:
            queries().return_lease(connection, tenant=lease.tenant, token=lease.token)

    def release_part(self, part: RebuildPart) -> None:
        """Leave a part to the process that continues it; no request may still be on its way."""
        with self._database.transaction() as connection:
            queries().release_part(connection, **_part(part))

    def fail_part(self, part: RebuildPart, error: str) -> None:
        """Close a part that failed; its generation stays for the next attempt."""
        with self._database.transaction() as connection:
            queries().fail_part(connection, **_part(part), error=error[:500])

    def unfinished(self, prefix: str) -> tuple[RebuildId, bool] | None:
        """Return the newest rebuild with this prefix that was cut off, and its re_embed."""
        with self._database.transaction() as connection:
            row = queries().unfinished(connection, prefix=prefix)
        return None if row is None else (RebuildId(row.id), bool(row.re_embed))

    def progress(self, rebuild: RebuildId) -> Progress:
        """Return the progress of a rebuild."""
        with self._database.transaction() as connection:
            return Progress(*queries().progress(connection, id=rebuild))

    def last(self, tenants: Sequence[TenantId]) -> list[LastRebuild]:
        """Return how the newest rebuild of each of these tenants ended, where there was one."""
        with self._database.transaction() as connection:
            rows = queries().last_rebuilds(connection, tenants=list(tenants))
            return [LastRebuild(*row) for row in rows]


def _part(part: RebuildPart) -> dict[str, str]:
    return {"id": part.rebuild, "tenant": part.tenant, "owner": part.owner}


def _one(changed: int) -> None:
    if changed != 1:
        raise Fenced(LOST)
