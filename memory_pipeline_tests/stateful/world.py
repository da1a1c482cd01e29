"""One Postgres, one Chroma, the pipeline over them with ports that may be struck; its steps."""

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Literal, TypeVar, cast
from uuid import UUID

import numpy as np
import psycopg

from memory_pipeline.content.document import parse
from memory_pipeline.domain.types import MemoryId, RebuildId, TenantId, document_id
from memory_pipeline.errors import Corrupt, Fenced, PipelineError, PostgresUnavailable
from memory_pipeline.local.chroma import ChromaProcess
from memory_pipeline.maintenance.cleanup import drop_retired
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.ports import Embedder
from memory_pipeline.postgres.memories import PostgresMemories
from memory_pipeline.postgres.outbox import PostgresOutbox
from memory_pipeline.postgres.rebuilds import PostgresRebuilds
from memory_pipeline.postgres.registry import PostgresRegistry
from memory_pipeline.settings import Settings
from memory_pipeline.sync.tenant import Sync
from memory_pipeline_tests.stateful.application import (
    OWN_VECTORS,
    TENANTS,
    TEXTS,
    Application,
    Statement,
)
from memory_pipeline_tests.stateful.checks import (
    Collections,
    Truth,
    Violation,
    check_nothing_is_lost,
    check_own_vectors,
    check_poison,
    check_what_is_built,
    read_truth,
)
from memory_pipeline_tests.stateful.faults import (
    POISON,
    SECONDS,
    Crash,
    Faults,
    PickyEmbedder,
    Plan,
    Struck,
    StruckIndex,
)

T = TypeVar("T")

WORKERS = 2
ROUNDS = 20
# Deleted collections keep memory and files until Chroma starts anew.
EXAMPLES_A_SERVER_START = 40
# Longer than any pause, lease or grace of the settings, and than the hour of automatic rebuilds.
HOURS = "interval '2 hours'"
TIMES = {
    "change": ["not_before"],
    "tenant": ["lease_until", "retry_at"],
    "rebuild": ["owned_until"],
    "generation": ["created_at", "ended_at"],
}
TABLES = "change, truncation, failure, provenance, rebuild, verification, freshness"

Act = Statement | Literal["expire", "take over", "rebuild", "land", "commit"]

_numbers = count(1)


class FencedOutbox(Struck):
    """An outbox that may be struck, and whose acks are watched."""

    def __init__(self, inner: Any, faults: Faults, db: psycopg.Connection) -> None:
        super().__init__(
            inner,
            faults,
            ("acquire_lease", "claim", "unclaim", "release_lease", "newest_seq", "enqueue"),
        )
        self._db = db

    def ack(self, lease: Any, claim: Any, **how: Any) -> int:
        """Ack; under a dead token it has to be refused, and change nothing."""

        def ack() -> int:
            dead = not self._holds(lease)
            before = self._changes()
            try:
                buried: int = self._inner.ack(lease, claim, **how)
            except Fenced:
                if self._changes() != before:
                    raise Violation("a refused ack has changed the outbox") from None
                raise
            if dead:
                raise Violation(f"acked under the dead token {lease.token}")
            return buried

        return self._faults.call("ack", ack, PostgresUnavailable)

    def _holds(self, lease: Any) -> bool:
        row = self._db.execute(
            "SELECT lease_token = %s AND lease_until > clock_timestamp()"
            " FROM memory_pipeline.tenant WHERE tenant = %s",
            (lease.token, lease.tenant),
        ).fetchone()
        return row is not None and bool(row[0])

    def _changes(self) -> list[Any]:
        return self._db.execute("SELECT * FROM memory_pipeline.change ORDER BY seq").fetchall()


class WaitingRebuilds(Struck):
    """Rebuilds that may be struck; who waits for what was sent sees it land at once."""

    def __init__(self, inner: Any, faults: Faults, expire: Callable[[], None]) -> None:
        names = (
            "acquire_part",
            "register_building",
            "may_fill",
            "record_chunk",
            "flip",
            "return_lease",
            "resume_part",
        )
        super().__init__(inner, faults, names)
        self._expire = expire

    @property
    def redo_seconds(self) -> float:
        """Let the time pass that is to be waited: requests land, leases end."""
        self._faults.land()
        self._expire()
        return 0.0


