"""Faults as blocks: each injects one, yields its details, and heals it at the end, always."""

import random
import signal
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, suppress

import psycopg

from memory_pipeline.local.processes import ServiceFailed, wait_until
from memory_pipeline.testing.chaos.stack import PrivateStack
from memory_pipeline.testing.link_faults import PASS, LinkFault
from memory_pipeline.testing.proxy import Link

Injection = Callable[[PrivateStack, random.Random], AbstractContextManager[str]]
BACK_SECONDS = 120.0
TERMINATE = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'memory_pipeline'
"""
LOCK = """
SELECT tenant FROM memory_pipeline.tenant ORDER BY lease_token DESC LIMIT %s FOR UPDATE
"""
LOCK_CHANGES = "SELECT seq FROM memory_pipeline.change LIMIT 50 FOR UPDATE SKIP LOCKED"
PIN = "SELECT count(*), pg_current_xact_id() FROM public.memory_logs"


# ---- workers


@contextmanager
def worker_killed(stack: PrivateStack, chance: random.Random) -> Generator[str]:
    """Kill a worker."""
    worker = chance.choice(stack.workers)
    worker.kill()
    try:
        yield worker.name
    finally:
        worker.start()


@contextmanager
def worker_frozen(stack: PrivateStack, chance: random.Random) -> Generator[str]:
    """Freeze a worker at any point; one time in five all of them, as when a machine sleeps."""
    every = chance.random() < 0.2  # noqa: PLR2004 - one in five
    chosen = stack.workers if every else [chance.choice(stack.workers)]
    for worker in chosen:
        worker.send(signal.SIGSTOP)
    try:
        yield " ".join(worker.name for worker in chosen)
    finally:
        for worker in chosen:
            worker.send(signal.SIGCONT)


@contextmanager
def worker_stopped(stack: PrivateStack, chance: random.Random) -> Generator[str]:
    """Stop a worker in an orderly way, in the middle of its batches."""
    worker = chance.choice(stack.workers)
    code = worker.stop()
    try:
        yield f"{worker.name} ended with {code}"
    finally:
        worker.start()


# ---- Postgres


@contextmanager
def backends_killed(stack: PrivateStack, _chance: random.Random) -> Generator[str]:
    """Terminate every connection of the pipeline."""
    with stack.connect("chaos-nemesis") as connection:
        row = connection.execute(TERMINATE).fetchone()
    yield f"{row[0] if row else 0} backends"


def postgres_down(number: signal.Signals) -> Injection:
    """Return a fault that ends Postgres by a signal."""

    @contextmanager
    def down(stack: PrivateStack, _chance: random.Random) -> Generator[str]:
        identity = stack.postgres.identity()
        process = identity.process() if identity else None
        if identity is None or process is None:
            raise ServiceFailed("Postgres is not running, so it cannot be killed")
        process.send_signal(number)
        try:
            if not wait_until(lambda: not identity.alive(), within=BACK_SECONDS):
                raise ServiceFailed("Postgres did not end")
            yield number.name
        finally:
            stack.postgres.ensure_running()

    return down


@contextmanager
def rows_locked(stack: PrivateStack, chance: random.Random) -> Generator[str]:
    """Lock the rows of some tenants and some changes, as a careless session does."""
    with stack.connect("chaos-nemesis") as connection:
        connection.execute("SET lock_timeout = '3s'")
        with connection.transaction():
            held = 0
            with suppress(psycopg.errors.LockNotAvailable), connection.transaction():
                held = len(connection.execute(LOCK, (chance.randint(1, 5),)).fetchall())
            changes = len(connection.execute(LOCK_CHANGES).fetchall())
            yield f"{held} tenants, {changes} changes"


@contextmanager
def transaction_open(stack: PrivateStack, _chance: random.Random) -> Generator[str]:
    """Leave a transaction open that keeps vacuum from removing dead rows."""
    with stack.connect("chaos-nemesis") as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with connection.transaction():
            connection.execute(PIN)
            yield ""


# ---- Chroma


@contextmanager
def chroma_killed(stack: PrivateStack, _chance: random.Random) -> Generator[str]:
    """Kill Chroma; it starts again on its files."""
    with stack.chroma.held():
        stack.chroma.kill()
        try:
            yield ""
        finally:
            stack.chroma.start()


@contextmanager
def chroma_frozen(stack: PrivateStack, _chance: random.Random) -> Generator[str]:
    """Freeze Chroma at any point."""
    with stack.chroma.held():
        process = stack.chroma.signal(signal.SIGSTOP)
        try:
            yield ""
        finally:
            process.send_signal(signal.SIGCONT)


@contextmanager
def disk_full(stack: PrivateStack, _chance: random.Random) -> Generator[str]:
    """Fill Chroma's disk."""
    if stack.disk is None:
        raise ServiceFailed("no disk of its own can be mounted here: only root may")
    stack.disk.fill()
    try:
        yield ""
    finally:
        stack.disk.make_room()  # a Chroma that the full disk has locked is restarted by the stack


# ---- links and the model


def link_broken(which: str, make: Callable[[random.Random], LinkFault]) -> Injection:
    """Return a fault of the link to ``chroma`` or to ``postgres``."""

    @contextmanager
    def broken(stack: PrivateStack, chance: random.Random) -> Generator[str]:
        link: Link = stack.to_chroma if which == "chroma" else stack.to_postgres
        fault = make(chance)
        stack.proxy.switch(link, fault)
        try:
            yield f"{fault.kind} {fault.share:.1f}"
        finally:
            stack.proxy.switch(link, PASS)

    return broken


def model_fails(how: str) -> Injection:
    """Return a fault of the model: ``unavailable``, or ``refuses`` (every text)."""

    @contextmanager
    def failing(stack: PrivateStack, _chance: random.Random) -> Generator[str]:
        stack.model_file.write_text(how)
        try:
            yield how
        finally:
            stack.model_file.write_text("")

    return failing
