"""Words of the tests of the worker: one that runs, and what arrived."""

import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import psycopg

from memory_pipeline.domain.outcomes import Outcome
from memory_pipeline.domain.types import Generation, MemoryId, TenantId
from memory_pipeline.errors import Corrupt, ReportFailed
from memory_pipeline.local.chroma import ChromaProcess
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.postgres.listener import Listener
from memory_pipeline.worker.background import BackgroundTasks, Intervals
from memory_pipeline.worker.loop import Worker
from memory_pipeline.worker.metrics import Metrics
from memory_pipeline.worker.ports import Reporter
from memory_pipeline_tests.words import SECONDS

WaitUntil = Callable[..., None]
Open = Callable[..., Pipeline]
EVE = TenantId("eve")
FRESH_SECONDS = 2.0  # promised is a quarter of it; the machine of a test is loaded
STOP_SECONDS = 30.0
CROWD = 1_000
# Every background task, and what it waits for, at once.
SOON = Intervals(
    heartbeat_seconds=0.3,
    probe_seconds=0.3,
    repair_seconds=0.3,
    report_seconds=0.1,
    report_tenant_seconds=0.3,
    report_retry_seconds=0.3,
)


@dataclass
class Told:
    """A reporter that remembers the outcomes that it received; it fails the first times."""

    failures: int = 0
    raised: int = 0
    outcomes: list[Outcome] = field(default_factory=list)
    kept: dict[TenantId, Outcome] = field(default_factory=dict)

    @property
    def waiting(self) -> Collection[TenantId]:
        """The tenants that it was not told of while it failed."""
        return self.kept.keys()

    def report(self, outcomes: Sequence[Outcome]) -> None:
        """Keep, and fail; or remember all that it keeps."""
        assert not self.kept.keys() & {o.tenant for o in outcomes}
        self.kept |= {o.tenant: o for o in outcomes}
        if self.raised < self.failures:
            self.raised += 1
            raise ReportFailed("nobody is there to be told")
        self.outcomes += self.kept.values()
        self.kept.clear()


@dataclass
class Running:
    """A worker in a thread of the test."""

    live: Worker
    background: BackgroundTasks
    thread: threading.Thread = field(init=False)
    raised: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make the thread; start it later."""
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self.live.run()
        except BaseException as error:  # noqa: BLE001 - told by whoever stops it
            self.raised.append(error)

    def stop(self) -> None:
        """Stop it; it has to have gone on until now, and to end in time."""
        assert self.raised == []
        assert self.thread.is_alive()
        self.live.stop()
        self.thread.join(STOP_SECONDS)
        assert not self.thread.is_alive()
        assert self.raised == []


def prepared(
    pipeline: Pipeline, reporter: Reporter | None = None, *, intervals: Intervals = SOON
) -> Running:
    """Return a worker that does not run yet."""
    told = reporter or Told()
    metrics = Metrics(pipeline.freshness)
    background = pipeline.background(metrics=metrics, reporter=told, intervals=intervals)
    live = pipeline.worker(background)
    live.listen = partial(Listener, pipeline.database.url, check_seconds=0.1)
    return Running(live, background)


@contextmanager
def started(running: Running) -> Iterator[Running]:
    """Run it for as long as the block lasts, unless the block stops it."""
    running.thread.start()
    try:
        yield running
        if not running.live._stop.is_set():
            running.stop()
    finally:
        running.live.stop()
        running.thread.join(STOP_SECONDS)
        for error in running.raised:  # the reason of whatever else went wrong
            raise error


@contextmanager
def living(
    pipeline: Pipeline, reporter: Reporter | None = None, *, intervals: Intervals = SOON
) -> Iterator[Running]:
    """Run a worker for as long as the block lasts."""
    with started(prepared(pipeline, reporter, intervals=intervals)) as running:
        yield running


def kill(server: ChromaProcess) -> None:
    """Kill a Chroma server."""
    assert server.pid > 0  # 0 would be this process and all its group
    os.kill(server.pid, signal.SIGKILL)
    server.stop()


def return_of(server: ChromaProcess) -> None:
    """Start it again where it was."""
    server.service.start()
    server.service.wait_until_healthy()


def fill(db: psycopg.Connection, tenant: str, count: int) -> None:
    """Insert many memories of a tenant in one transaction, each about something else."""
    db.execute(
        "INSERT INTO memory_logs (user_id, raw_data)"
        " SELECT %s, jsonb_build_object('summary', md5(n::text) || ' ' || md5(n || 'and'))"
        " FROM generate_series(1, %s) AS n",
        (tenant, count),
    )


def fill_alike(db: psycopg.Connection, tenant: str, count: int) -> None:
    """Insert many memories of a tenant that differ in one word: their vectors are a crowd."""
    db.execute(
        "INSERT INTO memory_logs (user_id, raw_data)"
        " SELECT %s, jsonb_build_object('summary', 'memory number ' || n)"
        " FROM generate_series(1, %s) AS n",
        (tenant, count),
    )


def texts(pipeline: Pipeline, tenant: TenantId) -> dict[int, str | None]:
    """Return the text of each document of a tenant's live collection."""
    live = pipeline.registry.live(tenant)
    if live is None:
        return {}
    names = pipeline.index.hashes(live, renew=lambda: SECONDS)
    ids = [MemoryId(int(name.removeprefix("memory_log_"))) for name in names]
    if not ids:
        return {}
    stored = pipeline.index.fetch(live, ids, seconds=SECONDS, whole=True)
    return {int(i): document.text for i, document in stored.items()}


def rows(db: psycopg.Connection, tenant: str) -> dict[int, str]:
    """Return the text of each memory of a tenant."""
    found = db.execute("SELECT id, raw_data::text FROM memory_logs WHERE user_id = %s", (tenant,))
    return {int(i): str(raw) for i, raw in found}


def finds(pipeline: Pipeline, tenant: TenantId, memory_id: int, words: str) -> bool:
    """Whether a search for these words finds this memory first."""
    try:
        hits = pipeline.search.search(tenant, words, k=1)
    except Corrupt:  # while the first memory lands; one test is about that
        return False
    return [hit.memory_id for hit in hits] == [memory_id]


def delete_collection(pipeline: Pipeline, generation: Generation) -> None:
    """Delete a collection behind the pipeline's back."""
    with pipeline.servers.client(generation.server).call(SECONDS) as server:
        server.delete_collection(generation.collection)
