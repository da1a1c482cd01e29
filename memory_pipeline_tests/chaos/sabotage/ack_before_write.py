"""Acks before it writes: a write that a kill or an outage prevents is lost."""

import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from memory_pipeline.cli import main
from memory_pipeline.domain.outcomes import Failure
from memory_pipeline.domain.types import Generation, MemoryId
from memory_pipeline.errors import PipelineError
from memory_pipeline.ports import Lease
from memory_pipeline.sync.generations import Generations
from memory_pipeline.sync.plan import EmbeddedDraft
from memory_pipeline.sync.write import write_documents

UNTIL_ACKED_SECONDS = 0.2


def write(
    self: Generations,
    lease: Lease,
    targets: Sequence[Generation],
    ready: Sequence[EmbeddedDraft],
    deletes: Sequence[MemoryId],
) -> list[Failure]:
    """Return as if written, and write after the ack."""
    del lease

    def later() -> None:
        time.sleep(UNTIL_ACKED_SECONDS)
        for generation in targets:
            with suppress(PipelineError):
                write_documents(self.index, generation, ready, deletes, renew=lambda: 2.0)

    threading.Thread(target=later, daemon=True).start()
    return []


Generations.write = write  # type: ignore[method-assign]
main()
