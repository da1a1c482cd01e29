"""What a backlog costs beside the limit, and how long a pass over few changes takes.

The backlog stands when ``memory-pipeline live`` starts, as after an outage. Its clock runs from the
process's first sign of life, which it gives when it is ready, until Postgres holds no change any
more: leases, claims, reads, acks and looks for hidden documents are all in it. The limit: Chroma's
own upserts of the same documents from memory, in batches of the same size. The two take turns.

The pass is what ``sync`` and Dagster's runs do, in this process, after one that warmed it up.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path

import psycopg
from pgvector.psycopg import register_vector
from psycopg.types.json import Jsonb

from memory_pipeline.benchmarks.limit import (
    THREADS,
    TRIAL_DOCUMENTS,
    TRIAL_ROUNDS,
    Rate,
    Way,
    _connect,
    fresh_servers,
    load_documents,
)
from memory_pipeline.benchmarks.machine import machine, median
from memory_pipeline.benchmarks.rebuild import SECONDS_A_RUN, copied, filled, settings_of
from memory_pipeline.benchmarks.rows import Documents, Load, documents, fill, memories
from memory_pipeline.content import recipe_from
from memory_pipeline.local.chroma import start_chroma
from memory_pipeline.local.environment import base_environment
from memory_pipeline.local.postgres import EmbeddedPostgres, start_postgres
from memory_pipeline.local.processes import tail, wait_until
from memory_pipeline.model import Memory, MemoryId, RebuildId, TenantId, Verified, document_id
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.settings import Settings
from memory_pipeline.verify_all import verify_all

TURNS = 3
BEGUN_A_TENANT = 5
ENDLESS = 10**7
POLL_SECONDS = 0.02
# The real model is read from a cold disk; a process that is killed has hung.
READY_SECONDS = 120.0
STOP_SECONDS = 30.0

LIVE = (
    sys.executable,
    "-c",
    "from memory_pipeline.cli import main; main()",
    "live",
    "--no-lineage",
)
INSERT = (
    "INSERT INTO public.memory_logs (user_id, project_id, raw_data, embedding)"
    " VALUES (%s, %s, %s, %s) RETURNING id"
)
UPDATE = (
    "UPDATE public.memory_logs SET raw_data = %s, embedding = coalesce(%s, embedding),"
    " updated_at = now() WHERE id = %s"
)
DELETE = "DELETE FROM public.memory_logs WHERE id = %s"
LIVES = "SELECT EXISTS (SELECT FROM memory_pipeline.worker WHERE pid = %s)"
DRAINED = (
    "SELECT extract(epoch FROM clock_timestamp() - max(started_at))::float8"
    " FROM memory_pipeline.worker WHERE NOT EXISTS (SELECT FROM memory_pipeline.change)"
)

PASS_LOAD = Load(rows=5_000, tenants=10)
# One in a hundred of a tenant's 500; it stays as large as it is.
PASS_UPDATES, PASS_INSERTS, PASS_DELETES = 3, 1, 1
PASSES = 5
IDLE_PASSES = 20
SOME = "SELECT id FROM public.memory_logs WHERE user_id = %s ORDER BY md5((id + %s)::text) LIMIT %s"


def bench_sync(home: Path, *, changes: int, tenants: int, turns: int = TURNS) -> dict[str, object]:
    """Measure on services of its own below ``home``; nothing of the user's is touched.

    Returns:
        ``ratio_to_limit``: changes a second of the resident process, to the upserts a second of the
        limit in the same turns, medians; ``pass_seconds`` and ``idle_pass_ms``, medians.

    """
    begun, backlog = Load(BEGUN_A_TENANT * tenants, tenants), Load(changes, tenants, seed=1)
    settings = Settings.load(embedder="hashing")
    few, many = (documents(load, recipe_from(settings)) for load in (begun, backlog))
    many = [_after(one, begun.rows) for one in many]
    postgres = start_postgres(home / "postgres")
    try:
        filled(postgres, settings, begun, "begun")
        trials = _trials(home, few, many, settings.batch_size)
        way = trials[0].way
        limits: list[float] = []
        drains: list[float] = []
        for turn in range(turns):
            for drained in (True, False) if turn % 2 else (False, True):
                if drained:
                    drains.append(changes / _drained(home, postgres, settings, begun, backlog))
                else:
                    limits.append(_limit(home, few, many, way).per_second)
        passes = _passes(home, postgres, settings)
    finally:
        postgres.remove()
    rate, limit = statistics.median(drains), statistics.median(limits)
    return {
        "changes": changes,
        "tenants": tenants,
        "batch_size": settings.batch_size,
        "ratio_to_limit": round(rate / limit, 3),
        "changes_per_second": round(rate, 1),
        "limit_changes_per_second": round(limit, 1),
        "limit_threads": way.threads,
        "limit_trials": {t.way.threads: round(t.per_second, 1) for t in trials},
        "limit_runs": [round(r, 1) for r in limits],
        "runs": [round(r, 1) for r in drains],
        **passes,
        "machine": machine(),
    }


@contextmanager
def running(
    command: Sequence[str], settings: Settings, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process with these settings, its output in a file; end it in an orderly way.

    Raises:
        RuntimeError: it has ended by itself; the message has the end of its log.

    """
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, env=base_environment(settings), stdout=output, stderr=output
        ) as process,
    ):
        try:
            yield process
            if process.poll() is not None:
                raise RuntimeError(f"{command[-1]} has ended by itself: {tail(log)}")
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def living(settings: Settings, log: Path) -> Iterator[None]:
    """Run ``memory-pipeline live`` and lend it once it is ready.

    Raises:
        RuntimeError: it ended or said nothing; the message has the end of its log.

    """
    url = settings.database_url.get_secret_value() if settings.database_url else ""
    with running(LIVE, settings, log) as process, psycopg.connect(url, autocommit=True) as asking:

        def ready_or_gone() -> bool:
            row = asking.execute(LIVES, (process.pid,)).fetchone()
            return (row is not None and row[0]) or process.poll() is not None

        if not wait_until(ready_or_gone, within=READY_SECONDS) or process.poll() is not None:
            raise RuntimeError(f"live is not ready: {tail(log)}")
        yield


