"""Injects faults by a seed: which, when, for how long, up to three at once. Heals each of them.

Kinds are dealt like cards: each comes once before any comes again.
"""

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from textwrap import shorten

import httpx
import psycopg
from chromadb.errors import ChromaError

from memory_pipeline.errors import PipelineError
from memory_pipeline.testing.chaos.faults import Fault
from memory_pipeline.testing.chaos.history import FaultPeriod, History, now
from memory_pipeline.testing.chaos.stack import PrivateStack

AT_ONCE = 3
RETRY_SECONDS = 0.05
LONGEST_HEALING_SECONDS = 240.0
REASON_LENGTH = 200


class Nemesis:
    """Runs faults, each in a thread of its own."""

    def __init__(
        self, stack: PrivateStack, faults: Sequence[Fault], history: History, *, seed: int
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.skipped: dict[str, str] = {}
        self._stack = stack
        self._history = history
        self._chance = random.Random(seed)  # noqa: S311 - no cryptography
        self._faults = list(faults)
        self._deck: deque[Fault] = deque()
        self._heal = threading.Event()
        self._held: set[str] = set()
        self._running: list[threading.Thread] = []
        self._lock = threading.Lock()  # of the attributes that the threads share

    def run(self, count: int, seconds: float) -> None:
        """Inject ``count`` faults, spread over ``seconds``; then heal all and return."""
        self._heal.clear()
        began = time.monotonic()
        try:
            for done in range(count):
                _wait_until(began + seconds * done / count)
                self._begin()
            _wait_until(began + seconds)
        except BaseException:  # an interrupt does not wait for the commands of the faults
            self._stack.end_commands()
            raise
        finally:
            self._heal.set()
            for thread in self._running:
                thread.join(LONGEST_HEALING_SECONDS)
            self._running.clear()

    def _begin(self) -> None:
        """Begin the next fault whose needs no running fault holds; wait until there is one."""
        while True:
            if not self._deck:
                self._deck.extend(self._chance.sample(self._faults, len(self._faults)))
            with self._lock:
                self._running = [t for t in self._running if t.is_alive()]
                free = [f for f in self._deck if not self._held & f.needs]
                if free and len(self._running) < AT_ONCE:
                    self._deck.remove(free[0])
                    self._held |= free[0].needs
                    self._start(free[0])
                    return
            time.sleep(RETRY_SECONDS)

    def _start(self, fault: Fault) -> None:
        seconds = self._chance.uniform(*fault.seconds)
        chance = random.Random(self._chance.getrandbits(32))  # noqa: S311 - no cryptography
        thread = threading.Thread(
            target=self._inject, args=(fault, seconds, chance), name=fault.kind, daemon=True
        )
        self._running.append(thread)
        thread.start()

    def _inject(self, fault: Fault, seconds: float, chance: random.Random) -> None:
        begun, detail = now(), ""
        try:
            with fault.inject(self._stack, chance) as detail:
                self._heal.wait(seconds)
        except (PipelineError, psycopg.Error, httpx.HTTPError, ChromaError, ValueError) as error:
            # Another fault prevented it. Its block has healed the part that it had injected.
            message = str(error).partition("\n")[0].replace(str(self._stack.home), "…")
            why = f"{type(error).__name__}: {shorten(message, REASON_LENGTH, placeholder=' …')}"
            detail = f"{detail}; {why}" if detail else why
            with self._lock:
                self.skipped[fault.kind] = why
        else:
            with self._lock:
                self.counts[fault.kind] += 1
        finally:
            self._history.append(FaultPeriod(fault.kind, begun, now(), detail))
            with self._lock:
                self._held -= fault.needs


def _wait_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))
