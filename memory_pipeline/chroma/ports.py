"""What chroma needs of Postgres: the registered servers, and the epochs of the database."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol
from uuid import UUID

from memory_pipeline.domain.epoch import Comparison, EpochStamp, RollbackSign
from memory_pipeline.domain.types import Server


class ServerRegistry(Protocol):
    """The Chroma servers of this installation, as Postgres has them."""

    def installation(self) -> UUID:
        """Return the id of this installation. Raises ContractError before the first migrate."""
        ...

    def servers(self) -> Sequence[Server]:
        """Return every registered server, the retired ones too."""
        ...

    def register_server(self, server: UUID, url: str) -> None:
        """Register a server as ready at this address, or update its address and state."""
        ...

    def mark_server(self, server: UUID, state: str) -> None:
        """Record the state in which a server was found."""
        ...

    def retire_server(self, server: UUID) -> None:
        """Retire a server whose data is gone; every generation on it is lost."""
        ...


class Epochs(Protocol):
    """The epochs of this database; domain/epoch.py says what they are for."""

    def database_id(self) -> str:
        """Return which database this is."""
        ...

    def foreign(self, stamps: Collection[EpochStamp]) -> Mapping[EpochStamp, str]:
        """Return the stamps, read before, that another database wrote: why, and what to do."""
        ...

    def compare(self, stamps: Collection[EpochStamp]) -> Comparison:
        """Compare the markers' stamps, read before, with what Postgres knows. Changes nothing."""
        ...

    def record(self, stamps: Collection[EpochStamp]) -> Sequence[RollbackSign]:
        """Record the rollback signs once, and mark every tenant unproven; return the new signs."""
        ...

    def rotate(self, *, seconds: float) -> EpochStamp | None:
        """Begin an epoch if the newest is that old; return the stamp for the markers, or None."""
        ...

    def record_stamp(self, server: UUID, database_id: str) -> None:
        """Record that a server's marker has been written from this database."""
        ...
