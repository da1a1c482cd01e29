"""Exports memories as the JSON lines that an import takes, in constant memory."""

import gzip
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO

from memory_pipeline.domain.types import TenantId
from memory_pipeline.errors import SettingsError
from memory_pipeline.transfer.ports import Exports
from memory_pipeline.transfer.source import STDIN

STDOUT = STDIN
LINES_A_REPORT = 1000


def export_file(
    memories: Exports,
    path: Path,
    *,
    tenants: Sequence[TenantId] | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> int:
    """Export memories as they stand now; return how many.

    A file is there once it is whole, and not before; only its owner may read it.

    Args:
        memories: where they are read.
        path: the file, compressed where its name ends in ``.gz``; ``-`` is the standard output.
        tenants: whose memories; None: all that belong to a tenant.
        progress: called with the number of memories so far.

    Raises:
        SettingsError: the file cannot be written.
        PostgresUnavailable: Postgres is down; there is no file.

    """
    count = 0
    with _opened(path) as file:
        for count, line in enumerate(memories.export(tenants), start=1):
            file.write(line.encode() + b"\n")
            if count % LINES_A_REPORT == 0:
                progress(count)
    progress(count)
    return count


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes] | gzip.GzipFile]:
    try:
        if path == STDOUT:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        elif path.exists() and not path.is_file():  # a pipe or a device cannot be replaced
            with path.open("wb") as file:
                yield file
        else:
            with _replacing(path) as file:
                yield file
    except BrokenPipeError:
        raise  # the reader has enough: the command line ends quietly
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error}") from None


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes] | gzip.GzipFile]:
    """Write another file and give it the name at the end. Raises OSError."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    unfinished = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            with _packed(file) if path.suffix.lower() == ".gz" else nullcontext(file) as out:
                yield out
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _packed(file: IO[bytes]) -> gzip.GzipFile:
    """Return a stream that compresses; without a time in it, so that equal exports are equal."""
    return gzip.GzipFile(fileobj=file, mode="wb", mtime=0)
