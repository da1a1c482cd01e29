"""An application that writes: at a steady rate, directly to Postgres, every way that SQL has.

Each writer changes memories of its own, so that what it was told is what stands. An id is taken
before the statement, so that a memory whose COMMIT was never answered has a name all the same.
"""

import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psycopg
from pgvector.psycopg import register_vector

from memory_pipeline.domain.types import MemoryId, TenantId
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.testing.chaos.expected_state import Books
from memory_pipeline.testing.chaos.failing_embedder import POISON, REFUSED
from memory_pipeline.testing.chaos.history import History, Sort, Write, now
from memory_pipeline.testing.chaos.payloads import content, digest, poison
from memory_pipeline.testing.chaos.sql_writes import PlannedWrite, new_ids, write

WRITERS = 3
IDS_AT_ONCE = 100
# Of a hundred statements; a poison memory is planted now and then besides.
MIX: dict[Sort, int] = {
    "insert": 40, "update": 30, "delete": 15, "move": 5, "transaction": 5, "rollback": 3,
    "savepoint": 1, "copy": 1,
}  # fmt: skip
# How many memories are new.
NEW: dict[Sort, int] = {"insert": 1, "savepoint": 2, "copy": 15}
ROWS_A_TRANSACTION = 4
VECTOR_SHARE = 0.1
# What a run may grow to; from then on as much goes as comes.
MOST_MEMORIES = 9_000
# How unequal tenants and memories are.
TENANT_SKEW, MEMORY_SKEW = 0.8, 3.0
RECONNECT_SECONDS = 0.3
POISON_AT_MOST = 40


@dataclass(slots=True)
class Mine:
    """A writer's memories: whose each is and what it says."""

    ids: list[MemoryId] = field(default_factory=list)
    state: dict[MemoryId, tuple[TenantId, Any]] = field(default_factory=dict)

    def settle(self, plans: Sequence[PlannedWrite], *, done: bool) -> None:
        """Take note of what stands; what nobody was told of is left alone from now on."""
        for one in plans:
            if done and one.tenant is not None:
                if one.memory_id not in self.state:
                    self.ids.append(one.memory_id)
                self.state[one.memory_id] = (one.tenant, one.value)
            elif self.state.pop(one.memory_id, None) is not None:
                self.ids.remove(one.memory_id)


