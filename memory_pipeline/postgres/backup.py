"""The backup of computed vectors: in memory_logs, in a table of the pipeline's own, or none.

A backup is optional, a document is not. Whatever refuses a backup costs the backup and nothing
else: the memory counts as done, as with ``backup=off``, and the reason is recorded. Only a row that
has changed since it was read, or that somebody holds, is a miss: its change stays pending.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from memory_pipeline.clock import SYSTEM_CLOCK, Clock
from memory_pipeline.content.document import vector_hash
from memory_pipeline.domain.types import Memory, MemoryId, Provenance, ProvenanceUpdate, Vector
from memory_pipeline.postgres.backup_refusals import (
    STALE_TYPES,
    BackupRaced,
    BackupRefused,
    RefusalRecord,
    cancelled_after,
    left_out,
    reason_of,
    refusals,
)
from memory_pipeline.postgres.database import Database, queries
from memory_pipeline.postgres.outbox import record_provenance
from memory_pipeline.postgres.update_triggers import update_triggers
from memory_pipeline.settings import Settings

Computed = tuple[Memory, Vector, Provenance]

# Stands for the hash of an unknown text: no text has it.
NO_TEXT = ""
# More than anybody backs up in one call.
MOST_AT_ONCE = 4096
# Rows of one call that are refused alone, before the rest of it counts as refused.
MOST_ALONE = 8


@dataclass(slots=True)
class _Attempts:
    """What the statements of one call have come to."""

    stored: set[MemoryId] = field(default_factory=set)
    refused: set[MemoryId] = field(default_factory=set)
    alone: int = 0
    reason: str = ""

    def refuse(self, ids: Sequence[MemoryId], reason: str) -> None:
        """Count memories as refused."""
        if ids:
            self.refused.update(ids)
            self.reason = reason

    def hopeless(self, *, probing: bool) -> bool:
        """Whether the rest is refused too, as far as one can tell; ``probing``: so was the last."""
        return self.alone >= MOST_ALONE or (probing and self.alone > 0 and not self.stored)


class PostgresBackup:
    """Stores computed vectors as the setting ``backup`` says. Thread-safe."""

    def __init__(self, database: Database, settings: Settings, clock: Clock = SYSTEM_CLOCK) -> None:
        self._database = database
        self._backup = settings.backup
        # No longer than a slice of embedding: the lease is renewed before each.
        self._seconds = settings.lease_seconds / 4
        self._clock = clock
        self._record = RefusalRecord(database, settings.backup, clock)
        # Rows in one statement: halved by a refusal, doubled by a success. One is a probe.
        self._at_once = MOST_AT_ONCE

    def back_up(self, vectors: Mapping[MemoryId, Computed]) -> frozenset[MemoryId]:
        """Store vectors where the row is still the version that was read.

        Returns:
            The memories whose documents need not wait: stored, or refused. The others were missed.

        """
        if not vectors:
            return frozenset()
        if self._backup == "off":
            self._note_unknown_text(vectors)
            return frozenset(vectors)
        if self._backup == "table":
            self._note_unknown_text(vectors)
        done = self._store(vectors)
        if done.refused:
            if self._backup == "on":
                self._note_unknown_text({i: vectors[i] for i in done.refused})
            self._record.record(done.reason, len(done.refused))
        elif done.stored:
            self._record.clear()
        return frozenset(done.stored | done.refused)

    def _store(self, vectors: Mapping[MemoryId, Computed]) -> _Attempts:
        """Store in as few statements as it takes; a row that is refused is singled out."""
        done, left = _Attempts(), list(vectors)
        probing = self._at_once == 1
        deadline = self._clock.monotonic() + self._seconds
        while left:
            part, seconds = left[: self._at_once], deadline - self._clock.monotonic()
            if seconds <= 0:
                done.refuse(left, f"a backup takes longer than {self._seconds:g} s")
                break
            try:
                self._attempt({i: vectors[i] for i in part}, done, seconds)
            except BackupRaced:
                left = left[len(part) :]  # missed: the changes stay pending
                continue
            except BackupRefused as refusal:
                self._at_once = max(1, len(part) // 2)
                done.alone += len(part) == 1
                rest = refusal.timed_out or done.hopeless(probing=probing)
                if rest or len(part) == 1:
                    done.refuse(left if rest else part, self._reason(refusal))
                    left = [] if rest else left[1:]
                continue
            left = left[len(part) :]
            self._at_once = min(self._at_once * 2, MOST_AT_ONCE)
        return done

    def _attempt(
        self, vectors: Mapping[MemoryId, Computed], done: _Attempts, seconds: float
    ) -> None:
        """Store vectors in one statement. Raises BackupRefused or BackupRaced: none was stored."""
        in_table = self._backup == "table"
        query = queries().back_up_in_table if in_table else queries().back_up
        provenance = [p for _, _, p in vectors.values()]
        with (
            self._database.statement() as connection,
            refusals(),
            cancelled_after(connection, seconds),
        ):
            rows = list(
                query(
                    connection,
                    ids=list(vectors),
                    versions=[memory.version for memory, _, _ in vectors.values()],
                    vectors=[vector for _, vector, _ in vectors.values()],
                    text_hashes=[p.text_hash for p in provenance],
                    models=[p.model for p in provenance],
                    vector_hashes=[p.vector_hash for p in provenance],
                )
            )
        done.stored |= {MemoryId(row.id) for row in rows if row.stored}
        if quiet := [MemoryId(row.id) for row in rows if not row.stored]:
            done.refuse(quiet, left_out(update_triggers(self._database)))

    def _reason(self, refusal: BackupRefused) -> str:
        if refusal.error.sqlstate in STALE_TYPES:
            self._database.reconnect()
        return reason_of(refusal, update_triggers(self._database))

    def _note_unknown_text(self, vectors: Mapping[MemoryId, Computed]) -> None:
        if others := provenance_of_unknown_text(vectors):
            with self._database.statement() as connection:
                record_provenance(connection, others)


def provenance_of_unknown_text(
    vectors: Mapping[MemoryId, Computed],
) -> dict[MemoryId, ProvenanceUpdate]:
    """Return provenance that says that the vectors these rows keep are of an unknown text.

    Without it the next batch would take such a vector for one that the application has just set.
    """
    return {
        i: ProvenanceUpdate(
            Provenance(NO_TEXT, provenance.model, vector_hash(memory.embedding)), memory.provenance
        )
        for i, (memory, _, provenance) in vectors.items()
        if memory.embedding is not None
    }
