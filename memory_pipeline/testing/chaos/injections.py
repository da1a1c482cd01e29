"""Blocks in which one thing is broken; at their end it is healed, whatever happens.

Each yields what exactly it did.
"""

import random
import signal
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, suppress

import psycopg

from memory_pipeline.local.processes import ServiceFailed, wait_until
from memory_pipeline.testing.chaos.stack import PrivateStack
from memory_pipeline.testing.link_faults import PASS, LinkFault
from memory_pipeline.testing.proxy import Link

Broken = Generator[str]
Break = Callable[[PrivateStack, random.Random], AbstractContextManager[str]]
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


# ---- live processes


@contextmanager
def killed(stack: PrivateStack, chance: random.Random) -> Broken:
    """Kill a live process."""
    resident = chance.choice(stack.residents)
    resident.kill()
    try:
        yield resident.name
    finally:
        resident.start()


@contextmanager
def frozen(stack: PrivateStack, chance: random.Random) -> Broken:
    """Stop a live process in the middle of whatever it does; or all, as a machine sleeps."""
    all_of_them = chance.random() < 0.2  # noqa: PLR2004 - seldom
    chosen = stack.residents if all_of_them else [chance.choice(stack.residents)]
    for resident in chosen:
        resident.send(signal.SIGSTOP)
    try:
        yield " ".join(resident.name for resident in chosen)
    finally:
        for resident in chosen:
            resident.send(signal.SIGCONT)


@contextmanager
def stopped(stack: PrivateStack, chance: random.Random) -> Broken:
    """Tell a live process to end in the middle of its batches."""
    resident = chance.choice(stack.residents)
    code = resident.stop()
    try:
        yield f"{resident.name} ended with {code}"
    finally:
        resident.start()


# ---- Postgres


@contextmanager
def backends_killed(stack: PrivateStack, _chance: random.Random) -> Broken:
    """Cut every connection that the pipeline has."""
    with stack.connect("chaos-nemesis") as connection:
        row = connection.execute(TERMINATE).fetchone()
    yield f"{row[0] if row else 0} backends"


def postgres_down(number: signal.Signals) -> Break:
    """Make a fault that ends the server by a signal."""

    @contextmanager
    def down(stack: PrivateStack, _chance: random.Random) -> Broken:
        identity = stack.postgres.identity()
        process = identity.process() if identity else None
        if identity is None or process is None:
            raise ServiceFailed("Postgres was not there to be broken")
        process.send_signal(number)
        try:
            if not wait_until(lambda: not identity.alive(), within=BACK_SECONDS):
                raise ServiceFailed("Postgres did not end")
            yield number.name
        finally:
            stack.postgres.ensure_running()

    return down


@contextmanager
def rows_locked(stack: PrivateStack, chance: random.Random) -> Broken:
    """Lock the rows of some tenants and of some changes, as a careless session does."""
    with stack.connect("chaos-nemesis") as connection:
        connection.execute("SET lock_timeout = '3s'")
        with connection.transaction():
            held = 0
            with suppress(psycopg.errors.LockNotAvailable), connection.transaction():
                held = len(connection.execute(LOCK, (chance.randint(1, 5),)).fetchall())
            changes = len(connection.execute(LOCK_CHANGES).fetchall())
            yield f"{held} tenants, {changes} changes"


@contextmanager
def transaction_open(stack: PrivateStack, _chance: random.Random) -> Broken:
    """Leave a transaction open that pins what vacuum may remove."""
    with stack.connect("chaos-nemesis") as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with connection.transaction():
            connection.execute(PIN)
            yield ""


# ---- Chroma


@contextmanager
def chroma_killed(stack: PrivateStack, _chance: random.Random) -> Broken:
    """Kill Chroma; it comes back on what it has on disk."""
    with stack.tended.held():
        stack.tended.kill()
        try:
            yield ""
        finally:
            stack.tended.start()


@contextmanager
def chroma_frozen(stack: PrivateStack, _chance: random.Random) -> Broken:
    """Stop Chroma in the middle of whatever it does."""
    with stack.tended.held():
        process = stack.tended.signal(signal.SIGSTOP)
        try:
            yield ""
        finally:
            process.send_signal(signal.SIGCONT)


@contextmanager
def disk_full(stack: PrivateStack, _chance: random.Random) -> Broken:
    """Leave Chroma no room to write."""
    if stack.disk is None:
        raise ServiceFailed("no disk of its own can be mounted here: only root may")
    stack.disk.fill()
    try:
        yield ""
    finally:
        stack.disk.make_room()  # one that is locked by it is restarted by whoever tends it


# ---- links and the model


def link_broken(which: str, make: Callable[[random.Random], LinkFault]) -> Break:
    """Make a fault of the way to ``chroma`` or to ``postgres``."""

    @contextmanager
    def broken(stack: PrivateStack, chance: random.Random) -> Broken:
        link: Link = stack.to_chroma if which == "chroma" else stack.to_postgres
        way = make(chance)
        stack.proxy.switch(link, way)
        try:
            yield f"{way.kind} {way.share:.1f}"
        finally:
            stack.proxy.switch(link, PASS)

    return broken


def model_fails(how: str) -> Break:
    """Make a fault of the model: ``unavailable``, or it ``refuses`` every text."""

    @contextmanager
    def failing(stack: PrivateStack, _chance: random.Random) -> Broken:
        stack.model_file.write_text(how)
        try:
            yield how
        finally:
            stack.model_file.write_text("")

    return failing
