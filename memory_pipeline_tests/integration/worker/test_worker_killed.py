"""Two workers, killed, frozen and cut off at random under load: fresh again, and true.

What breaks: at any moment a process may be gone, may stand still for longer than its leases last
(alone, or with the whole machine), or may lose every connection to Postgres. Why the obvious fix is
not enough: the one that stood still goes on in the middle of a batch that another has taken over.
What must not change: nothing is forgotten, nothing is acked by whoever lost its lease, and nobody
has to do anything by hand.
"""

import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.types.json import Jsonb
from pydantic import SecretStr

from memory_pipeline.domain.types import MemoryId, TenantId
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.local.environment import base_environment
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.settings import Settings
from memory_pipeline_tests.words import one, remember

WaitUntil = Callable[..., None]

# The command as users start it, but that the stand-in for the model takes as long as a model does:
# most faults meet a turn between its claim and its ack.
RUN = """
import time
from memory_pipeline.cli import main
from memory_pipeline.embedding.hashing import HashingEmbedder
at_once = HashingEmbedder.embed
HashingEmbedder.embed = lambda *given: time.sleep(0.1) or at_once(*given)
main()
"""
FAULTS = int(os.environ.get("LIVE_FAULTS", "4"))
SEED = int(os.environ.get("LIVE_SEED", random.randrange(1_000_000)))
KINDS = ("kill", "freeze", "sleep", "cut")

TENANTS = [TenantId(f"user-{n}") for n in range(10)]
CHANGES_A_SECOND = 20
LEASE_SECONDS, REQUEST_SECONDS, GRACE_SECONDS = 3.0, 1.5, 1.0
FROZEN_LEASES = (0.1, 3.0)
ASLEEP_LEASES = (1.1, 1.3)
FRESH_SECONDS = 2.0  # promised is a quarter of it; the machine of a test is loaded
RECOVERY_SECONDS = 15.0
PROBES = 10
OURS = "a test's own connection"

# Who acked what, and whose it was, as Postgres saw it at that moment; and how long the lease had
# ended when the statement began: one that began in time has locked it, and may wait for rows. Each
# process connects under a name of its own; the owner of a lease is named by host, pid and worker.
RECORD_ACKS = """
CREATE TABLE public.acked (
    seq bigint, memory_id bigint, confirm boolean, claim_token bigint, lease_token bigint,
    late_seconds float8, by_whom text, owner_pid integer
);
CREATE FUNCTION public.record_ack() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.acked
    SELECT OLD.seq, OLD.memory_id, OLD.confirm, OLD.claim_token, t.lease_token,
           extract(epoch FROM statement_timestamp() - t.lease_until), session_user,
           split_part(t.lease_owner, ':', 2)::integer
    FROM (VALUES (OLD.tenant)) AS o (tenant)
    LEFT JOIN memory_pipeline.tenant t ON t.tenant = o.tenant;
    RETURN OLD;
END $$;
CREATE TRIGGER record_ack BEFORE DELETE ON memory_pipeline.change
    FOR EACH ROW EXECUTE FUNCTION public.record_ack();
"""

WHY = """
SELECT t.tenant, t.lease_owner, t.lease_until - clock_timestamp() AS leased,
       t.retry_at - clock_timestamp() AS paused, t.retries, t.last_error, c.claim_token, c.confirm,
       c.not_before - clock_timestamp() AS not_before, count(*)
FROM memory_pipeline.tenant t LEFT JOIN memory_pipeline.change c ON c.tenant = t.tenant
WHERE t.tenant = %(tenant)s GROUP BY t.tenant, c.claim_token, c.confirm, c.not_before
"""
CUT = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name <> %s"
)


