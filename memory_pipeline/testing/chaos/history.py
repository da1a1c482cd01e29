"""The history of a run, on disk, one JSON row a line: writes, faults, anomalies.

A row is written when its event has ended. Moments are nanoseconds of the monotonic clock.
"""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from memory_pipeline.domain.types import MemoryId, TenantId

# info, as Jepsen has it: the answer was lost, so the write may have been applied or not.
Answer = Literal["ok", "fail", "info"]
Sort = Literal[
    "insert", "update", "delete", "move", "transaction", "rollback", "savepoint", "copy", "poison"
]


def now() -> int:
    """Return the moment, in nanoseconds of the monotonic clock."""
    return time.monotonic_ns()


@dataclass(frozen=True, slots=True)
class Write:
    """One memory's part in a statement of the application, and the answer.

    ``tenant`` and ``digest``: after the write; None: the memory is deleted. ``reason``: why it
    failed; empty where the application itself rolled it back.
    """

    sort: Sort
    memory_id: MemoryId
    tenant: TenantId | None
    digest: str | None
    begun: int
    ended: int
    answer: Answer
    reason: str = ""


@dataclass(frozen=True, slots=True)
class FaultPeriod:
    """A fault: from when to when, and its details."""

    kind: str
    begun: int
    ended: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Anomaly:
    """An observation that no promise allows."""

    kind: str
    tenant: TenantId | None
    memory_id: MemoryId | None
    at: int
    detail: str = ""


Row = Write | FaultPeriod | Anomaly
_ROWS = {row.__name__: row for row in (Write, FaultPeriod, Anomaly)}


class History:
    """Appends rows to a file. Thread-safe."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = threading.Lock()
        self._out = file.open("a", encoding="utf-8")

    def append(self, row: Row) -> None:
        """Write a row; none after ``close``."""
        line = json.dumps({"row": type(row).__name__} | asdict(row), ensure_ascii=False)
        with self._lock:
            if not self._out.closed:
                self._out.write(line + "\n")

    def flush(self) -> None:
        """Write all buffered rows to the file."""
        with self._lock:
            self._out.flush()

    def close(self) -> None:
        """Close the file; later rows are dropped."""
        with self._lock:
            self._out.close()


class HistoryReader:
    """Reads rows back in order, and continues where it ended when more have been written."""

    def __init__(self, file: Path) -> None:
        self._lines = file.open(encoding="utf-8")

    def more(self) -> Iterator[Row]:
        """Yield the rows written since the last call."""
        while line := self._lines.readline():
            fields = json.loads(line)
            yield _ROWS[fields.pop("row")](**fields)

    def close(self) -> None:
        """Close the file."""
        self._lines.close()
