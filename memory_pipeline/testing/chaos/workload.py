"""An application that writes: at a steady rate, directly to Postgres, in every form that SQL has.

Each writer changes memories of its own, so that the answer to its last write is their state. An id
is reserved before the statement, so that a memory whose COMMIT got no answer has a known id.
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
from memory_pipeline.testing.chaos.expected_state import ExpectedState
from memory_pipeline.testing.chaos.history import History, Sort, Write, now
from memory_pipeline.testing.chaos.payloads import POISON, REFUSED, content, digest, poison
from memory_pipeline.testing.chaos.sql_writes import PlannedWrite, new_ids, write

WRITERS = 3
IDS_AT_ONCE = 100
# The mix of a hundred statements; poison is planted separately.
MIX: dict[Sort, int] = {
    "insert": 40, "update": 30, "delete": 15, "move": 5, "transaction": 5, "rollback": 3,
    "savepoint": 1, "copy": 1,
}  # fmt: skip
# The new memories of a statement.
NEW: dict[Sort, int] = {"insert": 1, "savepoint": 2, "copy": 15}
ROWS_A_TRANSACTION = 4
VECTOR_SHARE = 0.1
# The memories of a run stop growing here: inserts are replaced by deletes.
MOST_MEMORIES = 9_000
# How unequally writes are spread over tenants and memories.
TENANT_SKEW, MEMORY_SKEW = 0.8, 3.0
RECONNECT_SECONDS = 0.3
POISON_AT_MOST = 40


@dataclass(slots=True)
class OwnMemories:
    """A writer's memories, with the tenant and the content of each."""

    ids: list[MemoryId] = field(default_factory=list)
    state: dict[MemoryId, tuple[TenantId, Any]] = field(default_factory=dict)

    def settle(self, plans: Sequence[PlannedWrite], *, done: bool) -> None:
        """Apply a write that was answered; without an answer, never write its memories again."""
        for one in plans:
            if done and one.tenant is not None:
                if one.memory_id not in self.state:
                    self.ids.append(one.memory_id)
                self.state[one.memory_id] = (one.tenant, one.value)
            elif self.state.pop(one.memory_id, None) is not None:
                self.ids.remove(one.memory_id)


class Workload:
    """Writers in threads of their own, from ``start`` to ``stop``."""

    def __init__(
        self,
        connect: Callable[[str], psycopg.Connection],
        tenants: Sequence[TenantId],
        history: History,
        expected: ExpectedState,
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
        self._expected = expected
        self._rate = rate
        self._seed = seed
        self._memories = [OwnMemories() for _ in range(WRITERS)]
        self._chances = [random.Random(seed * 1000 + n) for n in range(WRITERS)]  # noqa: S311
        self._planting = random.Random(seed)  # noqa: S311 - no cryptography
        self._ids: list[list[MemoryId]] = [[] for _ in range(WRITERS)]
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()  # of the counts

    @property
    def memories(self) -> int:
        """How many memories exist, by the answers that the writers got."""
        return sum(len(own.ids) for own in self._memories)

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
        """Stop writing; return when every statement has ended."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def plant(self, count: int) -> None:
        """Plant poison: memories that the model or Chroma refuses, in random tenants."""
        chance = self._planting
        with self._connect("chaos-planter") as connection:
            register_vector(connection)
            for number in range(min(count, POISON_AT_MOST - len(self.poisoned))):
                tenant = self._tenant(chance)
                (memory_id,) = new_ids(connection, 1)
                value = poison(chance, POISON if number % 2 else REFUSED)
                self.poisoned[memory_id] = tenant
                one = PlannedWrite(memory_id, tenant, value)
                self._record("poison", [one], partial(write, connection, "poison", [one]))

    def _run(self, number: int) -> None:
        chance, own = self._chances[number], self._memories[number]
        turn = time.monotonic()
        while not self._stop.is_set():
            try:
                with self._connect("chaos-application") as connection:
                    register_vector(connection)
                    while not self._stop.is_set():
                        written = self._statement(connection, number, chance, own)
                        # The writes that an outage has prevented are not made up for.
                        turn = max(turn + written * WRITERS / self._rate, time.monotonic() - 0.5)
                        self._stop.wait(max(0.0, turn - time.monotonic()))
            except psycopg.Error:
                self._stop.wait(RECONNECT_SECONDS)

    def _statement(
        self, connection: psycopg.Connection, number: int, chance: random.Random, own: OwnMemories
    ) -> int:
        """Execute one statement; return how many memories it concerned. Raises psycopg.Error."""
        sort = chance.choices([*MIX], [*MIX.values()])[0]
        if len(own.ids) < ROWS_A_TRANSACTION * 2:
            sort = "insert"
        elif len(own.ids) > MOST_MEMORIES / WRITERS and sort in {"insert", "copy"}:
            sort = "delete"
        if new := NEW.get(sort):
            plans = self._new(self._take_ids(connection, number, new), chance)
            if sort == "savepoint":
                plans[-1].kept = False
        else:
            count = ROWS_A_TRANSACTION if sort in {"transaction", "rollback"} else 1
            chosen = sorted({_hot(own.ids, chance) for _ in range(count)})
            plans = [self._change(sort, memory_id, chance, own) for memory_id in chosen]
        vector = None
        if sort == "insert" and chance.random() < VECTOR_SHARE:
            vector = HashingEmbedder().embed([json.dumps(plans[0].value)])[0]
        done = self._record(sort, plans, partial(write, connection, sort, plans, vector))
        own.settle([one for one in plans if one.kept], done=done)
        if not done:
            raise psycopg.OperationalError("the statement failed")
        with self._lock:
            self.changes += len(plans)
        return len(plans)

    def _new(self, ids: Sequence[MemoryId], chance: random.Random) -> list[PlannedWrite]:
        return [PlannedWrite(i, self._tenant(chance), content(chance)) for i in ids]

    def _change(
        self, sort: Sort, memory_id: MemoryId, chance: random.Random, own: OwnMemories
    ) -> PlannedWrite:
        tenant, value = own.state[memory_id]
        kind: Sort = sort
        if sort in {"transaction", "rollback"}:
            kind = chance.choices(["update", "delete", "move"], [6, 2, 2])[0]  # type: ignore[assignment]
        kept = sort != "rollback"
        if kind == "delete":
            return PlannedWrite(memory_id, None, kept=kept)
        if kind == "move":
            return PlannedWrite(memory_id, self._tenant(chance), value, changed=False, kept=kept)
        return PlannedWrite(memory_id, tenant, content(chance), kept=kept)

    def _record(
        self, sort: Sort, plans: Sequence[PlannedWrite], execute: Callable[[], None]
    ) -> bool:
        """Execute a statement and record its answer; return whether it succeeded for certain."""
        self._expected.begin(one.memory_id for one in plans)
        begun, reason = now(), ""
        try:
            execute()
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
                ("info" if reason else "ok") if one.kept else "fail",
                reason,
            )
            self._expected.apply(row)
            self._history.append(row)
        return not reason

    def _tenant(self, chance: random.Random) -> TenantId:
        return chance.choices(self._tenants, self._weights)[0]

    def _take_ids(self, connection: psycopg.Connection, number: int, count: int) -> list[MemoryId]:
        reserved = self._ids[number]
        if len(reserved) < count:
            reserved += new_ids(connection, IDS_AT_ONCE)
        return [reserved.pop() for _ in range(count)]


def _hot(ids: Sequence[MemoryId], chance: random.Random) -> MemoryId:
    """Choose a memory; the first ones far more often than the last."""
    return ids[int(len(ids) * chance.random() ** MEMORY_SKEW)]
