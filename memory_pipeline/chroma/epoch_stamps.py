"""Compares what the markers say of Postgres with Postgres, and tells them of a new epoch.

What that means is decided in domain/epoch.py; who the servers are, in servers.py.
"""

from collections.abc import Iterable, Mapping
from uuid import UUID

from memory_pipeline.chroma.client import ChromaClient
from memory_pipeline.chroma.marker import write_stamp
from memory_pipeline.chroma.server_identity import Marker
from memory_pipeline.domain.epoch import Comparison
from memory_pipeline.errors import PipelineError
from memory_pipeline.logs import get_logger
from memory_pipeline.postgres.epochs import PostgresEpochs
from memory_pipeline.postgres.registry import PostgresRegistry
from memory_pipeline.settings import Settings

log = get_logger("memory_pipeline.stamping")


class EpochStamps:
    """The stamps of one installation's servers."""

    def __init__(
        self, registry: PostgresRegistry, epochs: PostgresEpochs, settings: Settings
    ) -> None:
        self._registry = registry
        self._epochs = epochs
        self._settings = settings

    def database_id(self) -> str:
        """Return where the database is."""
        return self._epochs.database_id()

    def compare(self, markers: Iterable[Marker | None], *, note: bool = True) -> Comparison:
        """Look for signs that Postgres went back; note them, so that every tenant is proven."""
        stamps = [marker.stamp for marker in markers if marker and marker.stamp]
        compared = self._epochs.compare(stamps)
        if compared.signs and note:
            for sign in self._epochs.record(stamps):
                log.error("postgres_went_back", reason=sign.reason)
        if compared.signs or compared.recorded_since:
            # What this process remembers may be of the forgotten state.
            self._registry.clear_cache()
        return compared

    def rotate(self, clients: Mapping[UUID, ChromaClient], *, seconds: float) -> None:
        """Begin an epoch where the newest is that old, and tell these servers of it.

        One that does not take it says an older one, which is as it should be.
        """
        new = self._epochs.rotate(seconds=seconds)
        if new is None:
            return
        for server, client in clients.items():
            try:
                write_stamp(client, self._settings, new)
            except PipelineError as error:
                log.info("marker_not_written", server=str(server), reason=str(error))
            else:
                self._epochs.record_stamp(server, new.database_id)