def expire_leases(db: psycopg.Connection) -> None:
    """Let every lease end, as if its holder had been frozen or had died."""
    db.execute(
        "UPDATE memory_pipeline.tenant SET lease_until = clock_timestamp() - interval '1 s'"
        " WHERE lease_until IS NOT NULL"
    )


def in_this_thread(source: Iterable[T], *, depth: int) -> Generator[T]:
    """Work ahead as ``prefetch`` does, without a thread: each run is the same."""
    waiting: deque[T] = deque()
    for result in source:
        waiting.append(result)
        if len(waiting) > depth:
            yield waiting.popleft()
    yield from waiting


@dataclass
class World:
    """Everything of one run; ``begin`` starts an example with new tenants and nothing left over."""

    settings: Settings
    chroma: ChromaProcess
    db: psycopg.Connection
    slow: psycopg.Connection
    plain: Pipeline
    faults: Faults
    embedder: PickyEmbedder
    collections: Collections
    struck: Pipeline
    application: Application
    workers: list[Sync] = field(default_factory=list)
    trust: bool = True
    examples: int = 0
    # The first one: what it says, and the steps to it.
    violated: tuple[str, tuple[Any, ...]] | None = None

    # ---- examples

    def begin(self, *, trust: bool) -> None:
        """Start an example: three new tenants, empty tables, no collections."""
        self.examples += 1
        self.slow.rollback()
        self.faults.disarm()
        self.faults.flight.clear()
        if self.examples % EXAMPLES_A_SERVER_START == 0:
            self.restart_chroma()
        self.db.execute("TRUNCATE memory_logs, own_vector RESTART IDENTITY")
        self.db.execute(f"TRUNCATE {', '.join('memory_pipeline.' + t for t in TABLES.split(', '))}")
        self.db.execute("DELETE FROM memory_pipeline.tenant")
        self.db.execute("DELETE FROM memory_pipeline.generation")
        self.db.execute(
            "UPDATE memory_pipeline.installation SET vectors = %s",
            ("trust" if trust else "recompute",),
        )
        self.collections.clear()
        self.trust, self.embedder.cured = trust, False
        number = next(_numbers)
        names = ("ada", "bob", "eve")[:TENANTS]
        self.application = Application(self.db, tuple(f"{name}-{number}" for name in names))
        self.workers = [self.struck.sync() for _ in range(WORKERS)]

    def tenant(self, number: int) -> TenantId:
        """Name a tenant of this example."""
        return TenantId(self.application.tenants[number])

    def restart_chroma(self) -> None:
        """Stop Chroma and start it again; every connection is broken."""
        self.chroma.restart()
        self.collections.forget()

    def end_slowly(self, *, kept: bool) -> None:
        """Commit the transaction that stayed open, or roll it back."""
        (self.slow.commit if kept else self.slow.rollback)()
        self.application.held.clear()

    # ---- the clock

    def expire(self) -> None:
        """Let every lease end."""
        expire_leases(self.db)

    def pass_time(self) -> None:
        """Let hours pass: what was sent has landed, leases and ownerships have ended."""
        self.faults.land()
        with self.db.pipeline():
            for table, columns in TIMES.items():
                earlier = ", ".join(f"{column} = {column} - {HOURS}" for column in columns)
                self.db.execute(f"UPDATE memory_pipeline.{table} SET {earlier}".encode())

    # ---- steps of the pipeline

    def work(
        self, number: int, tenant: int, plan: Plan | None = None, acts: Sequence[Act] = ()
    ) -> None:
        """Let a worker bring one batch of a tenant, with what is planned in the middle of it."""
        self.plain.outbox.pending_tenants(paused=True)
        with self._struck(plan, acts, self.tenant(tenant)):
            self.workers[number].run(self.tenant(tenant), once=True)

    def rebuild(
        self,
        tenant: int,
        *,
        chunk: int,
        resume: bool,
        plan: Plan | None = None,
        acts: Sequence[Act] = (),
    ) -> None:
        """Rebuild a tenant, or go on where that was cut off; the process before has died."""
        self.faults.land()
        self.expire()
        whose = self.tenant(tenant)
        self.db.execute(
            "UPDATE memory_pipeline.rebuild SET owned_until = clock_timestamp() - interval '1 s'"
            " WHERE tenant = %s AND state = 'running'",
            (whose,),
        )
        with self._struck(plan, acts, whose):
            verdict = self._rebuild(self.struck, whose, chunk=chunk, resume=resume)
            if plan is None and verdict not in {"done", "skipped"}:
                raise Violation(f"a rebuild that nobody disturbed ended as {verdict}")

    def _rebuild(self, pipeline: Pipeline, tenant: TenantId, *, chunk: int, resume: bool) -> str:
        all_ = pipeline.rebuild()
        left = self.db.execute(
            "SELECT id FROM memory_pipeline.rebuild WHERE tenant = %s"
            " AND state IN ('running', 'waiting', 'failed') ORDER BY requested_at DESC LIMIT 1",
            (tenant,),
        ).fetchone()
        id_ = RebuildId(left[0] if resume and left else f"rebuild-{next(_numbers)}")
        pipeline.registry.register(tenant)
        pipeline.rebuilds.request(id_, [tenant], re_embed=False)
        one = replace(all_.rebuild, chunk_documents=chunk, chunk_documents_idle=chunk)
        return one.run(id_, tenant).verdict

    @contextlib.contextmanager
    def _struck(self, plan: Plan | None, acts: Sequence[Act], tenant: TenantId) -> Iterator[None]:
        """Run a step; only what was planned may end it."""
        self.faults.arm(plan, lambda: self._act(acts, tenant))
        try:
            yield
        except (Crash, PipelineError) as end:
            if not self.faults.struck:
                raise Violation(f"nothing was done to it, and it ended with {end!r}") from end
        finally:
            self.faults.disarm()

    def _act(self, acts: Sequence[Act], tenant: TenantId) -> None:
        """Do what others do while a worker is frozen."""
        for act in acts:
            if isinstance(act, Statement):
                self.application.do(self.aimed(act, tenant))
                continue
            if act == "land":
                self.faults.land()
                continue
            if act == "commit":
                self.end_slowly(kept=True)
                continue
            self.expire()
            if act == "take over":
                self.struck.sync().run(tenant)
            elif act == "rebuild":
                self._rebuild(self.struck, tenant, chunk=2, resume=False)

    def aimed(self, statement: Statement, tenant: TenantId) -> Statement:
        """Aim a hot statement at a memory that is in hand."""
        claimed = self.db.execute(
            "SELECT DISTINCT memory_id FROM memory_pipeline.change"
            " WHERE tenant = %s AND memory_id IS NOT NULL ORDER BY 1",
            (tenant,),
        ).fetchall()
        if not statement.hot or not claimed:
            return statement
        return replace(statement, id=claimed[statement.id % len(claimed)][0])

    def replay(self, tenant: int, ids: list[int]) -> None:
        """Have memories looked at again."""
        self.plain.outbox.enqueue(self.tenant(tenant), [MemoryId(i) for i in ids])

    def retire(self) -> None:
        """Drop the collections that have ended; those that stay are all known."""
        drop_retired(self.plain.registry, self.plain.index, grace_seconds=0)
        known = self.db.execute(
            "SELECT 'memories-' || id FROM memory_pipeline.generation WHERE dropped_at IS NULL"
        )
        if unknown := self.collections.names() - {name for (name,) in known}:
            raise Violation(f"nobody knows these collections: {unknown}")

    def destroy(self, tenant: int, *, building: bool) -> None:
        """Delete one of a tenant's collections behind everybody's back."""
        pointers = self.truth().tenants.get(self.tenant(tenant))
        if pointers is None:
            return
        target = pointers.building if building else pointers.live
        if target is not None and target not in self.collections.destroyed:
            self.collections.destroy(target)

    def search(self, tenant: int, text: int) -> None:
        """P3, P4: what is found is this tenant's, and is what Postgres says now."""
        truth, whose = self.truth(), self.tenant(tenant)
        pointers = truth.tenants.get(whose)
        try:
            hits = self.plain.search.search(whose, TEXTS[text], k=20)
        except Corrupt:
            if pointers is None or pointers.live not in self.collections.destroyed:
                raise
            return
        rows = truth.memories.get(whose, {})
        for hit in hits:
            said = rows.get(hit.memory_id)
            if said is None or hit.memory != parse(said[0]):
                raise Violation(f"P3/P4: {whose} was shown {hit.memory_id}, which is not so")

    def move_and_search(self, memory: int, tenant: int) -> None:
        """P3: who had a memory until now is not shown it."""
        had = self.db.execute("SELECT user_id FROM memory_logs WHERE id = %s", (memory,)).fetchone()
        self.application.do(Statement("move", memory, tenant, 0))
        if had is not None:
            self.search(self.application.tenants.index(had[0]), 0)

    # ---- what has to be true

    def truth(self) -> Truth:
        """Read what Postgres says."""
        return read_truth(self.db, self.plain.recipe)

    def check(self) -> None:
        """Check what has to be true after every step."""
        truth = self.truth()
        check_nothing_is_lost(truth, self.collections)
        check_what_is_built(truth, self.collections)
        check_poison(truth, self.application.poisoned)
        if self.trust:
            check_own_vectors(self.db)

    def settle(self) -> None:
        """Heal everything, drain, and check that all is as Postgres says: P2."""
        self.faults.disarm()
        self.end_slowly(kept=False)
        self._drain()
        self._equal()
        for tenant in self.truth().tenants:
            self._verified(TenantId(tenant))
        self.embedder.cured = True
        for tenant, ids in self.truth().buried.items():
            self.plain.outbox.enqueue(TenantId(tenant), [MemoryId(i) for i in ids])
        self._drain()
        if left := self.db.execute("SELECT * FROM memory_pipeline.failure").fetchall():
            raise Violation(f"P5: a cured memory is still a failure: {left}")
        self._equal()
        self._found_by_their_vectors()
        self.pass_time()
        while drop_retired(self.plain.registry, self.plain.index, grace_seconds=0):
            pass
        living = {f"memories-{p.live}" for p in self.truth().tenants.values() if p.live}
        if (names := self.collections.names()) != living:
            raise Violation(f"{len(names - living)} collections too many, {living - names} missing")

    def _drain(self) -> None:
        for _ in range(ROUNDS):
            self.pass_time()
            list(self.plain.drain().run(paused=True))
            for tenant, pointers in self.truth().tenants.items():
                if pointers.building or pointers.live in self.collections.destroyed:
                    rebuilt = self.plain.rebuild_alone(TenantId(tenant))
                    if rebuilt.verdict != "done":
                        raise Violation(f"P7: {tenant} cannot be rebuilt: {rebuilt.reason}")
            truth = self.truth()
            self.collections.forget()
            self.check()
            if not truth.pending and not truth.truncated:
                return
        raise Violation(f"P2: after {ROUNDS} rounds there still is {truth.pending}")

    def _equal(self) -> None:
        """P2: each collection is its tenant's memories, but for those that are buried."""
        truth = self.truth()
        for tenant in {*truth.memories, *truth.tenants}:
            pointers, rows = truth.tenants.get(tenant), truth.memories.get(tenant, {})
            held = self.collections.said(pointers.live) if pointers and pointers.live else {}
            buried = truth.buried.get(tenant, frozenset())
            wrong = {i for i in {*rows, *(held or {})} if rows.get(i) != (held or {}).get(i)}
            if wrong - buried:
                raise Violation(f"P2: {sorted(wrong - buried)} of {tenant} differ at rest")
            if healthy := {i for i in buried if i not in rows or POISON not in rows[i][0]}:
                raise Violation(f"P5: {sorted(healthy)} of {tenant} are no poison, and buried")

    def _verified(self, tenant: TenantId) -> None:
        """P8: at rest a verify finds nothing; what Chroma itself has hidden, it mends."""
        verified = self.plain.verify().run(tenant, sample=None)
        if any(f.kind != "unreachable" for f in verified.findings):
            raise Violation(f"P8: at rest verify finds {verified.findings}")
        if verified.findings:
            last = self.plain.repair().run(tenant, sample=None).after
            if last.findings:
                raise Violation(f"P8: repair leaves {last.findings}")

    def _found_by_their_vectors(self) -> None:
        """P2: every memory is found by the vector that its row has."""
        for tenant, pointers in self.truth().tenants.items():
            ids = sorted(self.truth().memories.get(tenant, {}))
            if pointers.live is None or not ids:
                continue
            rows, _ = self.plain.memories.read([MemoryId(i) for i in ids])
            generation = self.collections.generation(pointers.live)
            vectors = [row.embedding for row in rows.values() if row.embedding is not None]
            if len(vectors) != len(ids):
                raise Violation(f"P2: {tenant} has memories without a vector at rest")
            with self.plain.servers.client(generation.server).collection(
                generation, SECONDS
            ) as collection:
                found = collection.query(
                    query_embeddings=np.stack(vectors), n_results=len(ids), include=[]
                )["ids"]
            for id_, names in zip(rows, found, strict=True):
                if document_id(id_) not in names:
                    raise Violation(f"P2: {tenant}'s {id_} is not found by its own vector")


