"""Import memories from a file of JSON lines, all of them or none.

A line is ``{"user_id", "project_id", "created_at", "raw_data"}``; project_id and created_at may be
absent. It says nothing about syncing: the triggers see an import like any other write.
"""

import gzip
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import psycopg

from memory_pipeline.errors import InvalidMemory
from memory_pipeline.postgres.database import Database, queries

KEYS = frozenset({"user_id", "project_id", "created_at", "raw_data"})


@dataclass(frozen=True, slots=True)
class Line:
    """One memory of a file."""

    user_id: str
    project_id: str | None
    created_at: datetime
    raw: str


def import_file(
    database: Database,
    path: Path,
    *,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Import a .jsonl or .jsonl.gz file in one COPY; return the number of memories.

    Args:
        database: where memory_logs is.
        path: the file.
        limit: import only the first so many lines.
        progress: told lines done and bytes read of the file.

    Raises:
        InvalidMemory: names the first bad line; nothing was imported.

    """
    done = 0
    try:
        with path.open("rb") as file, database.transaction() as connection:
            with connection.cursor().copy(queries().copy_in.sql) as copy:
                for line in read_lines(file, compressed=path.suffix == ".gz"):
                    if limit is not None and done >= limit:
                        break
                    copy.write_row((line.user_id, line.project_id, line.raw, line.created_at))
                    done += 1
                    if progress is not None and done % 500 == 0:
                        progress(done, file.tell())
            if progress is not None:
                progress(done, file.tell())
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        where = re.search(r"line (\d+)", error.diag.context or "")
        number = where[1] if where else "?"
        raise InvalidMemory(
            f"{path}, line {number}: Postgres refuses it: {error.diag.message_primary}; "
            "nothing was imported"
        ) from error
    except InvalidMemory as error:
        raise InvalidMemory(f"{path}, {error}; nothing was imported") from error
    except (OSError, EOFError, gzip.BadGzipFile) as error:
        raise InvalidMemory(f"{path} cannot be read: {error}; nothing was imported") from error
    return done


def read_lines(file: IO[bytes], *, compressed: bool) -> Iterator[Line]:
    """Read and check line by line. Raises InvalidMemory with the number of a bad line."""
    opened: Any = gzip.GzipFile(fileobj=file) if compressed else file
    now = datetime.now(UTC)
    for number, text in enumerate(opened, 1):
        if not text.strip():
            continue
        try:
            yield _read_line(text, now)
        except (ValueError, RecursionError) as error:
            raise InvalidMemory(f"line {number}: {error}") from error


def _read_line(text: bytes, now: datetime) -> Line:
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
    return Line(
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
