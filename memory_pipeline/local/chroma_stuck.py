"""Find out that a local Chroma server is stuck: it answers some reads and takes no write again.

When the first write to a collection meets a full disk, Chroma 1.5.9 never closes a transaction of
its SQLite: its writers wait 1,000 s for their own server, also when there is room again.
"""

import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from memory_pipeline.clock import SYSTEM_CLOCK, Clock

# A transaction of Chroma lasts for a second or two, and writes to the files throughout.
LOCKED_SECONDS = 30.0
CHECKS = 10


@dataclass(slots=True)
class WriteLockWatch:
    """Watches the write lock of a server's database from outside; changes nothing.

    A server whose files are created, deleted or written works: such a check only reads their times.
    """

    data_dir: Path
    seconds: float = LOCKED_SECONDS
    clock: Clock = SYSTEM_CLOCK
    _seen: tuple[int, ...] = ()
    _since: float = 0.0
    _checked: float = 0.0

    def stuck(self) -> bool:
        """Whether the lock was held at each check for ``seconds``, and nothing was written."""
        now = self.clock.monotonic()
        apart = now - self._checked
        if apart < self.seconds / CHECKS:
            return False
        self._checked = now
        seen = self._files()
        # A long gap between two checks: this process was paused, and the server perhaps as well.
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
        """Whether the lock is held; a free one is taken and released at once."""
        database = (self.data_dir / "chroma.sqlite3").absolute().as_uri()
        try:
            with closing(sqlite3.connect(f"{database}?mode=rw", uri=True, timeout=0)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
        except sqlite3.DatabaseError as error:
            return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
        return False