@contextlib.contextmanager
def open_world(database_url: str, chroma: ChromaProcess, home: Path) -> Iterator[World]:
    """Open one database and one Chroma for any number of examples."""
    settings = Settings.load(
        home=home,
        database_url=database_url,
        chroma_url=chroma.url,
        embedder="hashing",
        batch_size=3,
        rebuild_batch_size=2,
        max_attempts=2,
        # Nothing ends by itself within a test: time passes where a step says so.
        lease_seconds=300.0,
        request_seconds=SECONDS,
        grace_seconds=300.0,
        retry_seconds=300.0,
        retry_max_seconds=600.0,
    )
    faults, written = Faults(), set[UUID]()
    embedder = PickyEmbedder(faults)
    with ExitStack() as stack:
        db = stack.enter_context(psycopg.connect(database_url, autocommit=True))
        db.execute("SET lock_timeout = '5s'")
        db.execute(OWN_VECTORS)
        slow = stack.enter_context(psycopg.connect(database_url))
        plain = stack.enter_context(opened(settings, embedder=cast("Embedder", embedder)))
        waiting = WaitingRebuilds(plain.rebuilds, faults, partial(expire_leases, db))
        plain = replace(plain, rebuilds=cast("PostgresRebuilds", waiting), prefetch=in_this_thread)
        yield World(
            settings=settings,
            chroma=chroma,
            db=db,
            slow=slow,
            plain=plain,
            faults=faults,
            embedder=embedder,
            collections=Collections(plain, written),
            struck=_struck(plain, faults, db, written),
            application=Application(db, ()),
        )


def _struck(
    plain: Pipeline, faults: Faults, db: psycopg.Connection, written: set[UUID]
) -> Pipeline:
    """Put ports that may be struck in the places of the real ones."""
    registry = ("register", "live", "building", "begin_generation", "flip_first", "abandon")
    return replace(
        plain,
        index=StruckIndex(plain.servers, faults, written),
        outbox=cast(PostgresOutbox, FencedOutbox(plain.outbox, faults, db)),
        memories=cast(PostgresMemories, Struck(plain.memories, faults, ("read", "back_up"))),
        registry=cast(PostgresRegistry, Struck(plain.registry, faults, registry)),
        rebuilds=cast(
            PostgresRebuilds, WaitingRebuilds(plain.rebuilds, faults, partial(expire_leases, db))
        ),
    )