class Workload:
    """Writers in threads of their own, until they are told to stop."""

    def __init__(
        self,
        connect: Callable[[str], psycopg.Connection],
        tenants: Sequence[TenantId],
        history: History,
        books: Books,
        *,
        rate: float,
        seed: int,
    ) -> None:
        self.changes = 0
        self.poisoned: dict[MemoryId, TenantId] = {}
        self._connect = connect
        self._tenants = tenants
        self._weights = [1 / (at + 1) ** TENANT_SKEW for at in range(len(tenants))]
        self._history = history
        self._books = books
        self._rate = rate
        self._seed = seed
        self._mine = [Mine() for _ in range(WRITERS)]
        self._chances = [random.Random(seed * 1000 + n) for n in range(WRITERS)]  # noqa: S311
        self._planting = random.Random(seed)  # noqa: S311 - no cryptography
        self._ids: list[list[MemoryId]] = [[] for _ in range(WRITERS)]
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()  # of the counts

    @property
    def memories(self) -> int:
        """How many memories stand, as far as the writers know."""
        return sum(len(mine.ids) for mine in self._mine)

    def start(self) -> None:
        """Begin to write."""
        self._stop.clear()
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"writer-{number}", daemon=True)
            for number in range(WRITERS)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop writing; returns when every statement has ended."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def plant(self, count: int) -> None:
        """Plant poison: memories that the model or Chroma refuses, in tenants by chance."""
        chance = self._planting
        with self._connect("chaos-planter") as connection:
            register_vector(connection)
            for number in range(min(count, POISON_AT_MOST - len(self.poisoned))):
                tenant = self._tenant(chance)
                (memory_id,) = new_ids(connection, 1)
                value = poison(chance, POISON if number % 2 else REFUSED)
                self.poisoned[memory_id] = tenant
                one = PlannedWrite(memory_id, tenant, value)
                self._tell("poison", [one], partial(write, connection, "poison", [one]))

    def _run(self, number: int) -> None:
        chance, mine = self._chances[number], self._mine[number]
        turn = time.monotonic()
        while not self._stop.is_set():
            try:
                with self._connect("chaos-application") as connection:
                    register_vector(connection)
                    while not self._stop.is_set():
                        written = self._statement(connection, number, chance, mine)
                        # What an outage has cost is not caught up with.
                        turn = max(turn + written * WRITERS / self._rate, time.monotonic() - 0.5)
                        self._stop.wait(max(0.0, turn - time.monotonic()))
            except psycopg.Error:
                self._stop.wait(RECONNECT_SECONDS)

    def _statement(
        self, connection: psycopg.Connection, number: int, chance: random.Random, mine: Mine
    ) -> int:
        """Write once; return how many memories that concerned. Raises what the connection says."""
        sort = chance.choices([*MIX], [*MIX.values()])[0]
        if len(mine.ids) < ROWS_A_TRANSACTION * 2:
            sort = "insert"
        elif len(mine.ids) > MOST_MEMORIES / WRITERS and sort in {"insert", "copy"}:
            sort = "delete"
        if new := NEW.get(sort):
            plans = self._new(self._take_ids(connection, number, new), chance)
            if sort == "savepoint":
                plans[-1].told = False
        else:
            count = ROWS_A_TRANSACTION if sort in {"transaction", "rollback"} else 1
            chosen = sorted({_hot(mine.ids, chance) for _ in range(count)})
            plans = [self._change(sort, memory_id, chance, mine) for memory_id in chosen]
        vector = None
        if sort == "insert" and chance.random() < VECTOR_SHARE:
            vector = HashingEmbedder().embed([json.dumps(plans[0].value)])[0]
        done = self._tell(sort, plans, partial(write, connection, sort, plans, vector))
        mine.settle([one for one in plans if one.told], done=done)
        if not done:
            raise psycopg.OperationalError("told so by the statement")
        with self._lock:
            self.changes += len(plans)
        return len(plans)

    def _new(self, ids: Sequence[MemoryId], chance: random.Random) -> list[PlannedWrite]:
        return [PlannedWrite(i, self._tenant(chance), content(chance)) for i in ids]

    def _change(
        self, sort: Sort, memory_id: MemoryId, chance: random.Random, mine: Mine
    ) -> PlannedWrite:
        tenant, value = mine.state[memory_id]
        kind: Sort = sort
        if sort in {"transaction", "rollback"}:
            kind = chance.choices(["update", "delete", "move"], [6, 2, 2])[0]  # type: ignore[assignment]
        told = sort != "rollback"
        if kind == "delete":
            return PlannedWrite(memory_id, None, told=told)
        if kind == "move":
            return PlannedWrite(memory_id, self._tenant(chance), value, changed=False, told=told)
        return PlannedWrite(memory_id, tenant, content(chance), told=told)

    def _tell(self, sort: Sort, plans: Sequence[PlannedWrite], do: Callable[[], None]) -> bool:
        """Do it and write down what came of it; False where nobody knows, or it failed."""
        self._books.begin(one.memory_id for one in plans)
        begun, reason = now(), ""
        try:
            do()
        except psycopg.Error as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
        ended = now()
        for one in plans:
            gone = one.tenant is None
            row = Write(
                sort,
                one.memory_id,
                one.tenant,
                None if gone else digest(one.value),
                begun,
                ended,
                ("info" if reason else "ok") if one.told else "fail",
                reason,
            )
            self._books.note(row)
            self._history.note(row)
        return not reason

    def _tenant(self, chance: random.Random) -> TenantId:
        return chance.choices(self._tenants, self._weights)[0]

    def _take_ids(self, connection: psycopg.Connection, number: int, count: int) -> list[MemoryId]:
        mine = self._ids[number]
        if len(mine) < count:
            mine += new_ids(connection, IDS_AT_ONCE)
        return [mine.pop() for _ in range(count)]


def _hot(ids: Sequence[MemoryId], chance: random.Random) -> MemoryId:
    """Choose a memory, some far more often than others."""
    return ids[int(len(ids) * chance.random() ** MEMORY_SKEW)]
