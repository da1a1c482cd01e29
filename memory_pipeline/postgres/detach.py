"""The steps of a detach in Postgres. Each may be repeated, and none waits for a lock."""

from uuid import UUID

from memory_pipeline.domain.status import ActiveWork
from memory_pipeline.domain.types import Generation
from memory_pipeline.errors import ContractError
from memory_pipeline.postgres.clock_steps import ClockSteps
from memory_pipeline.postgres.database import Database, queries
from memory_pipeline.postgres.ddl import hasty_transaction, patient_attempts
from memory_pipeline.settings import Settings


class PostgresDetach:
    """Removes the pipeline from this database."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._clock_steps = ClockSteps(database, settings)

    def is_attached(self) -> bool:
        """Whether the pipeline's schema exists."""
        with self._database.transaction() as connection:
            return bool(queries().schema_exists(connection))

    def active_work(self) -> ActiveWork:
        """Count the rebuilds and syncs in progress."""
        self._clock_steps.shorten_waits()
        with self._database.transaction() as connection:
            return ActiveWork(*queries().under_way(connection))

    def triggers(self) -> list[str]:
        """Return the triggers that would be dropped."""
        with self._database.transaction() as connection:
            return [f"{row.name} on {row.on_table}" for row in queries().triggers(connection)]

    def vectors(self) -> int:
        """Count the vectors in the pipeline's own table, which the schema takes with it."""
        with self._database.transaction() as connection:
            return int(queries().vectors_in_table(connection))

    def check(self) -> None:
        """Check that nothing outside the schema depends on it.

        Raises:
            ContractError: something does, and DROP SCHEMA would drop it; the message names it.

        """
        with self._database.transaction() as connection:
            triggers = {row.name for row in queries().triggers(connection)}
            others = [row.name for row in queries().other_users(connection)]
        others = [o for o in others if not any(o.startswith(f"trigger {t} on") for t in triggers)]
        if others:
            raise ContractError(
                "these depend on the schema memory_pipeline and would be dropped with it, drop "
                f"them first: {', '.join(others)}"
            )

    def stop_capture(self) -> None:
        """Drop the triggers: no later statement of the application runs code of the pipeline.

        Raises:
            ContractError: a table stayed locked for a minute; nothing was changed.

        """
        for attempt in patient_attempts():
            with attempt, hasty_transaction(self._database) as connection:
                queries().drop_triggers(connection)

    def stop_syncing(self) -> None:
        """Delete the pending changes, and fence every worker that holds a lease."""
        with self._database.transaction() as connection:
            queries().forget_changes(connection)
            queries().raise_tokens(connection)

    def generations(self, server: UUID) -> list[Generation]:
        """Return the generations that may have a collection on a server."""
        with self._database.transaction() as connection:
            rows = queries().kept_generations(connection, server=server)
            return [Generation(*row) for row in rows]

    def drop_schema(self) -> None:
        """Drop everything of the pipeline in Postgres, in one transaction.

        Raises:
            ContractError: one of its tables stayed locked for a minute; nothing was dropped.

        """
        for attempt in patient_attempts():
            with attempt, hasty_transaction(self._database) as connection:
                queries().drop_schema(connection)
