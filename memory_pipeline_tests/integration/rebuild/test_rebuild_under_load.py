"""A rebuild while an application writes and searches: nothing missed, nothing wrong, all fresh."""

import os
import random
import statistics
import threading
import time
from dataclasses import dataclass, field
from itertools import islice

import psycopg
from psycopg.types.json import Jsonb

from memory_pipeline.content.document import compose
from memory_pipeline.domain.types import MemoryId, RebuildId, TenantId
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.postgres.database import Database
from memory_pipeline.settings import Settings
from memory_pipeline.testing.benchmarks.rows import Load, fill
from memory_pipeline_tests.words import drained

ROWS = int(os.environ.get("LOAD_ROWS", "2000"))
CHANGES_A_SECOND = 20
LOAD = Load(rows=ROWS, tenants=1)
REBUILT = LOAD.tenant(0)
OTHERS = [TenantId(f"other-{n}") for n in range(5)]


@dataclass
class Application:
    """Writes at a steady rate, and remembers when it committed what."""

    url: str
    tenants: list[TenantId]
    stop: threading.Event
    committed: dict[MemoryId, float] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Insert, update and delete until told to stop."""
        chance = random.Random(1)
        mine: list[MemoryId] = []
        with psycopg.connect(self.url, autocommit=True) as connection:
            while not self.stop.wait(1 / CHANGES_A_SECOND):
                tenant, action = chance.choice(self.tenants), chance.random()
                raw = Jsonb({"summary": f"a change {chance.random()}"})
                try:
                    if action < 0.5 or len(mine) < 10:
                        row = connection.execute(
                            "INSERT INTO memory_logs (user_id, raw_data) VALUES (%s, %s)"
                            " RETURNING id",
                            (tenant, raw),
                        ).fetchone()
                        assert row is not None
                        mine.append(MemoryId(row[0]))
                        self.committed[mine[-1]] = time.monotonic()
                    elif action < 0.8:
                        connection.execute(
                            "UPDATE memory_logs SET raw_data = %s WHERE id = %s",
                            (raw, chance.choice(mine)),
                        )
                    else:
                        gone = mine.pop(chance.randrange(len(mine)))
                        self.committed.pop(gone, None)
                        connection.execute("DELETE FROM memory_logs WHERE id = %s", (gone,))
                except psycopg.Error as error:
                    self.errors.append(str(error))


def _keep_syncing(pipeline: Pipeline, stop: threading.Event) -> None:
    """Drain again and again, as a resident process would."""
    while not stop.wait(0.02):
        drained(pipeline)


def _keep_searching(
    pipeline: Pipeline, known: dict[MemoryId, str], stop: threading.Event, missed: list[str]
) -> None:
    """Search for memories that were in sync before; note each answer without the one asked for."""
    chance = random.Random(2)
    ids = sorted(known)
    while not stop.is_set():
        asked = chance.choice(ids)
        try:
            hits = pipeline.search.search(REBUILT, known[asked], k=10)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            missed.append(repr(error))
            continue
        if asked not in {hit.memory_id for hit in hits}:
            missed.append(f"memory {asked} was not among {len(hits)} hits")


def _keep_observing(
    pipeline: Pipeline, wrote: Application, stop: threading.Event, ages: list[float]
) -> None:
    """Ask Chroma for each insert until it is there; note how long that took from the commit."""
    seen: set[MemoryId] = set()
    while not stop.wait(0.01):
        waiting = [i for i in list(wrote.committed) if i not in seen]
        for tenant in OTHERS:
            live = pipeline.registry.live(tenant)
            if live is None or not waiting:
                continue
            now = time.monotonic()
            for memory_id in pipeline.index.fetch(live, waiting, seconds=30.0):
                if memory_id not in seen and memory_id in wrote.committed:
                    seen.add(memory_id)
                    ages.append(now - wrote.committed[memory_id])


def test_a_rebuild_under_load_loses_nothing_and_hides_nothing(
    settings: Settings, unmarked_chroma: None, database_url: str
) -> None:
    """P7: writes to the tenant itself and to others go on, searches never miss, verify is clean."""
    with opened(settings, embedder=HashingEmbedder()) as pipeline:
        database = Database.from_settings(settings)
        fill(database, LOAD)
        database.close()
        with psycopg.connect(database_url, autocommit=True) as db:
            db.execute("UPDATE memory_logs SET embedding = NULL")
            db.execute("DELETE FROM memory_pipeline.change")
        pipeline.registry.register(REBUILT)
        [first] = pipeline.rebuild().run(RebuildId("first"), [REBUILT])
        assert first.verdict == "done"
        # A search by a memory's own text finds it first, or a twin.
        known = {
            m.id: compose(m, pipeline.recipe).text
            for m in islice(pipeline.memories.of_tenant(REBUILT), 0, None, 37)
        }
        stop = threading.Event()
        missed: list[str] = []
        ages: list[float] = []
        own = Application(database_url, [REBUILT], stop)
        others = Application(database_url, OTHERS, stop)
        work = [
            threading.Thread(target=own.run),
            threading.Thread(target=others.run),
            threading.Thread(target=_keep_syncing, args=(pipeline, stop)),
            threading.Thread(target=_keep_searching, args=(pipeline, known, stop, missed)),
            threading.Thread(target=_keep_observing, args=(pipeline, others, stop, ages)),
        ]
        for thread in work:
            thread.start()
        began = time.monotonic()
        rebuilt = [
            one
            for name in ("second", "third")
            for one in pipeline.rebuild().run(RebuildId(name), [REBUILT])
        ]
        seconds = time.monotonic() - began
        stop.set()
        for thread in work:
            thread.join()
        assert [r.verdict for r in rebuilt] == ["done", "done"]
        assert own.errors == others.errors == missed == []
        ages.sort()
        print(  # noqa: T201 - figures for whoever asks with -s
            f"{rebuilt[0].documents} documents twice in {seconds:.1f} s;"
            f" freshness of {len(ages)} inserts of others:"
            f" p50 {statistics.median(ages):.3f} s, p99 {ages[int(len(ages) * 0.99)]:.3f} s"
        )
        drained(pipeline)
        for tenant in (REBUILT, *OTHERS):
            first_look = pipeline.repair().run(tenant, sample=200).before
            serious = [f for f in first_look.findings if f.kind != "unreachable"]
            assert serious == []
