"""How soon a committed change is visible in Chroma, beside the least that any program needs for it.

Writers commit at a steady rate, one statement a commit, while ``memory-pipeline live`` runs as a
process of its own. Observers ask Chroma with its own client until they see each change; the time is
from the commit's return to the return of the first answer that shows it. What the observers do to
the machine they do to both sides.

The floor has no pipeline: one process (``main``) is notified, reads the row, upserts or deletes.
It keeps no outbox and no lease, forgets what it was about when it is killed, and never looks back.
It serves a copy of the same database and collections of the same configuration on the same server;
blocks of its traffic and of the pipeline's take turns.
"""

import json
import os
import sys
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Literal

import numpy as np
import psycopg
from chromadb.errors import InternalError
from pgvector.psycopg import register_vector
from pydantic import SecretStr

from memory_pipeline.benchmarks.limit import Way, _connect, fresh_servers, load_documents
from memory_pipeline.benchmarks.machine import machine
from memory_pipeline.benchmarks.rebuild import copied, filled, settings_of
from memory_pipeline.benchmarks.rows import Load, documents
from memory_pipeline.benchmarks.sync import (
    DELETE,
    READY_SECONDS,
    insert,
    living,
    new_memories,
    own,
    rebuilt,
    running,
    update,
)
from memory_pipeline.content import compose, recipe_from
from memory_pipeline.embedding import embedder_from
from memory_pipeline.freshness import lags_of
from memory_pipeline.local.postgres import start_postgres
from memory_pipeline.local.processes import ServiceFailed, tail, wait_until
from memory_pipeline.model import Memory, MemoryId, TenantId, Vector, document_id
from memory_pipeline.pipeline import opened
from memory_pipeline.settings import Settings

Kind = Literal["inserts", "updates", "deletes"]
SHARES: Mapping[Kind, int] = {"inserts": 6, "updates": 3, "deletes": 1}
MIX = tuple(kind for kind, share in SHARES.items() for _ in range(share))

MEMORIES_A_TENANT = 50
# What is imported, connected, primed or replayed once is in neither side's figures.
WARM_SECONDS, WARM_CHANGES = 5.0, 20
BLOCKS = 3
# A commit that takes long delays none of the next; two observers leave Chroma time to write.
WRITERS, OBSERVERS = 4, 2
POLL_SECONDS = 0.002
LOST_SECONDS = 30.0
NEIGHBOURS = 10
SAID_LENGTH = 80
# Python hands the processor from thread to thread each 5 ms, which is much of what is measured.
SWITCH_SECONDS = 0.0005

# The floor's hints say whose row it is, so that a delete needs no read.
FLOOR_HINTS = """
CREATE FUNCTION public.hint_floor() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('floor', json_build_array(coalesce(NEW.user_id, OLD.user_id),
                                                coalesce(NEW.id, OLD.id))::text);
    RETURN NULL;
END $$;
CREATE TRIGGER hint_floor AFTER INSERT OR UPDATE OR DELETE ON public.memory_logs
    FOR EACH ROW EXECUTE FUNCTION public.hint_floor();
"""
FLOOR_READ = (
    "SELECT id, user_id, user_id, project_id, raw_data::text, embedding, created_at, updated_at, ''"
    " FROM public.memory_logs WHERE id = ANY(%s)"
)
REPORTED = "SELECT p50, p95, p99 FROM memory_pipeline.freshness WHERE tenant IS NULL"


@dataclass(frozen=True, slots=True, eq=False)
class Commit:
    """A committed change: what an observer looks for, and since when on the monotonic clock."""

    kind: Kind
    memory_id: MemoryId
    memory: Memory
    at: float


