"""Who acts next: greenlets, a seed, and a clock that moves only when nobody wants to act now.

Every call of a port is a place where others may act, so one seed is one interleaving. Nothing here
knows what is synced. There is one thread and no time: `VirtualClock`, `VirtualEvent` and
`VirtualPrefetch` are handed to the core in place of real time and threads.
"""

import heapq
from collections import deque
from collections.abc import Callable, Generator, Iterable
from itertools import count
from random import Random
from typing import Any, Generic, Protocol, TypeVar

from greenlet import getcurrent, greenlet  # type: ignore[import-untyped]

T = TypeVar("T")

A_SLICE_SECONDS = 0.004  # what an actor does between two calls of ports takes as long
IMMEDIATELY = 0.0


class Crashed(BaseException):
    """The process was killed: nothing that it does on the way out has any effect."""


class Stuck(Exception):
    """Nobody can ever act again, or virtual time has run out."""


class Clock(Protocol):
    """Whatever holds the time."""

    now: float


class Process:
    """Actors that are killed together, as threads are."""

    def __init__(self, name: str, role: Callable[[], None] | None = None) -> None:
        self.name = name
        self.role = role  # what is begun again after a crash; None: nothing goes wrong in it
        self.pace_seconds = 0.0  # the longest that one step takes it
        self.dead = False


class Actor:
    """One thread of one process."""

    __slots__ = ("greenlet", "held_at", "last", "name", "process", "until", "wake_at")

    def __init__(self, name: str, process: Process) -> None:
        self.name = name
        self.process = process
        self.wake_at = 0.0
        self.until: Callable[[], bool] | None = None
        self.held_at = 0.0  # when it renewed its lease last
        self.last = ""  # the step that it did last
        self.greenlet: greenlet


class Scheduler:
    """Picks who is next, by its seed alone."""

    def __init__(self, seed: int, clock: Clock) -> None:
        self.rng = Random(seed)
        self.clock = clock
        self.current: Actor | None = None
        self.steps = 0
        self._actors: list[Actor] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._hub = getcurrent()

    # ---- what the outside does

    def spawn(self, name: str, process: Process, work: Callable[[], Any]) -> Actor:
        """Begin an actor; it acts when it is picked."""
        actor = Actor(name, process)

        def body() -> None:
            try:
                work()
            except Crashed:
                return

        actor.greenlet = greenlet(body, self._hub)
        self._actors.append(actor)
        return actor

    def at(self, when: float, event: Callable[[], None]) -> None:
        """Have something happen at a virtual time."""
        heapq.heappush(self._events, (when, next(self._numbers), event))

    def run(self, *, while_: Callable[[], bool], after: Callable[[], None]) -> None:
        """Let actors act as long as asked; call ``after`` after each slice. Raises Stuck."""
        while while_():
            self._one()
            after()

    def kill(self, process: Process) -> None:
        """Kill a process; whoever of it is current has to raise Crashed by itself."""
        process.dead = True
        for actor in [a for a in self._actors if a.process is process and a is not self.current]:
            self._actors.remove(actor)
            # One that has never run has nothing to leave; the others go through their finally.
            if actor.greenlet and not actor.greenlet.dead:
                outer, self.current = self.current, actor
                actor.greenlet.parent = getcurrent()  # where it goes when it has ended
                actor.greenlet.throw(Crashed)
                self.current = outer

    def kill_all(self) -> None:
        """Kill every process, from outside of all of them."""
        for process in {id(a.process): a.process for a in self._actors}.values():
            self.kill(process)

    def hurry(self) -> None:
        """Let nobody be slow any more."""
        for actor in self._actors:
            actor.process.pace_seconds = 0.0

    def is_alive(self, actor: Actor) -> bool:
        """Whether an actor will act again."""
        return actor in self._actors

    # ---- what actors do

    def pause(self) -> None:
        """Let others act."""
        self._hub.switch()

    def sleep(self, seconds: float) -> None:
        """Do nothing for some virtual time; outside of all actors, let it pass."""
        actor = self.current
        if actor is None:
            self.clock.now += seconds
            self._fire()
            return
        if actor.process.dead:
            raise Crashed
        actor.wake_at = self.clock.now + seconds
        self._hub.switch()

    def wait(self, until: Callable[[], bool]) -> None:
        """Do nothing until something is so."""
        actor = self.current
        if actor is None or actor.process.dead:
            raise Crashed
        actor.until = until
        self._hub.switch()

    # ---- the loop

    def _one(self) -> None:
        self.clock.now += A_SLICE_SECONDS
        self._fire()
        now = self.clock.now
        able = [a for a in self._actors if a.wake_at <= now and (a.until is None or a.until())]
        if not able:
            self._jump()
            return
        actor = able[int(self.rng.random() * len(able))]
        actor.until = None
        self.current = actor
        try:
            actor.greenlet.switch()
        finally:
            self.current = None
            if actor.greenlet.dead and actor in self._actors:
                self._actors.remove(actor)
        self.steps += 1

    def _jump(self) -> None:
        waking = [a.wake_at for a in self._actors if a.until is None]
        if self._events:
            waking.append(self._events[0][0])
        if not waking:
            raise Stuck("nobody can act any more")
        self.clock.now = max(self.clock.now, min(waking))

    def _fire(self) -> None:
        while self._events and self._events[0][0] <= self.clock.now:
            heapq.heappop(self._events)[2]()