def own(settings: Settings, home: Path) -> Settings:
    """Return settings whose home is the benchmark's: nothing that runs in the user's is found."""
    return settings.model_copy(update={"home": home / "home"})


def rebuilt(pipeline: Pipeline) -> list[TenantId]:
    """Give every tenant with changes a collection, by a rebuild; return all tenants."""
    for pending in pipeline.outbox.pending_tenants():
        pipeline.registry.register(pending.tenant)
    tenants = list(pipeline.registry.keys())
    wrong = [r for r in pipeline.rebuild().run(RebuildId("bench"), tenants) if r.verdict != "done"]
    if wrong:
        raise RuntimeError(f"{len(wrong)} tenants were not rebuilt: {wrong[0].reason}")
    return tenants


def new_memories(load: Load) -> Iterator[Memory]:
    """Make memories without end that come after those of the load, and resemble none of them."""
    return islice(memories(replace(load, rows=ENDLESS)), load.rows, None)


def insert(connection: psycopg.Connection, memory: Memory) -> MemoryId:
    """Insert a memory as an application would; return the id that it got."""
    raw = Jsonb(memory.raw, dumps=str)
    values = (memory.user_id, memory.project_id, raw, memory.embedding)
    row = connection.execute(INSERT, values).fetchone()
    if row is None:
        raise RuntimeError("the INSERT returned no id")
    return MemoryId(row[0])


def update(connection: psycopg.Connection, memory_id: MemoryId, memory: Memory) -> None:
    """Make a memory say what another one says; its vector stays where that one has none."""
    raw = Jsonb(memory.raw, dumps=str)
    connection.execute(UPDATE, (raw, memory.embedding, memory_id))


