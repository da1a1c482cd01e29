"""Import memories from a file of JSON lines, all of them or none.

A line is ``{"user_id", "project_id", "created_at", "raw_data"}``; project_id and created_at may be
absent. An import does not sync: the triggers capture it like any other write.
"""

import gzip
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import IO, Any

from memory_pipeline.admin.ports import NewMemories
from memory_pipeline.domain.types import NewMemory
from memory_pipeline.errors import InvalidMemory

KEYS = frozenset({"user_id", "project_id", "created_at", "raw_data"})
LINES_A_REPORT = 500


def import_file(
    memories: NewMemories,
    path: Path,
    *,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Import a .jsonl or .jsonl.gz file in one COPY; return the number of memories.

    Args:
        memories: where they are stored.
        path: the file.
        limit: import at most this many memories.
        progress: called with the lines done and the bytes read of the file.

    Raises:
        InvalidMemory: names the first bad line; nothing was imported.

    """
    try:
        with path.open("rb") as file:
            lines = read_lines(file, compressed=path.suffix == ".gz")
            return memories.copy_in(_counted(lines, file, limit, progress or (lambda *_: None)))
    except InvalidMemory as error:
        raise InvalidMemory(f"{path}, {error}; nothing was imported") from error
    except (OSError, EOFError, gzip.BadGzipFile) as error:
        raise InvalidMemory(f"{path} cannot be read: {error}; nothing was imported") from error


def _counted(
    lines: Iterator[NewMemory],
    file: IO[bytes],
    limit: int | None,
    progress: Callable[[int, int], None],
) -> Iterator[NewMemory]:
    """Yield the first ``limit`` lines, and report the progress on the way and at the end."""
    done = 0
    for done, line in enumerate(islice(lines, limit), start=1):
        yield line
        if done % LINES_A_REPORT == 0:
            progress(done, file.tell())
    progress(done, file.tell())


def read_lines(file: IO[bytes], *, compressed: bool) -> Iterator[NewMemory]:
    """Read and check a file line by line. Raises InvalidMemory with the number of a bad line."""
    opened: Any = gzip.GzipFile(fileobj=file) if compressed else file
    now = datetime.now(UTC)
    for number, text in enumerate(opened, 1):
        if not text.strip():
            continue
        try:
            yield _read_line(text, now)
        except (ValueError, RecursionError) as error:
            raise InvalidMemory(f"line {number}: {error}") from error


def _read_line(text: bytes, now: datetime) -> NewMemory:
    try:
        read = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON ({error.msg} at character {error.pos + 1})") from error
    if not isinstance(read, dict):
        raise ValueError("no JSON object")  # noqa: TRY004 - bad input, not a bad type of ours
    if unknown := sorted(set(read) - KEYS):
        raise ValueError(f"unknown key {unknown[0]!r}; allowed are {', '.join(sorted(KEYS))}")
    user_id, project_id = read.get("user_id"), read.get("project_id")
    if not isinstance(user_id, str) or not user_id:
        raise ValueError("user_id has to be a text that is not empty")
    if project_id is not None and not isinstance(project_id, str):
        raise ValueError("project_id has to be a text")
    if "raw_data" not in read:
        raise ValueError("raw_data is missing")
    created_at = read.get("created_at")
    return NewMemory(
        user_id,
        project_id,
        now if created_at is None else _time(created_at),
        json.dumps(read["raw_data"], ensure_ascii=False),
    )


def _time(value: object) -> datetime:
    try:
        when = datetime.fromisoformat(str(value))
    except ValueError:
        raise ValueError("created_at has to be an ISO 8601 time") from None
    return when if when.tzinfo else when.replace(tzinfo=UTC)