def bench_freshness(
    home: Path, *, rate: float, tenants: int, seconds: float, model: Literal["real", "none"]
) -> dict[str, object]:
    """Measure on services of its own below ``home``; nothing of the user's is touched.

    ``seconds`` are the pipeline's; the floor's traffic takes as long again.

    Returns:
        ``ratio_to_floor``: the pipeline's median for inserts, to the floor's; ``lost``: changes
        that were not visible within 30 seconds, which are in no percentile.

    """
    sys.setswitchinterval(SWITCH_SECONDS)
    load = Load(MEMORIES_A_TENANT * tenants, tenants)
    settings = Settings.load(embedder="model" if model == "real" else "hashing", document="full")
    postgres = start_postgres(home / "postgres")
    try:
        filled(postgres, settings, load, "filled")
        floor_url = postgres.url(copied(postgres, "filled"))
        with fresh_servers(home, 1) as urls:
            mine = own(settings_of(settings, postgres, "filled", urls), home)
            client = _connect(urls[0])
            ours = {t: _opened(client, name) for t, name in _collections(mine).items()}
            load_documents(urls, documents(load, recipe_from(settings)), Way(1, 250))
            theirs = {tenant: _opened(client, _floor_name(tenant)) for tenant in ours}
            with psycopg.connect(floor_url, autocommit=True) as connection:
                connection.execute("DROP SCHEMA memory_pipeline CASCADE")
                connection.execute(FLOOR_HINTS)
            its = mine.model_copy(update={"database_url": SecretStr(floor_url)})
            pipeline = Traffic(postgres.url("filled"), ours, load, rate, real=model == "real")
            floor = Traffic(floor_url, theirs, load, rate, real=model == "real")
            floor_log = home / "floor.log"
            with (
                living(mine, home / "live.log"),
                running((sys.executable, "-m", __name__), its, floor_log),
            ):
                if not wait_until(lambda: "ready" in floor_log.read_text(), within=READY_SECONDS):
                    raise ServiceFailed(f"the floor is not ready: {tail(floor_log)}")
                for side in (pipeline, floor):
                    side.run(max(WARM_SECONDS, WARM_CHANGES / rate), counts=False)
                for block in range(BLOCKS):
                    for side in (pipeline, floor) if block % 2 else (floor, pipeline):
                        side.run(seconds / BLOCKS)
            with psycopg.connect(postgres.url("filled")) as connection:
                reported = connection.execute(REPORTED).fetchone()
    finally:
        postgres.remove()
    found, least = pipeline.figures(), floor.figures()
    return {
        "rate": rate,
        "tenants": tenants,
        "seconds": seconds,
        "model": model,
        "ratio_to_floor": _ratio(found["inserts"]["p50_ms"], least["inserts"]["p50_ms"]),
        **found.pop("all"),
        "lost": pipeline.lost,
        **found,
        **{f"floor_{name}": value for name, value in least["inserts"].items()},
        "floor_lost": floor.lost,
        "floors": {kind: least[kind] for kind in found},
        "observer_errors": {"pipeline": pipeline.errors, "floor": floor.errors},
        "changes_per_second": round(pipeline.commits / pipeline.busy_seconds, 2),
        # By the process itself, over all that it synced: its clock starts with the statement.
        "reported_ms": [round(value * 1e3, 1) for value in reported or ()],
        "machine": machine(),
    }