def _trials(
    home: Path, few: Sequence[Documents], many: Sequence[Documents], batch: int
) -> list[Rate]:
    """Try each number of threads on a part, back and forth; the fastest first."""
    part = [one.part(0, -(-TRIAL_DOCUMENTS // len(many))) for one in many]
    ways = [Way(threads, batch) for threads in THREADS]
    rates = [
        _limit(home, few, part, way)
        for turn in range(TRIAL_ROUNDS)
        for way in ways[:: -1 if turn % 2 else 1]
    ]
    fastest = {
        way: min((r for r in rates if r.way == way), key=lambda r: r.seconds) for way in ways
    }
    return sorted(fastest.values(), key=lambda rate: rate.seconds)


def _limit(home: Path, few: Sequence[Documents], many: Sequence[Documents], way: Way) -> Rate:
    """Upsert into collections that hold a few documents, on a fresh server."""
    with fresh_servers(home, 1) as urls:
        load_documents(urls, few, way)
        client = _connect(urls[0])
        collections = {
            one.tenant: client.get_collection(f"limit-{one.tenant}", embedding_function=None)
            for one in few
        }

        def upsert(lane: Sequence[Documents]) -> None:
            for one in lane:
                for first in range(0, len(one), way.batch):
                    part = one.part(first, first + way.batch)
                    collections[part.tenant].upsert(
                        ids=part.ids,
                        embeddings=part.embeddings,
                        metadatas=part.metadatas,
                        documents=part.texts,
                    )

        began = time.perf_counter()
        with ThreadPoolExecutor(way.threads) as pool:
            list(pool.map(upsert, [many[at :: way.threads] for at in range(way.threads)]))
        seconds = time.perf_counter() - began
        _check(urls[0], sum(map(len, (*few, *many))))
        return Rate(way, 1, sum(map(len, many)), seconds)


def _after(one: Documents, rows: int) -> Documents:
    """Name documents as if so many memories had come before theirs."""
    numbers = (int(name.rpartition("_")[2]) for name in one.ids)
    return replace(one, ids=[document_id(MemoryId(number + rows)) for number in numbers])


def _drained(
    home: Path, postgres: EmbeddedPostgres, settings: Settings, begun: Load, backlog: Load
) -> float:
    """Begin the tenants, put the backlog in, and let the resident process bring it."""
    with fresh_servers(home, 1) as urls:
        mine = own(settings_of(settings, postgres, copied(postgres, "begun"), urls), home)
        with opened(mine) as pipeline:
            list(pipeline.drain().run())
            fill(pipeline.database, backlog)
            with psycopg.connect(pipeline.database.url, autocommit=True) as asking:
                asking.execute("VACUUM ANALYZE")
                asking.execute("CHECKPOINT")
                with living(mine, home / "live.log"):
                    seconds = _wait_until_drained(asking)
        _check(urls[0], begun.rows + backlog.rows)
        return seconds


def _wait_until_drained(asking: psycopg.Connection) -> float:
    give_up_at = time.monotonic() + SECONDS_A_RUN
    while time.monotonic() < give_up_at:
        row = asking.execute(DRAINED).fetchone()
        if row is not None and row[0] is not None:
            return float(row[0])
        time.sleep(POLL_SECONDS)
    raise RuntimeError(f"the backlog was not brought within {SECONDS_A_RUN:.0f} s")


def _check(url: str, expected: int) -> None:
    """Refuse a figure for documents that are not there; the pipeline's marker holds none."""
    client = _connect(url)
    if (count := sum(c.count() for c in client.list_collections())) != expected:
        raise RuntimeError(f"{count} of {expected} documents were brought")


def _passes(home: Path, postgres: EmbeddedPostgres, settings: Settings) -> dict[str, object]:
    """Time passes over one change in a hundred, then passes with nothing to do."""
    filled(postgres, settings, PASS_LOAD, "pass")
    server = start_chroma(home / "pass", home / "pass.log")
    try:
        mine = own(settings_of(settings, postgres, "pass", [server.url]), home)
        with opened(mine) as pipeline:
            tenants = rebuilt(pipeline)
            fresh = new_memories(PASS_LOAD)
            seconds: list[float] = []
            for number in range(PASSES + 1):
                changes = _change(pipeline.database.url, tenants, fresh, number)
                seconds.append(_pass(pipeline))
            verdicts = list(verify_all(pipeline.verify(), tenants))
            before = _files(home / "pass")
            idle = [_pass(pipeline) for _ in range(IDLE_PASSES)]
            wrote = _files(home / "pass") != before
    finally:
        server.stop()
    findings = sum(len(v.findings) if isinstance(v, Verified) else 1 for v in verdicts)
    return {
        "pass_tenants": PASS_LOAD.tenants,
        "pass_memories": PASS_LOAD.rows,
        "pass_changes": changes,
        "pass_seconds": median(seconds[1:]),  # the first one warms up
        "pass_runs": [round(s, 3) for s in seconds],
        "pass_findings": findings,
        "idle_pass_ms": median([s * 1e3 for s in idle]),
        "idle_pass_wrote": wrote,
    }


def _change(url: str, tenants: Sequence[TenantId], fresh: Iterator[Memory], number: int) -> int:
    """Change one memory in a hundred of each tenant, one statement a commit; return how many."""
    with psycopg.connect(url, autocommit=True) as connection:
        register_vector(connection)
        for tenant in tenants:
            few = (tenant, number, PASS_UPDATES + PASS_DELETES)
            for at, (memory_id,) in enumerate(connection.execute(SOME, few).fetchall()):
                if at < PASS_UPDATES:
                    update(connection, memory_id, _for(tenant, fresh))
                else:
                    connection.execute(DELETE, (memory_id,))
            for _ in range(PASS_INSERTS):
                insert(connection, _for(tenant, fresh))
    return len(tenants) * (PASS_UPDATES + PASS_INSERTS + PASS_DELETES)


def _for(tenant: TenantId, fresh: Iterator[Memory]) -> Memory:
    return next(memory for memory in fresh if memory.tenant == tenant)


def _pass(pipeline: Pipeline) -> float:
    began = time.perf_counter()
    outcomes = list(pipeline.drain().run())
    seconds = time.perf_counter() - began
    if wrong := [o for o in outcomes if o.verdict != "done"]:
        raise RuntimeError(f"{len(wrong)} tenants were not synced: {wrong[0].reason}")
    return seconds


def _files(folder: Path) -> dict[Path, tuple[int, int]]:
    """Tell of each of a server's files how large it is and when it was written."""
    stats = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}
