"""The protocols that admin needs of Postgres and Chroma. Adapters and fakes satisfy them."""

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from memory_pipeline.domain.status import ActiveWork, WorkerInfo
from memory_pipeline.domain.types import Generation, Server


class Attachment(Protocol):
    """What the pipeline has installed in the database, removed step by step."""

    def is_attached(self) -> bool:
        """Whether anything of the pipeline is installed."""
        ...

    def active_work(self) -> ActiveWork:
        """Count the rebuilds and syncs in progress."""
        ...

    def triggers(self) -> Sequence[str]:
        """Name the triggers that would be dropped."""
        ...

    def vectors(self) -> int:
        """Count the vectors that go with the schema."""
        ...

    def check(self) -> None:
        """Check that nothing of another owner depends on the schema. Raises ContractError."""
        ...

    def stop_capture(self) -> None:
        """Drop the triggers. Raises ContractError."""
        ...

    def stop_syncing(self) -> None:
        """Delete the changes, and fence every lease."""
        ...

    def generations(self, server: UUID) -> Sequence[Generation]:
        """Return the generations that may have a collection on a server."""
        ...

    def drop_schema(self) -> None:
        """Drop the schema. Raises ContractError."""
        ...


class Workers(Protocol):
    """The worker processes."""

    def healthy(self) -> Sequence[WorkerInfo]:
        """Return the workers with a recent heartbeat."""
        ...


class Registry(Protocol):
    """The registered servers and generations."""

    def servers(self) -> Sequence[Server]:
        """Return every registered server."""
        ...

    def dropped(self, generation: UUID) -> None:
        """Record that a generation's collection is dropped."""
        ...


class Servers(Protocol):
    """The Chroma servers."""

    def problems(self) -> Sequence[str]:
        """Probe every address; return a line for each problem."""
        ...

    def check_identity(self) -> None:
        """Identify the server at each address again. Raises ChromaUnavailable."""
        ...

    def remove_marker(self, server: UUID) -> None:
        """Remove the marker of this installation from a server. Raises ChromaUnavailable."""
        ...


class ForgottenCollections(Protocol):
    """The collections that a forgotten state of Postgres has left."""

    def forgotten(self, server: UUID) -> Sequence[Generation]:
        """Return this installation's collections on a server that the registry does not know."""
        ...