class Traffic:
    """One side's writers and observers, and what the observers saw."""

    def __init__(
        self, url: str, collections: Mapping[TenantId, Any], load: Load, rate: float, *, real: bool
    ) -> None:
        self.lost = self.commits = 0
        self.busy_seconds = 0.0
        self.errors: Counter[str] = Counter()
        self._url = url
        self._collections = collections
        self._observers = {t: number % OBSERVERS for number, t in enumerate(collections)}
        self._rate = rate
        self._real = real
        self._lock = threading.Lock()  # of all that follows
        self._lags: defaultdict[Kind, list[float]] = defaultdict(list)
        self._fresh = new_memories(load)
        self._kinds = _mixed()
        # What nobody waits for, by tenant: the longest unchanged first.
        self._settled: defaultdict[TenantId, deque[MemoryId]] = defaultdict(deque)
        for number in range(load.rows):
            self._settled[load.tenant(number)].append(MemoryId(number + 1))

    def run(self, seconds: float, *, counts: bool = True) -> None:
        """Commit changes for so long, then wait until all are seen or lost."""
        began = time.monotonic() + 0.1  # until the writers are connected
        moments = [began + number / self._rate for number in range(round(seconds * self._rate))]
        inboxes = [SimpleQueue[Commit | None]() for _ in range(OBSERVERS)]
        with ThreadPoolExecutor(OBSERVERS) as eyes, ThreadPoolExecutor(WRITERS) as hands:
            seen = [eyes.submit(self._observe, inbox, counts=counts) for inbox in inboxes]
            try:
                shares = [moments[at::WRITERS] for at in range(WRITERS)]
                for written in [hands.submit(self._write, share, inboxes) for share in shares]:
                    written.result()
            finally:
                for inbox in inboxes:
                    inbox.put(None)
            if counts:
                self.commits += len(moments)
                self.busy_seconds += max(seconds, time.monotonic() - began)
            for watched in seen:
                watched.result()

    def figures(self) -> dict[str, dict[str, float]]:
        """Return milliseconds by kind, and of all of them together."""
        kinds: dict[str, list[float]] = {kind: self._lags[kind] for kind in SHARES}
        return {
            k: _figures(lags) for k, lags in (kinds | {"all": [*chain(*kinds.values())]}).items()
        }

    # ---- the writers

    def _write(
        self, moments: Sequence[float], inboxes: Sequence[SimpleQueue[Commit | None]]
    ) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            register_vector(connection)
            for moment in moments:
                time.sleep(max(0.0, moment - time.monotonic()))
                commit = self._commit(connection)
                # Of one tenant to one observer, who asks for all of them at once.
                inboxes[self._observers[commit.memory.tenant]].put(commit)

    def _commit(self, connection: psycopg.Connection) -> Commit:
        with self._lock:
            memory, kind = next(self._fresh), next(self._kinds)
            settled = self._settled[memory.tenant]
            if not settled:
                kind = "inserts"
            memory_id = MemoryId(0) if kind == "inserts" else settled.popleft()
        if self._real:
            memory = _short(memory)
        if kind == "inserts":
            memory_id = insert(connection, memory)
        elif kind == "updates":
            update(connection, memory_id, memory)
        else:
            connection.execute(DELETE, (memory_id,))
        return Commit(kind, memory_id, memory, time.monotonic())

    # ---- the observers

    def _observe(self, inbox: SimpleQueue[Commit | None], *, counts: bool) -> None:
        """Ask for what was committed, one request at a time, until all of it is seen or lost."""
        waiting: list[Commit] = []
        more = True
        while more or waiting:
            more = more and _receive(inbox, waiting)
            for tenant in dict.fromkeys(commit.memory.tenant for commit in waiting):
                mine = [commit for commit in waiting if commit.memory.tenant == tenant]
                for commit, at in self._seen(tenant, mine):
                    waiting.remove(commit)
                    self._note(commit, at, counts=counts)
            for commit in [c for c in waiting if time.monotonic() - c.at > LOST_SECONDS]:
                waiting.remove(commit)
                with self._lock:
                    self.lost += 1
            time.sleep(POLL_SECONDS)

    def _note(self, commit: Commit, at: float, *, counts: bool) -> None:
        with self._lock:
            if counts:
                self._lags[commit.kind].append(at - commit.at)
            if commit.kind != "deletes":
                self._settled[commit.memory.tenant].append(commit.memory_id)

    def _seen(self, tenant: TenantId, commits: Sequence[Commit]) -> Iterator[tuple[Commit, float]]:
        """Look once. An answer that is an error shows nothing: it is counted, and asked again."""
        try:
            yield from self._look(self._collections[tenant], commits)
        except InternalError as error:
            with self._lock:
                self.errors[str(error)[:SAID_LENGTH]] += 1

    def _look(self, collection: Any, commits: Sequence[Commit]) -> Iterator[tuple[Commit, float]]:
        """Yield what is visible now, with the moment when that was known."""
        inserts = [c for c in commits if c.kind == "inserts"]
        vectors = {c: c.memory.embedding for c in inserts}
        if inserts and self._real:
            vectors = _stored(collection, inserts)
        if vectors:
            found: Any = collection.query(
                query_embeddings=list(vectors.values()), n_results=NEIGHBOURS, include=[]
            )
            now = time.monotonic()
            for commit, names in zip(vectors, found["ids"], strict=True):
                if document_id(commit.memory_id) in names:
                    yield commit, now
        if others := [c for c in commits if c.kind != "inserts"]:
            got = collection.get(ids=_names(others), include=["documents"])
            now = time.monotonic()
            texts = dict(zip(got["ids"], got["documents"], strict=True))
            for commit in others:
                wanted = None if commit.kind == "deletes" else commit.memory.raw
                if texts.get(document_id(commit.memory_id)) == wanted:
                    yield commit, now


