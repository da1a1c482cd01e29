"""The epoch stamps in the markers: compared with Postgres, and renewed with each epoch.

domain/epoch.py decides what a difference means; server_identity.py decides which server is which.
"""

from collections.abc import Callable, Iterable, Mapping
from uuid import UUID

from memory_pipeline.chroma.client import ChromaClient
from memory_pipeline.chroma.marker import probe, write_stamp
from memory_pipeline.chroma.ports import Epochs
from memory_pipeline.chroma.server_map import Marker
from memory_pipeline.chroma.snapshot import Snapshot
from memory_pipeline.domain.epoch import Comparison, EpochStamp
from memory_pipeline.errors import PipelineError
from memory_pipeline.logs import get_logger
from memory_pipeline.settings import Settings

log = get_logger("memory_pipeline.chroma.epoch_stamps")


class EpochStamps:
    """The stamps of one installation's servers."""

    def __init__(self, epochs: Epochs, settings: Settings) -> None:
        self._epochs = epochs
        self._settings = settings

    def foreign(self, markers: Iterable[Marker | None]) -> Mapping[EpochStamp, str]:
        """Return the stamps that another database wrote: why, and what to do."""
        return self._epochs.foreign([m.stamp for m in markers if m and m.stamp])

    def compare(self, markers: Iterable[Marker | None], *, record: bool = True) -> Comparison:
        """Return the signs that Postgres went back in time.

        ``record`` them too, which marks every tenant unproven.
        """
        stamps = [marker.stamp for marker in markers if marker and marker.stamp]
        compared = self._epochs.compare(stamps)
        if compared.signs and record:
            for sign in self._epochs.record(stamps):
                log.error(
                    "postgres_rollback_detected",
                    reason=sign.reason,
                    next="every tenant is compared with Chroma and repaired; searches continue",
                )
        return compared

    def problems(self, markers: Iterable[Marker | None]) -> list[str]:
        """Return a line for each sign that Postgres went back in time; record nothing."""
        signs = self.compare(markers, record=False).signs
        return [f"Postgres went back in time ({s.reason}): no tenant is proven" for s in signs]

    def renew(
        self, snapshot: Snapshot, *, seconds: float, probe_again: Callable[[], Snapshot]
    ) -> None:
        """Compare the markers of the servers in use; begin an epoch when one is due.

        A server that does not answer now is left out.

        Args:
            snapshot: the servers in use.
            seconds: the age at which an epoch ends.
            probe_again: identifies the servers again, where a marker has changed.

        """
        database_id = self._epochs.database_id()
        probes = {s: probe(c, self._settings) for s, c in snapshot.clients.items()}
        markers = {s: p.marker for s, p in probes.items() if not p.unreachable}
        compared = list(markers.values())
        if not all(_is_unchanged(m, server, database_id) for server, m in markers.items()):
            snapshot = probe_again()
            compared = snapshot.markers()
        if self.compare(compared).settled:
            clients = {s: c for s, c in snapshot.clients.items() if s in markers}
            self._rotate(clients, seconds=seconds)

    def _rotate(self, clients: Mapping[UUID, ChromaClient], *, seconds: float) -> None:
        """Begin an epoch if the newest is that old, and write its stamp to these servers."""
        stamp = self._epochs.rotate(seconds=seconds)
        if stamp is None:
            return
        for server, client in clients.items():
            try:
                write_stamp(client, self._settings, stamp)
            except PipelineError as error:
                log.info(
                    "marker_write_failed",
                    server=str(server),
                    address=client.url,
                    reason=str(error),
                    next="the server keeps an older stamp, which is harmless, until the next epoch",
                )
            else:
                self._epochs.record_stamp(server, stamp.database_id)


def _is_unchanged(marker: Marker | None, server: UUID, database_id: str) -> bool:
    if marker is None or marker.server != server:
        return False
    return (marker.database_id or database_id) == database_id
