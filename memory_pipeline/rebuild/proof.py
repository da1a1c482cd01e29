"""Prove a building generation before searches go to it: verify it, and repair what differs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from memory_pipeline.domain.outcomes import Verified
from memory_pipeline.domain.types import Generation, MemoryId, RebuildPart
from memory_pipeline.errors import Corrupt
from memory_pipeline.rebuild.chunks import ChunkWriter
from memory_pipeline.rebuild.ownership import Ownership
from memory_pipeline.verify.tenant import Verify
from memory_pipeline.verify.written_rows import WrittenRows

# Each round leaves at most what was written during it; in a tight cluster of nearly equal vectors
# some documents stay unreachable after any number of repairs.
VERIFY_ROUNDS = 4
# Documents compared in full and searched by their own vector before the flip, at a millisecond
# each: all were just written, and the proof queries for everything reachable anyway.
SAMPLE = 10


@dataclass(frozen=True, slots=True)
class Proof:
    """How many documents a proof has repaired, and how many there are."""

    repaired: int = 0
    documents: int = 0


@dataclass(frozen=True, slots=True)
class Prover:
    """Proves generations. It repairs at most ``chunk_documents`` documents under one lease."""

    ownership: Ownership
    chunk_writer: ChunkWriter
    verify: Verify
    chunk_documents: int
    sample: int = SAMPLE

    def prove(
        self,
        part: RebuildPart,
        generation: Generation,
        written_rows: WrittenRows,
        *,
        catch_up: Callable[[], None],
    ) -> Proof:
        """Verify and repair until only documents with a pending change differ.

        Args:
            part: the part of the rebuild that has filled the generation.
            generation: the building generation.
            written_rows: the rows that were written to it, with their versions.
            catch_up: syncs the tenant's due changes; called before each round.

        Raises:
            Corrupt: the generation does not hold what was written to it.
            Transient: Chroma or Postgres is not available, or the lease did not become free.
            Stopped: the process was asked to stop.

        """
        repaired = 0
        for round_ in range(VERIFY_ROUNDS):
            catch_up()
            verified = self._verified(part, generation, written_rows)
            wrong = {f.memory_id for f in verified.findings if f.memory_id is not None}
            stubborn = round_ and all(f.kind == "unreachable" for f in verified.findings)
            if not wrong or (stubborn and round_ + 1 == VERIFY_ROUNDS):
                return Proof(repaired, verified.documents)
            self._repair(part, generation, sorted(wrong))
            repaired += len(wrong)
        raise Corrupt("it does not hold what was written to it", generation=generation.id)

    def _verified(
        self, part: RebuildPart, generation: Generation, written_rows: WrittenRows
    ) -> Verified:
        verified = self.verify.run(
            part.tenant,
            generation=generation,
            sample=self.sample,
            written_rows=written_rows,
            renew=self.ownership.renewal(part),
        )
        for finding in verified.findings:
            if finding.memory_id is None:
                raise Corrupt(finding.detail or finding.kind, generation=generation.id)
        return verified

    def _repair(self, part: RebuildPart, generation: Generation, ids: Sequence[MemoryId]) -> None:
        for at in range(0, len(ids), self.chunk_documents):
            with self.ownership.leased(part, generation) as lease:
                self.chunk_writer.repair(
                    part, lease, generation, ids[at : at + self.chunk_documents]
                )
