"""Epochs in Postgres: begun, compared with the markers; and what follows a rollback.

``domain/epoch.py`` explains what epochs are for.
"""

from collections.abc import Collection
from uuid import UUID

from memory_pipeline.domain.database_identity import DatabaseId, WriterFacts, why_foreign
from memory_pipeline.domain.epoch import (
    RECENT_SECONDS,
    Comparison,
    DatabaseLocation,
    EpochStamp,
    RollbackSign,
    UnprovenTenants,
    how_moved,
    rollback_signs,
)
from memory_pipeline.domain.types import TenantId
from memory_pipeline.postgres.database import Connection, Database, queries
from memory_pipeline.postgres.location import read_location
from memory_pipeline.postgres.table_contract import broken_triggers
from memory_pipeline.settings import Settings

# One epoch each half minute: a week of them.
EPOCHS_KEPT = 20_000


class PostgresEpochs:
    """The epochs of this database."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._wait_seconds = settings.request_seconds + settings.grace_seconds
        self._seen: int | None = None

    def database_id(self) -> str:
        """Return the id of this database: its server, its oid and its name."""
        with self._database.transaction() as connection:
            return read_location(connection).database_id

    def foreign(self, stamps: Collection[EpochStamp]) -> dict[EpochStamp, str]:
        """Return the stamps that another database wrote, each with the reason and what to do.

        The markers have to be read before: a nonce is in Postgres before it is in a marker.
        """
        if not stamps:
            return {}
        with self._database.transaction() as connection:
            now = read_location(connection)
            known = _known(connection, stamps)
            neighbours = _neighbours(connection, stamps)
            reasons = {
                stamp: why_foreign(
                    stamp.database_id,
                    now.database_id,
                    _facts(connection, stamp, now, neighbours, epoch_known=stamp.nonce in known),
                )
                for stamp in set(stamps)
            }
        return {stamp: reason for stamp, reason in reasons.items() if reason}

    def compare(self, stamps: Collection[EpochStamp]) -> Comparison:
        """Compare the markers' stamps with what Postgres knows. Changes nothing.

        The markers have to be read before: a nonce is in Postgres before it is in a marker.
        """
        with self._database.transaction() as connection:
            newest = int(queries().newest_rollback_sign(connection))
            signs = _judge(connection, stamps)
        before, self._seen = self._seen, newest
        if before not in {None, newest}:  # recorded since, by another process
            self._database.reconnect()
        return Comparison(tuple(signs))

    def record(self, stamps: Collection[EpochStamp]) -> list[RollbackSign]:
        """Record the rollback signs of these stamps, once; every tenant is unproven then.

        One transaction: the signs, a reset of every tenant, lease tokens above all issued ones, and
        a new epoch. A second process finds nothing left to record. While a dump is being loaded,
        which creates the triggers last, nothing is recorded: rows loaded after the reset would be
        missed.
        """
        with self._database.transaction() as connection:
            if broken_triggers(connection):
                return []
            queries().lock_epochs(connection)
            signs = _judge(connection, stamps)
            if signs:
                for sign in signs:
                    queries().record_rollback_sign(connection, reason=sign.reason, nonce=sign.nonce)
                queries().raise_tokens(connection)
                queries().mark_all_unproven(connection, wait_seconds=self._wait_seconds)
                _begin(connection, read_location(connection))
        self._database.reconnect()  # a type of the schema may have another oid by now
        return signs

    def rotate(self, *, seconds: float) -> EpochStamp | None:
        """Begin an epoch if the newest is at least that old; return the stamp for the markers.

        None: no epoch is due, or a rollback sign has to be recorded first.
        """
        with self._database.transaction() as connection:
            queries().lock_epochs(connection)
            now, before = read_location(connection), _newest(connection)
            due = queries().epoch_is_due(connection, seconds=seconds)
            moved = before is not None and how_moved(now, before)
            if not due or moved or broken_triggers(connection):
                return None
            stamp = _begin(connection, now)
            queries().delete_old_epochs(connection, kept=EPOCHS_KEPT)
        return stamp

    def record_stamp(self, server: UUID, database_id: str) -> None:
        """Record that a server's marker was written, after the write."""
        with self._database.transaction() as connection:
            queries().record_stamp(connection, id=server, database_id=database_id)

    def take_over(self) -> None:
        """Allow the use of servers whose markers another database wrote."""
        with self._database.transaction() as connection:
            queries().take_over(connection)

    def unproven(self) -> UnprovenTenants:
        """Return which tenants are unproven, since when and why."""
        with self._database.transaction() as connection:
            rows = list(queries().unproven(connection))
            late = list(queries().recent_rollback_signs(connection, seconds=RECENT_SECONDS))
            last = queries().last_rollback_sign(connection)
        return UnprovenTenants(
            frozenset(TenantId(row.tenant) for row in rows),
            min((row.since for row in rows), default=None),
            last.reason if last else "",
            len({row.noticed_at for row in late}),
        )

    def seconds_to_wait(self) -> float:
        """Return how many seconds have to pass before every unproven tenant can be compared."""
        with self._database.transaction() as connection:
            return float(queries().seconds_to_wait(connection))

    def sweep_is_due(self, *, seconds: float) -> bool:
        """Whether collections that only a forgotten state knew may be dropped now."""
        with self._database.transaction() as connection:
            return bool(queries().sweep_is_due(connection, seconds=seconds))

    def record_sweep(self) -> None:
        """Record that none of them is left."""
        with self._database.transaction() as connection:
            queries().record_sweep(connection)

    def unknown(self, generations: Collection[UUID]) -> list[UUID]:
        """Return the generations among these that the registry does not know."""
        with self._database.transaction() as connection:
            rows = queries().known_generations(connection, ids=list(generations))
            known = {row.id for row in rows}
        return [g for g in generations if g not in known]


def _judge(connection: Connection, stamps: Collection[EpochStamp]) -> list[RollbackSign]:
    known = _known(connection, stamps)
    return rollback_signs(read_location(connection), _newest(connection), stamps, known)


def _known(connection: Connection, stamps: Collection[EpochStamp]) -> set[UUID]:
    nonces = [stamp.nonce for stamp in stamps]
    return {row.nonce for row in queries().known_nonces(connection, nonces=nonces)}


def _neighbours(connection: Connection, stamps: Collection[EpochStamp]) -> dict[int, str]:
    ids = [DatabaseId.parse(stamp.database_id) for stamp in stamps]
    rows = queries().neighbours(
        connection,
        oids=[one.oid for one in ids if one.oid is not None],
        names=[one.name for one in ids],
    )
    return {row.oid: row.name for row in rows}


def _facts(
    connection: Connection,
    stamp: EpochStamp,
    now: DatabaseLocation,
    neighbours: dict[int, str],
    *,
    epoch_known: bool,
) -> WriterFacts:
    row = queries().newest_epoch_of(connection, database_id=stamp.database_id)
    if row is None:
        return WriterFacts(epoch_known, None, None, neighbours)
    same_outbox = row.outbox == now.outbox
    return WriterFacts(
        epoch_known, same_outbox and row.timeline == now.timeline, same_outbox, neighbours
    )


def _newest(connection: Connection) -> DatabaseLocation | None:
    row = queries().newest_epoch(connection)
    return None if row is None else DatabaseLocation(*row)


def _begin(connection: Connection, location: DatabaseLocation) -> EpochStamp:
    nonce = queries().begin_epoch(
        connection,
        database_id=location.database_id,
        timeline=location.timeline,
        outbox=location.outbox,
    )
    return EpochStamp(location.database_id, nonce)