def main() -> None:
    """Be the floor: carry what is hinted at, all that has arrived in one request a tenant."""
    settings = Settings.load()
    url = settings.database_url.get_secret_value() if settings.database_url else ""
    recipe, embedder = recipe_from(settings), embedder_from(settings)
    # Else the model's threads wait spinning, and where Chroma wants the same cores, take ten times
    # as long; it has to be said before torch is imported.
    os.environ["OMP_WAIT_POLICY"] = "passive"
    embedder.load()
    client = _connect(settings.chroma_url or "")
    collections: dict[str, Any] = {}
    with (
        psycopg.connect(url, autocommit=True) as hints,
        psycopg.connect(url, autocommit=True) as reading,
    ):
        register_vector(reading)
        hints.execute("LISTEN floor")
        print("ready", flush=True)  # noqa: T201 - it is waited for
        while True:
            hinted: defaultdict[TenantId, set[int]] = defaultdict(set)
            for hint in hints.notifies(stop_after=1):
                tenant, memory_id = json.loads(hint.payload)
                hinted[tenant].add(memory_id)
            for tenant, ids in hinted.items():
                if tenant not in collections:
                    collections[tenant] = _opened(client, _floor_name(tenant))
                rows = reading.execute(FLOOR_READ, (list(ids),), binary=True).fetchall()
                found = [_memory(row) for row in rows]
                if gone := ids.difference(memory.id for memory in found):
                    collections[tenant].delete(ids=[document_id(MemoryId(i)) for i in gone])
                if not found:
                    continue
                contents = [compose(memory, recipe) for memory in found]
                vectors: list[Vector | None] = [memory.embedding for memory in found]
                if settings.embedder == "model":
                    vectors = [*embedder.embed([content.text for content in contents])]
                collections[tenant].upsert(
                    ids=[document_id(memory.id) for memory in found],
                    embeddings=vectors,
                    metadatas=[dict(content.metadata) for content in contents],
                    documents=[content.document for content in contents],
                )


def _memory(row: Sequence[Any]) -> Memory:
    memory = Memory(*row)
    vector: Any = memory.embedding
    return memory if vector is None else replace(memory, embedding=vector.to_numpy())


def _collections(settings: Settings) -> dict[TenantId, str]:
    """Bring every tenant; return the names of their collections."""
    with opened(settings) as pipeline:
        live = {tenant: pipeline.registry.live(tenant) for tenant in rebuilt(pipeline)}
    return {tenant: found.collection for tenant, found in live.items() if found is not None}


def _floor_name(tenant: TenantId) -> str:
    """Name the floor's collection as ``load_documents`` does."""
    return f"limit-{tenant}"


def _opened(client: Any, name: str) -> Any:
    return client.get_collection(name, embedding_function=None)


def _mixed() -> Iterator[Kind]:
    """Yield kinds for ever; of each ten as many as the mix says, in an order that is made once."""
    random = np.random.default_rng(0)
    while True:
        yield from (MIX[at] for at in random.permutation(len(MIX)))


def _short(memory: Memory) -> Memory:
    """Return a memory of one sentence, and without a vector: the model has to make it."""
    raw = json.loads(memory.raw)
    del raw["details"]
    return replace(memory, raw=json.dumps(raw), embedding=None)


def _receive(inbox: SimpleQueue[Commit | None], waiting: list[Commit]) -> bool:
    """Take what has arrived, or wait for it where nothing else is; False after the last."""
    while True:
        try:
            commit = inbox.get(block=not waiting)
        except Empty:
            return True
        if commit is None:
            return False
        waiting.append(commit)


def _names(commits: Sequence[Commit]) -> list[str]:
    return [document_id(commit.memory_id) for commit in commits]


def _stored(collection: Any, commits: Sequence[Commit]) -> dict[Commit, Vector | None]:
    """Return the vectors of those that are there."""
    got = collection.get(ids=_names(commits), include=["embeddings"])
    vectors = dict(zip(got["ids"], got["embeddings"], strict=True))
    named = {document_id(commit.memory_id): commit for commit in commits}
    return {named[name]: vector for name, vector in vectors.items()}


def _figures(lags: Sequence[float]) -> dict[str, float]:
    found = lags_of(lags)
    if found is None:
        return {"changes": 0}
    named = {"p50": found.p50, "p95": found.p95, "p99": found.p99, "max": found.slowest}
    return {"changes": len(lags)} | {f"{k}_ms": round(v * 1e3, 1) for k, v in named.items()}


def _ratio(found: float, least: float) -> float:
    return round(found / least, 2)


if __name__ == "__main__":
    main()
