"""What happened, a line a row, on disk: what was written, what was broken, what was seen.

A row is written when what it tells has ended. Moments are nanoseconds of the monotonic clock.
"""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from memory_pipeline.domain.types import MemoryId, TenantId

# info: the answer was lost, so nobody knows whether it was done.
Verdict = Literal["ok", "fail", "info"]
Sort = Literal[
    "insert", "update", "delete", "move", "transaction", "rollback", "savepoint", "copy", "poison"
]


def now() -> int:
    """Tell the moment."""
    return time.monotonic_ns()


@dataclass(frozen=True, slots=True)
class Write:
    """What the application wanted of one memory, and what it was told.

    ``tenant`` and ``digest`` are those after it; None: the memory is gone. ``reason`` says why it
    failed; empty where the application itself took it back.
    """

    sort: Sort
    memory_id: MemoryId
    tenant: TenantId | None
    digest: str | None
    begun: int
    ended: int
    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Broken:
    """A fault: from when to when, and what exactly."""

    kind: str
    begun: int
    ended: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Sight:
    """Something that must never be seen, and was."""

    kind: str
    tenant: TenantId | None
    memory_id: MemoryId | None
    at: int
    detail: str = ""


Row = Write | Broken | Sight
_NAMES = {"write": Write, "broken": Broken, "sight": Sight}


class History:
    """Appends rows to a file, from any thread."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = threading.Lock()
        self._out = file.open("a", encoding="utf-8")

    def note(self, row: Row) -> None:
        """Write a row down."""
        line = json.dumps({"row": type(row).__name__.lower()} | asdict(row), ensure_ascii=False)
        with self._lock:
            if not self._out.closed:
                self._out.write(line + "\n")

    def flush(self) -> None:
        """Bring all rows to the file."""
        with self._lock:
            self._out.flush()

    def close(self) -> None:
        """Write no more."""
        with self._lock:
            self._out.close()


class HistoryReader:
    """Reads the rows back, one at a time, and goes on where it was when more have come."""

    def __init__(self, file: Path) -> None:
        self._lines = file.open(encoding="utf-8")

    def more(self) -> Iterator[Row]:
        """Yield what was written since."""
        while line := self._lines.readline():
            told = json.loads(line)
            yield _NAMES[told.pop("row")](**told)

    def close(self) -> None:
        """Read no more."""
        self._lines.close()
