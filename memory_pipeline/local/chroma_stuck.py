"""Whether a local Chroma server has locked itself out: it answers some reads, and no write again.

When the first write to a collection meets a full disk, Chroma 1.5.9 leaves a transaction of its
SQLite open, for good: its writers wait 1,000 s for their own server, also when there is room again.
"""

import sqlite3
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

# A transaction of Chroma's lasts for a second or two, and writes meanwhile.
LOCKED_SECONDS = 30.0
LOOKS = 10


@dataclass(slots=True)
class WriteLock:
    """Watches the write lock of a server's database from outside; looks, and changes nothing.

    While files come, go or are written, the server works, and a look is a glance at their times.
    """

    data_dir: Path
    seconds: float = LOCKED_SECONDS
    _seen: tuple[int, ...] = ()
    _since: float = 0.0
    _looked: float = 0.0

    def stuck(self) -> bool:
        """Whether the lock was held at each look for too long, and nothing was written."""
        now = time.monotonic()
        apart = now - self._looked
        if apart < self.seconds / LOOKS:
            return False
        self._looked = now
        seen = self._files()
        # Whoever has not looked for long was stopped, and so was the server, it may be.
        if apart > self.seconds / 2 or seen != self._seen or not self._held():
            self._seen, self._since = seen, now
            return False
        return now - self._since >= self.seconds

    def _files(self) -> tuple[int, ...]:
        found: list[int] = []
        for name in ("chroma.sqlite3", "chroma.sqlite3-journal"):
            with suppress(OSError):
                stat = (self.data_dir / name).stat()
                found += [stat.st_ino, stat.st_size, stat.st_mtime_ns]
        return tuple(found)

    def _held(self) -> bool:
        """Whether somebody has the lock: where nobody has, it is taken and given back at once."""
        database = (self.data_dir / "chroma.sqlite3").absolute().as_uri()
        try:
            with closing(sqlite3.connect(f"{database}?mode=rw", uri=True, timeout=0)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
        except sqlite3.DatabaseError as error:
            return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
        return False