class VirtualClock:
    """The core's clock: what it waits for is virtual time."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def monotonic(self) -> float:
        """Return the virtual time."""
        return self._scheduler.clock.now

    def sleep(self, seconds: float) -> None:
        """Let virtual time pass."""
        if seconds > IMMEDIATELY:
            self._scheduler.sleep(seconds)


class VirtualEvent:
    """Stands for ``threading.Event``: nobody sets it, so waiting is sleeping."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def is_set(self) -> bool:
        """Tell that it is not set."""
        return False

    def set(self) -> None:
        """Refuse: no simulated process is told to stop."""
        raise NotImplementedError

    def wait(self, timeout: float) -> bool:
        """Sleep."""
        if timeout > IMMEDIATELY:
            self._scheduler.sleep(timeout)
        return False


class NoLock:
    """Stands for a lock within one process: each process here has one thread that takes it."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


class VirtualPrefetch:
    """Stands for ``prefetch``: another actor of the same process works ahead."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def __call__(self, source: Iterable[T], *, depth: int) -> Generator[T]:
        """Iterate over ``source``, at most ``depth`` results ahead."""
        scheduler, caller = self._scheduler, self._scheduler.current
        if caller is None:  # the test itself looks
            yield from source
            return
        line: Line[T] = Line(depth)
        child = scheduler.spawn(
            f"{caller.name}/ahead", caller.process, lambda: line.fill(source, scheduler)
        )
        try:
            while True:
                if not line.results and not line.ended:
                    scheduler.wait(line.has_more)
                if line.results:
                    line.room += 1
                    yield line.results.popleft()
                elif line.error is not None:
                    raise line.error
                else:
                    return
        finally:
            line.unwanted = True
            line.room += 1
            if not caller.process.dead and scheduler.is_alive(child):
                scheduler.wait(lambda: not scheduler.is_alive(child))


class Line(Generic[T]):
    """Results that stand ready, and room for more."""

    def __init__(self, depth: int) -> None:
        self.results: deque[T] = deque()
        self.room = depth
        self.unwanted = False
        self.ended = False
        self.error: Exception | None = None

    def has_more(self) -> bool:
        """Whether there is a result, or an end."""
        return bool(self.results) or self.ended

    def has_room(self) -> bool:
        """Whether the next result may be begun."""
        return self.room > 0

    def fill(self, source: Iterable[T], scheduler: Scheduler) -> None:
        """Work until the source ends, or nobody wants more of it."""
        try:
            self._take_room(scheduler)
            for result in source:
                if self.unwanted:
                    return
                self.results.append(result)
                self._take_room(scheduler)
        except Exception as error:  # noqa: BLE001 - raised again where the result is awaited
            self.error = error
        self.ended = True

    def _take_room(self, scheduler: Scheduler) -> None:
        if not self.has_room():
            scheduler.wait(self.has_room)
        self.room -= 1
