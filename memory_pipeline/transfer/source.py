"""Opens a file, a pipe or the standard input as text, whatever compresses it.

The name of a file says nothing here: what it is, is read from its first bytes.
"""

import bz2
import codecs
import gzip
import io
import lzma
import os
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from memory_pipeline.errors import InvalidMemory

STDIN = Path("-")
HEAD_BYTES = 512
# A file is compressed twice by accident, and never more often.
MOST_LAYERS = 3

UNPACKERS: dict[bytes, Any] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}
# What is no text, and how it becomes a file that an import takes.
FOREIGN: dict[bytes, str] = {
    b"\x28\xb5\x2f\xfd": "is compressed by zstd: zstd -dc FILE | memory-pipeline import -",
    b"\x04\x22\x4d\x18": "is compressed by lz4: lz4 -dc FILE | memory-pipeline import -",
    b"PK\x03\x04": "is a zip: unzip -p FILE conversations.json | memory-pipeline import - "
    "takes the file of that name out of it",
    b"SQLite format 3": "is a database of SQLite: sqlite3 -json FILE 'SELECT …' | "
    "memory-pipeline import -",
    b"PGDMP": "is a dump of pg_dump: pg_restore loads it",
    b"\xd0\xcf\x11\xe0": "is a file of Excel: save it as CSV",
}
PARQUET = b"PAR1"
WIDE = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}  # the byte order mark that PowerShell writes


@dataclass(frozen=True, slots=True)
class Source:
    """An open file: its unpacked bytes, what they are, and how much of it was read.

    ``is_stored``: the path names a file that is not compressed, which can be read from any place.
    """

    path: Path
    stream: IO[bytes]
    encoding: str
    is_parquet: bool
    total_bytes: int | None
    is_stored: bool
    _file: IO[bytes]

    def bytes_read(self) -> int:
        """Return how many bytes of the file were read, as it is stored; 0 where it cannot tell."""
        return self._file.tell() if self.total_bytes is not None else 0

    def text(self) -> io.TextIOWrapper:
        """Return the text, with any line end as a line feed.

        A byte that the encoding does not have stands there as a lone surrogate: what reads the text
        refuses the place where it is, and no other.
        """
        return io.TextIOWrapper(
            self.stream, encoding=self.encoding, errors="surrogateescape", newline=None
        )


@contextmanager
def opened(path: Path, *, encoding: str | None = None) -> Iterator[Source]:
    """Open a file; ``-`` is the standard input.

    Args:
        path: a file, a pipe, or ``-``.
        encoding: of its text; None: UTF-8, or UTF-16 where a byte order mark says so.

    Raises:
        InvalidMemory: it cannot be read, is cut off, or is no text; the message says what to do.

    """
    named = "the standard input" if path == STDIN else str(path)
    try:
        codecs.lookup(encoding or "utf-8")
    except LookupError:
        raise InvalidMemory(f"{encoding!r} is no encoding that Python knows") from None
    try:
        with _binary(path) as file:
            yield _source(path, file, encoding)
    except InvalidMemory as error:
        raise InvalidMemory(f"{named}: {error}; nothing was imported") from None
    except EOFError:
        raise InvalidMemory(
            f"{named} cannot be read: it is cut off before its end; copy it again; "
            "nothing was imported"
        ) from None
    except FileNotFoundError:
        raise InvalidMemory(f"{named} does not exist; nothing was imported") from None
    except (OSError, zlib.error, lzma.LZMAError, UnicodeError) as error:
        raise InvalidMemory(f"{named} cannot be read: {error}; nothing was imported") from None


@contextmanager
def _binary(path: Path) -> Iterator[IO[bytes]]:
    if path == STDIN:
        yield sys.stdin.buffer
        return
    with path.open("rb") as file:
        yield file


def _source(path: Path, file: IO[bytes], encoding: str | None) -> Source:
    head, stream = _headed(file)
    layers = 0
    while layers < MOST_LAYERS:
        unpack = next((u for magic, u in UNPACKERS.items() if head.startswith(magic)), None)
        if unpack is None:
            break
        head, stream = _headed(unpack(stream))
        layers += 1
    _refuse_foreign(head)
    wide = next((w for mark, w in WIDE.items() if head.startswith(mark)), None)
    return Source(
        path=path,
        stream=stream,
        encoding=encoding or wide or "utf-8",
        is_parquet=head.startswith(PARQUET),
        total_bytes=_size(file),
        is_stored=layers == 0 and _size(file) is not None and path != STDIN,
        _file=file,
    )


class _Rejoined(io.RawIOBase):
    """A stream whose first bytes were read already: a pipe cannot go back to them."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._head[: len(buffer)] or self._rest.read(len(buffer))
        self._head = self._head[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)


def _headed(stream: IO[bytes]) -> tuple[bytes, IO[bytes]]:
    """Return the first bytes of a stream, and the whole of it."""
    head = stream.read(HEAD_BYTES)
    return head, io.BufferedReader(_Rejoined(head, stream))


def _size(file: IO[bytes]) -> int | None:
    try:
        status = os.fstat(file.fileno())
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _refuse_foreign(head: bytes) -> None:
    for magic, advice in FOREIGN.items():
        if head.startswith(magic):
            raise InvalidMemory(f"it {advice}")
    if head[257:262] == b"ustar":
        raise InvalidMemory("it is an archive: tar -xOf FILE NAME | memory-pipeline import -")
