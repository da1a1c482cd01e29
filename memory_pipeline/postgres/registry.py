"""The registry in Postgres: tenants, the generations they search, the servers that hold them.

A collection is resolved here and nowhere else: never by a name that a caller could form.
"""

from uuid import UUID, uuid4

from memory_pipeline.domain.partition_keys import partition_keys
from memory_pipeline.domain.types import Generation, Server, TenantId
from memory_pipeline.errors import ContractError, Fenced, PipelineError, ServerLost
from memory_pipeline.ports import Lease
from memory_pipeline.postgres.database import Connection, Database, queries
from memory_pipeline.postgres.flip import flip_first
from memory_pipeline.postgres.lease import lease_lost

# A tenant whose collection is damaged more often needs an operator.
AUTOMATIC_REBUILDS_AN_HOUR = 3
# Large writes delay the small writes of tenants that were synced within this time.
RECENT_SECONDS = 30.0


def read_generation(connection: Connection, generation_id: UUID) -> Generation:
    """Read one generation in the caller's transaction, by an id that the registry has."""
    row = queries().generation(connection, id=generation_id)
    if row is None:
        raise PipelineError(f"generation {generation_id} is not in the registry")
    return Generation(*row)


class PostgresRegistry:
    """Tenants, generations and servers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def register(self, tenant: TenantId) -> str:
        """Register a tenant if needed; return its partition key. Commits before any write.

        Nothing is cached: a tenant that was registered may have been forgotten since.
        """
        for proposed in partition_keys(tenant):
            with self._database.statement() as connection:
                known = queries().partition_key(connection, tenant=tenant) or queries().register(
                    connection, tenant=tenant, partition_key=proposed
                )
            if known is not None:
                return str(known)
        raise PipelineError(f"every partition key of tenant {tenant!r} is taken")

    def register_pending(self, tenant: TenantId) -> bool:
        """Register a new tenant that has a pending change; return whether it was registered now.

        A tenant without one was forgotten meanwhile, and must not come back by what a worker or a
        run remembers of it.
        """
        for proposed in partition_keys(tenant):
            with self._database.statement() as connection:
                if queries().partition_key(connection, tenant=tenant):
                    return False
                if queries().register_pending(connection, tenant=tenant, partition_key=proposed):
                    return True
                if not queries().has_changes(connection, tenant=tenant):
                    return False
        raise PipelineError(f"every partition key of tenant {tenant!r} is taken")

    def keys(self) -> dict[TenantId, str]:
        """Return every tenant with its partition key, in the order of registration."""
        with self._database.transaction() as connection:
            rows = queries().partition_keys(connection)
            return {TenantId(r.tenant): r.partition_key for r in rows}

    def live(self, tenant: TenantId) -> Generation | None:
        """Return the generation that this tenant's searches query now."""
        with self._database.transaction() as connection:
            row = queries().live_generation(connection, tenant=tenant)
            return None if row is None else Generation(*row)

    def building(self, tenant: TenantId) -> Generation | None:
        """Return the generation that a rebuild of this tenant fills now."""
        with self._database.transaction() as connection:
            row = queries().building_generation(connection, tenant=tenant)
            return None if row is None else Generation(*row)

    def serves_others(self, server: UUID, tenant: TenantId) -> bool:
        """Whether other tenants of this server were synced recently."""
        with self._database.transaction() as connection:
            return bool(
                queries().serves_others(
                    connection, server=server, tenant=tenant, seconds=RECENT_SECONDS
                )
            )

    def is_being_filled(self, generation: UUID) -> bool:
        """Whether a rebuild under way fills this generation."""
        with self._database.transaction() as connection:
            return bool(queries().is_being_filled(connection, id=generation))

    def begin_generation(
        self, tenant: TenantId, server: UUID, *, model: str, config_hash: str, memories: int
    ) -> Generation:
        """Record a new generation before its collection exists.

        Raises:
            ServerLost: the server was retired.
            Fenced: the tenant was forgotten.

        """
        generation = Generation(uuid4(), tenant, server, None, model, config_hash, "new")
        with self._database.transaction() as connection:
            noted = queries().begin_generation(
                connection,
                id=generation.id,
                tenant=tenant,
                server=server,
                model=model,
                config_hash=config_hash,
                memories=memories,
            )
            forgotten = noted != 1 and not queries().is_registered(connection, tenant=tenant)
        if forgotten:
            raise Fenced("the tenant was forgotten")
        if noted != 1:
            raise ServerLost(f"Chroma server {server} was retired: another one takes its place")
        return generation

    def flip_first(self, lease: Lease, generation: Generation) -> None:
        """Make a tenant's first generation live; enqueue the reset that fills it. Raises Fenced."""
        with self._database.transaction() as connection:
            if not flip_first(connection, lease, generation):
                raise lease_lost(connection, lease.tenant, lease.token)

    def abandon(self, lease: Lease, generation: UUID) -> None:
        """Stop writing a generation: mark a live one as damaged, end a building one.

        Raises Fenced.
        """
        with self._database.transaction() as connection:
            abandoned = queries().abandon(
                connection, id=generation, tenant=lease.tenant, token=lease.token
            )
            if abandoned != 1:
                raise lease_lost(connection, lease.tenant, lease.token)

    def damaged(self) -> dict[TenantId, str]:
        """Return the tenants whose collections need a rebuild that no process does, with keys.

        A tenant whose first rebuild ended half-way, with no live generation yet, is among them. A
        tenant that was damaged more than three times within the hour is left to an operator.
        """
        with self._database.transaction() as connection:
            rows = queries().damaged_tenants(connection, most=AUTOMATIC_REBUILDS_AN_HOUR)
            return {TenantId(r.tenant): r.partition_key for r in rows}

    def installation(self) -> UUID:
        """Return the id of this installation. Raises ContractError before the first migrate."""
        with self._database.transaction() as connection:
            known = queries().installation_id(connection)
        if known is None:
            raise ContractError("this database is not migrated: run `memory-pipeline migrate`")
        return UUID(str(known))

    def servers(self) -> list[Server]:
        """Return every registered Chroma server."""
        with self._database.transaction() as connection:
            return [Server(*row) for row in queries().servers(connection)]

    def register_server(self, server: UUID, url: str) -> None:
        """Register a server by the UUID in its marker, or store its new address."""
        with self._database.transaction() as connection:
            queries().register_server(connection, id=server, url=url)

    def mark_server(self, server: UUID, state: str) -> None:
        """Store the state in which a server was found."""
        with self._database.transaction() as connection:
            queries().mark_server(connection, id=server, state=state)

    def retire_server(self, server: UUID) -> None:
        """Retire a server whose data is gone: every generation on it is lost."""
        with self._database.transaction() as connection:
            queries().retire_server(connection, id=server)
            queries().lose_generations(connection, id=server)
            queries().stop_building(connection, id=server)

    def droppable(self, *, grace_seconds: float, limit: int) -> list[Generation]:
        """Return ended generations whose collections no search and no write can still use."""
        with self._database.transaction() as connection:
            rows = queries().droppable(connection, grace_seconds=grace_seconds, limit=limit)
            return [Generation(*row) for row in rows]

    def dropped(self, generation: UUID) -> None:
        """Record that a generation's collection is gone."""
        with self._database.transaction() as connection:
            queries().dropped(connection, id=generation)
