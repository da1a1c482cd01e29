"""Rebuilds in Postgres: which tenants, how far, by whom. Each method is one short transaction."""

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
from memory_pipeline.postgres.database import Database, queries
from memory_pipeline.postgres.outbox import record_provenance
from memory_pipeline.settings import Settings


class PostgresRebuilds:
    """The parts of rebuilds, one a tenant. Each has one owner, who has to go on saying so.

    Ownership lasts as long as a request to Chroma may be on its way: who takes over a part whose
    owner has died can do its last chunk again without another wait.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._seconds = max(
            settings.lease_seconds, settings.request_seconds + settings.grace_seconds
        )

    @property
    def redo_seconds(self) -> float:
        """How long a chunk waits that may have been written, before it is written again."""
        return self._seconds

    def request(self, rebuild: RebuildId, tenants: Sequence[TenantId], *, re_embed: bool) -> None:
        """Note which tenants a rebuild is for; those it has already stay as they are."""
        with self._database.transaction() as connection:
            queries().request_rebuild(
                connection, id=rebuild, tenants=list(tenants), re_embed=re_embed
            )

    def acquire_part(self, rebuild: RebuildId, tenant: TenantId) -> RebuildPart | None:
        """Become the owner of a tenant's part; None where it is done or somebody else's."""
        owner = uuid4().hex
        try:
            with self._database.transaction() as connection:
                queries().fail_dead_parts(connection, id=rebuild, tenant=tenant)
                owned = queries().acquire_part(
                    connection, id=rebuild, tenant=tenant, owner=owner, seconds=self._seconds
                )
        except psycopg.errors.UniqueViolation:  # of two at the same moment, the other was first
            return None
        return None if owned is None else RebuildPart(rebuild, tenant, owner, owned.re_embed)

    def part_state(self, rebuild: RebuildId, tenant: TenantId) -> str | None:
        """Tell how far a rebuild is with a tenant: waiting, running, done or failed."""
        with self._database.transaction() as connection:
            found: str | None = queries().part_state(connection, id=rebuild, tenant=tenant)
        return found

    def renew_part(self, part: RebuildPart) -> None:
        """Go on being the owner. Raises Fenced where somebody else is by now."""
        with self._database.transaction() as connection:
            _one(queries().renew_part(connection, **_part(part), seconds=self._seconds))

    def checkpoint(self, generation: Generation) -> Checkpoint:
        """Tell how far a building generation was filled."""
        with self._database.transaction() as connection:
            row = queries().checkpoint(
                connection, tenant=generation.tenant, generation=generation.id
            )
        return Checkpoint() if row is None else Checkpoint(row.through, row.re_embed)

    def resume_part(
        self, part: RebuildPart, generation: Generation, checkpoint: Checkpoint
    ) -> None:
        """Go on with a generation from where it was left. Raises Fenced."""
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
        """Record a chunk as done, enqueue what has to be looked at again, give the lease back.

        Args:
            build: the owner's part.
            lease: under which the chunk was written.
            generation: to which it was written.
            through: the last id of the chunk.
            provenance: of the vectors that were written and had none.
            again: memories of the chunk that a batch shall write.
            landed: memories whose documents were written; those that failed before are
                looked at again.
            embedded: how many of these had to be embedded.

        Raises:
            Fenced: the lease is lost, the generation was given up, or the part is another's:
                nothing was recorded, and the chunk has to be done again after a pause.

        """
        with self._database.transaction() as connection:
            if recheck:
                queries().enqueue(connection, tenant=part.tenant, memory_ids=sorted(set(recheck)))
            if provenance:
                record_provenance(connection, provenance)
            # Not forgotten: this generation may be given up yet. A batch brings them to live too.
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
        """Let searches go to the building generation from now on; retire the old one.

        Raises:
            Fenced: the lease or the part is lost, or the generation was given up.

        """
        with self._database.transaction() as connection:
            _one(
                queries().flip(
                    connection,
                    **_part(part),
                    token=lease.token,
                    generation=generation.id,
                    memories=memories,
                )
            )
            # Changes that told of a memory's end may have been covered by this rebuild.
            queries().forget_failures_of_gone(connection, tenant=part.tenant)

    def return_lease(self, lease: Lease) -> None:
        """Give a lease back under which no sync took place. Harmless when it is lost."""
        with self._database.transaction() as connection:
            queries().return_lease(connection, tenant=lease.tenant, token=lease.token)

    def release_part(self, part: RebuildPart) -> None:
        """Leave a part to whoever goes on with the rebuild; nothing on its way may land late."""
        with self._database.transaction() as connection:
            queries().release_part(connection, **_part(part))

    def fail_part(self, part: RebuildPart, error: str) -> None:
        """Close a part that did not end well; what was filled stays for the next attempt."""
        with self._database.transaction() as connection:
            queries().fail_part(connection, **_part(part), error=error[:500])

    def unfinished(self, prefix: str) -> tuple[RebuildId, bool] | None:
        """Return the newest rebuild whose id begins so and that was cut off, and its re_embed."""
        with self._database.transaction() as connection:
            row = queries().unfinished(connection, prefix=prefix)
        return None if row is None else (RebuildId(row.id), bool(row.re_embed))

    def progress(self, rebuild: RebuildId) -> Progress:
        """Count how far a rebuild is."""
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
        raise Fenced("the lease, or this part of the rebuild, is no longer ours")
