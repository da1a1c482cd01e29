"""Imports a file: all of it or nothing, or all but what is refused and written down.

An import does not sync: the triggers capture it like any other write.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Literal

from memory_pipeline.domain.outcomes import Stored
from memory_pipeline.domain.types import NewMemory, Origin
from memory_pipeline.errors import InvalidMemory
from memory_pipeline.transfer.json_values import Unreadable, values
from memory_pipeline.transfer.mapping import Drafts, Finish, Notes
from memory_pipeline.transfer.ports import NewMemories
from memory_pipeline.transfer.source import Source, opened
from memory_pipeline.transfer.tables import csv_rows, parquet_rows

# Memories in one statement, and the characters after which it is full.
BATCH_MEMORIES = 5000
BATCH_CHARACTERS = 2**22

Format = Literal["json", "csv", "parquet"]
SUFFIXES: dict[str, Format] = {".csv": "csv", ".tsv": "csv"}


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import has done, how many parts of the file it skipped, and what it noted."""

    stored: Stored
    skipped: int
    notes: dict[str, int]


@dataclass(frozen=True, slots=True)
class Reading:
    """How a file is read.

    ``format``: None: Parquet by its content, CSV by its name, otherwise JSON.
    """

    drafts: Drafts
    finish: Finish
    format: Format | None = None
    encoding: str | None = None
    limit: int | None = None


def import_file(
    memories: NewMemories,
    path: Path,
    reading: Reading,
    *,
    skip_bad: Path | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Imported:
    """Import a file in one transaction.

    Args:
        memories: where they are stored.
        path: the file; ``-`` is the standard input.
        reading: how it is read.
        skip_bad: where to write what is refused, as JSON lines; None: a refusal ends the import.
        progress: called with the bytes read of the file.

    Raises:
        InvalidMemory: names the line and the reason; nothing was imported.
        SettingsError: Parquet is not supported here.
        PostgresUnavailable: Postgres is down; nothing was imported.

    """
    with opened(path, encoding=reading.encoding) as source, ExitStack() as stack:
        bad = _Bad(stack.enter_context(_bad_file(skip_bad, path)) if skip_bad else None)
        stored = memories.store(
            _batches(_memories(source, reading, bad), lambda: progress(source.bytes_read())),
            refused=lambda memory, reason: bad(memory.origin, reason),
            once=reading.finish.once,
        )
        return Imported(stored, bad.count, dict(reading.finish.notes))


def drafted(path: Path, reading: Reading) -> Iterator[NewMemory]:
    """Iterate over the memories of a file. Raises InvalidMemory at the first that is refused."""
    with opened(path, encoding=reading.encoding) as source:
        yield from _memories(source, reading, _Bad(None))


@dataclass(slots=True)
class _Bad:
    """Writes down what is refused; without a file the first refusal ends the import."""

    file: IO[str] | None
    count: int = 0

    def __call__(self, origin: Origin, reason: str) -> None:
        if self.file is None:
            # A reason that names an option says itself what to do.
            advice = "" if "--" in reason else "; --skip-bad FILE imports the others"
            raise InvalidMemory(f"{origin}: {reason}{advice}")
        self.count += 1
        written = {"line": origin.line, "element": origin.element, "reason": reason}
        # Bytes that are not of the file's encoding are shown as \\xe9.
        text = origin.text.encode(errors="surrogateescape").decode(errors="backslashreplace")
        try:
            self.file.write(json.dumps({**written, "text": text}, ensure_ascii=False) + "\n")
            self.file.flush()
        except OSError as error:
            raise InvalidMemory(f"--skip-bad FILE cannot be written: {error}") from None


def _bad_file(path: Path, imported: Path) -> IO[str]:
    """Open the file of refusals, readable by its owner alone: it holds memories."""
    try:
        if path.exists() and imported.exists() and path.samefile(imported):
            raise InvalidMemory("--skip-bad would overwrite the file itself")
        path.touch(mode=0o600)
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise InvalidMemory(f"--skip-bad {path} cannot be written: {error}") from None


def _memories(source: Source, reading: Reading, bad: _Bad) -> Iterator[NewMemory]:
    """Yield the memories of a file, up to the limit."""
    yield from islice(_all_memories(source, reading, bad), reading.limit)


def _all_memories(source: Source, reading: Reading, bad: _Bad) -> Iterator[NewMemory]:
    for value in _values(source, reading.format):
        if isinstance(value, Unreadable):
            bad(value.origin, value.reason)
            continue
        notes: Notes = Counter()
        drafts = reading.drafts(value.text, notes)
        try:
            found = list(drafts)
        except (ValueError, IndexError, RecursionError) as error:
            bad(value, _reason(error))
            continue
        reading.finish.notes.update(notes)
        for draft in found:
            try:
                yield reading.finish(draft, value)
            except (ValueError, RecursionError) as error:
                bad(value, _reason(error))


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply to be taken apart"
    if isinstance(error, json.JSONDecodeError | IndexError):
        return "no JSON"
    return str(error)


def _values(source: Source, format_: Format | None) -> Iterator[Origin | Unreadable]:
    kind = format_ or SUFFIXES.get(source.path.suffix.lower())
    if source.is_parquet or kind == "parquet":
        return parquet_rows(source)
    return csv_rows(source.text()) if kind == "csv" else values(source.text())


def _batches(
    memories: Iterator[NewMemory], progress: Callable[[], None]
) -> Iterator[list[NewMemory]]:
    """Yield the memories in batches of a bounded size."""
    batch: list[NewMemory] = []
    characters = 0
    for memory in memories:
        batch.append(memory)
        characters += len(memory.raw)
        if len(batch) == BATCH_MEMORIES or characters >= BATCH_CHARACTERS:
            yield batch
            progress()
            batch, characters = [], 0
    if batch:
        yield batch
    progress()
