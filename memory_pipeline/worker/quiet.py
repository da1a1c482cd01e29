"""When a worker may touch Postgres: always while there is work; while there is none, rarely.

For a database that bills for being awake. A worker without work for a while *rests*: its tasks may
touch Postgres once each in every ``seconds``, all of them at the same time, so that the database
wakes once and may sleep in between. A hint or a pending change ends the rest at once.

The order in which a rest begins is the design (``BackgroundTasks`` does the steps):

1. there was no work for ``after_seconds``: no pending change, not even one that waits for later
2. an epoch is begun that is newer than the last work: while the worker rests none begins, and files
   of Postgres that are put back meanwhile are still noticed
3. the heartbeat says for how long the worker may be silent, so that nobody takes it for dead
4. the worker rests, unless there was work in the meantime
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from memory_pipeline.clock import SYSTEM_CLOCK, Clock

# Shorter than the sleep that any database takes minutes to begin; longer than an application pauses
# between two writes of one conversation.
AFTER_SECONDS = 15.0


@dataclass(eq=False, kw_only=True)
class Quiet:
    """The rests of one worker. Thread-safe.

    Attributes:
        seconds: the longest time between two touches of Postgres while there is no work; 0: the
            worker never rests.
        after_seconds: the time without work after which it rests.
        clock: measures both.

    """

    seconds: float = 0.0
    after_seconds: float = AFTER_SECONDS
    clock: Clock = SYSTEM_CLOCK
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)
    _work_at: float = field(init=False)
    _rests_since: float | None = field(init=False, default=None)
    # The last burst of this rest in which each task ran.
    _ran_in: dict[str, int] = field(init=False, default_factory=dict)
    _on_end: Callable[[], None] = field(init=False, default=lambda: None)

    def __post_init__(self) -> None:
        self._work_at = self.clock.monotonic()

    def watch(self, on_end: Callable[[], None]) -> None:
        """Have ``on_end`` called when a rest ends, in the thread that ends it."""
        self._on_end = on_end

    def work(self) -> None:
        """Record that there is work; a rest ends."""
        with self._lock:
            self._work_at = self.clock.monotonic()
            ended, self._rests_since = self._rests_since is not None, None
        if ended:
            self._on_end()

    def idle_seconds(self) -> float:
        """Return the time since there was work."""
        with self._lock:
            return self.clock.monotonic() - self._work_at

    @property
    def rests(self) -> bool:
        """Whether the worker rests."""
        with self._lock:
            return self._rests_since is not None

    def is_due(self) -> bool:
        """Whether the worker may begin to rest, or rests already."""
        return self.seconds > 0 and self.idle_seconds() >= self.after_seconds

    def rest(self, idle_seconds: float) -> None:
        """Begin a rest, unless there was work within these seconds."""
        with self._lock:
            now = self.clock.monotonic()
            if self._rests_since is None and now - self._work_at >= idle_seconds:
                self._rests_since = now
                self._ran_in.clear()

    def may_touch(self, task: str) -> bool:
        """Whether a task may touch Postgres now; in a rest, once in each burst."""
        with self._lock:
            if self._rests_since is None:
                return True
            burst = int((self.clock.monotonic() - self._rests_since) / self.seconds)
            if burst <= self._ran_in.get(task, 0):
                return False
            self._ran_in[task] = burst
        return True

    def missed(self, task: str) -> None:
        """Let a task run again in this burst: Postgres did not answer, it may be waking up."""
        with self._lock:
            self._ran_in.pop(task, None)

    def seconds_until_touch(self, task: str) -> float:
        """Return the time until a task may touch Postgres."""
        with self._lock:
            if self._rests_since is None:
                return 0.0
            since = self.clock.monotonic() - self._rests_since
            burst = max(int(since / self.seconds), self._ran_in.get(task, 0) + 1)
            return max(0.0, burst * self.seconds - since)