@dataclass
class Application:
    """Writes at a steady rate until it is told to stop: inserts, updates, deletes, moves."""

    url: str
    chance: random.Random
    stop: threading.Event = field(default_factory=threading.Event)
    changes: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Write."""
        mine: list[int] = []
        try:
            with psycopg.connect(self.url, autocommit=True, application_name=OURS) as connection:
                while not self.stop.wait(1 / CHANGES_A_SECOND):
                    self._change(connection, mine)
        except psycopg.Error as error:
            self.errors.append(str(error))

    def _change(self, connection: psycopg.Connection, mine: list[int]) -> None:
        words = Jsonb({"summary": " ".join(f"{self.chance.getrandbits(32):x}" for _ in range(6))})
        tenant = self.chance.choice(TENANTS)
        kind = self.chance.choices(["insert", "update", "delete", "move"], [5, 3, 1, 1])[0]
        if kind == "insert" or len(mine) < 10:
            row = connection.execute(
                "INSERT INTO memory_logs (user_id, raw_data) VALUES (%s, %s) RETURNING id",
                (tenant, words),
            ).fetchone()
            assert row is not None
            mine.append(row[0])
        elif kind == "update":
            connection.execute(
                "UPDATE memory_logs SET raw_data = %s, updated_at = now() WHERE id = %s",
                (words, self.chance.choice(mine)),
            )
        elif kind == "delete":
            gone = mine.pop(self.chance.randrange(len(mine)))
            connection.execute("DELETE FROM memory_logs WHERE id = %s", (gone,))
        else:
            moved = connection.execute(
                "UPDATE memory_logs SET user_id = %(to)s WHERE id = %(id)s AND user_id <> %(to)s",
                {"to": tenant, "id": self.chance.choice(mine)},
            )
            if not moved.rowcount:
                return
        self.changes[kind] += 1


@dataclass
class Process:
    """A worker, and again when it was killed."""

    name: str
    settings: Settings
    log_file: Path
    child: subprocess.Popen[bytes] = field(init=False)
    pids: list[int] = field(default_factory=list)
    log_begins: int = 0

    def start(self) -> None:
        """Start it; its decisions go to a file."""
        with self.log_file.open("ab") as log:
            self.log_begins = log.tell()
            self.child = subprocess.Popen(
                [sys.executable, "-c", RUN, "live", "--no-dagster"],
                env=base_environment(self.settings),
                stdout=log,
                stderr=log,
            )
        self.pids.append(self.child.pid)

    def said(self) -> str:
        """Tell what this life of it has logged."""
        return self.log_file.read_bytes()[self.log_begins :].decode()

    def lives(self) -> None:
        """Fail where it ended by itself; as any supervisor, repeat a start without Postgres."""
        if self.child.poll() is not None:
            assert (self.child.returncode, "synced" in self.said()) == (3, False), self.said()
            self.start()

    def end(self) -> None:
        """End it, whatever state it is in."""
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()


def user_of(url: str, name: str, db: psycopg.Connection) -> str:
    """Make a database role for a process; return the address with it."""
    db.execute(f"DROP ROLE IF EXISTS {name}; CREATE ROLE {name} SUPERUSER LOGIN".encode())
    return url.replace("postgresql://postgres@", f"postgresql://{name}@")


@contextmanager
def under_load(url: str) -> Iterator[Application]:
    """Let an application write for as long as the block lasts."""
    application = Application(url, random.Random(SEED))
    thread = threading.Thread(target=application.run)
    thread.start()
    try:
        yield application
    finally:
        application.stop.set()
        thread.join()


def break_something(
    kind: str, processes: Sequence[Process], chance: random.Random, db: psycopg.Connection
) -> str:
    """Break one thing; return what, for the report."""
    process = chance.choice(processes)
    if kind == "kill":
        process.child.kill()
        process.child.wait()
        process.start()
        return "kill -9"
    if kind == "cut":
        return f"cut {one(db, CUT, OURS)} connections"
    frozen, leases = ([process], FROZEN_LEASES) if kind == "freeze" else (processes, ASLEEP_LEASES)
    seconds = chance.uniform(*leases) * LEASE_SECONDS
    for each in frozen:
        each.child.send_signal(signal.SIGSTOP)
    threading.Event().wait(seconds)
    for each in frozen:
        each.child.send_signal(signal.SIGCONT)
    return f"{kind} of {seconds:.1f} s"


def lag_of_one(pipeline: Pipeline, db: psycopg.Connection, tenant: TenantId) -> float:
    """Write a memory; return after how many seconds Chroma has it."""
    memory_id = MemoryId(remember(db, tenant, f"a probe {time.monotonic()}"))
    began, told = time.monotonic(), False
    while (waited := time.monotonic() - began) < RECOVERY_SECONDS:
        live = pipeline.registry.live(tenant)
        if live is not None and pipeline.index.fetch(live, [memory_id], seconds=5.0):
            break
        if waited > FRESH_SECONDS and not told:
            told = True
            print("late:", db.execute(WHY, {"tenant": tenant}).fetchall())  # noqa: T201 - says why
        time.sleep(0.005)
    return time.monotonic() - began


def test_workers_survive_whatever_happens_to_them(
    settings: Settings,
    unmarked_chroma: None,
    database_url: str,
    tmp_path: Path,
    wait_until: WaitUntil,
) -> None:
    """P1, P2, P4, P5: nothing lost, everything true, no ack by a dead token, fresh within 15 s."""
    print(f"seed {SEED}, {FAULTS} faults")  # noqa: T201 - a failing seed has to be known
    chance = random.Random(SEED)
    settings = settings.model_copy(
        update={
            "lease_seconds": LEASE_SECONDS,
            "request_seconds": REQUEST_SECONDS,
            "grace_seconds": GRACE_SECONDS,
            "retry_seconds": 2.0,
            "retry_max_seconds": 60.0,
        }
    )
    url = make_conninfo(database_url, application_name=OURS)
    with ExitStack() as stack:
        pipeline = stack.enter_context(opened(settings, embedder=HashingEmbedder()))
        db = stack.enter_context(psycopg.connect(url, autocommit=True))
        db.execute(RECORD_ACKS.encode())
        processes = [
            Process(
                name,
                settings.model_copy(
                    update={"database_url": SecretStr(user_of(database_url, name, db))}
                ),
                tmp_path / f"{name}.log",
            )
            for name in ("live_one", "live_two")
        ]

        def all_are_there() -> bool:
            return {p.child.pid for p in processes} <= {w.pid for w in pipeline.workers.healthy()}

        for process in processes:
            process.start()
            stack.callback(process.end)
        wait_until(all_are_there, within=30)
        # 1. Faults under load: each kind at least once, where there are enough of them.
        kinds = [*KINDS, *chance.choices(KINDS, k=max(0, FAULTS - len(KINDS)))][:FAULTS]
        chance.shuffle(kinds)
        told = []
        with under_load(url) as application:
            for kind in kinds:
                threading.Event().wait(chance.uniform(0.2, 1.0))  # the moment is random
                for process in processes:
                    process.lives()
                told.append(break_something(kind, processes, chance, db))
            recovered_from = time.monotonic()
            # 2. Fresh again, while the load goes on.
            lags: list[float] = []
            while not lags or max(lags[-PROBES:]) > FRESH_SECONDS or len(lags) < PROBES:
                lags.append(lag_of_one(pipeline, db, chance.choice(TENANTS)))
                late = time.monotonic() - recovered_from > RECOVERY_SECONDS
                assert not late, f"{told}: the last probes took {lags[-PROBES:]} s"
            fresh_after = time.monotonic() - recovered_from
        assert application.errors == []
        for process in processes:
            process.lives()
        wait_until(all_are_there, within=30)
        # 3. Nothing waits for ever: confirms of what was taken over included.
        backlog = "SELECT count(*) FROM memory_pipeline.change"
        wait_until(lambda: one(db, backlog) == 0, within=RECOVERY_SECONDS)
        # 4. An orderly end leaves no lease.
        for process in processes:
            process.child.terminate()
        for process in processes:
            assert process.child.wait(30) == 0, process.said()
        assert one(db, "SELECT count(lease_until) FROM memory_pipeline.tenant") == 0
        assert one(db, "SELECT count(*) FROM memory_pipeline.failure") == 0
        acked = one(db, "SELECT count(*) FROM public.acked")
        confirmed = one(db, "SELECT count(*) FROM public.acked WHERE confirm")
        print(  # noqa: T201 - figures for whoever asks with -s
            f"{dict(application.changes)}; {told}; {acked} acked, {confirmed} of them confirms;"
            f" fresh {fresh_after:.1f} s after the last fault: probes"
            f" p50 {statistics.median(lags[-PROBES:]) * 1000:.0f} ms,"
            f" slowest {max(lags[-PROBES:]) * 1000:.0f} ms"
        )
        # 5. Nobody acked what was no longer its own.
        dead = db.execute(
            "SELECT * FROM public.acked WHERE claim_token IS DISTINCT FROM lease_token"
            " OR lease_token IS NULL OR coalesce(late_seconds, 'infinity') > 0"
        ).fetchall()
        assert dead == []
        ackers = db.execute("SELECT DISTINCT by_whom, owner_pid FROM public.acked").fetchall()
        assert set(ackers) <= {(p.name, pid) for p in processes for pid in p.pids}
        # 6. All of it is true.
        found = [f for t in TENANTS for f in pipeline.verify().run(t, sample=None).findings]
        # Chroma hides some whenever others beside them are rewritten; that is not lost.
        assert [f for f in found if f.kind != "unreachable"] == []
        assert acked >= sum(application.changes.values()) + len(lags)
