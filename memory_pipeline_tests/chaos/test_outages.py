"""A while without Chroma, in each way that it can be away, while the application writes on.

What must hold: no statement of the application fails, nothing is charged or lost, the backlog is
gone soon after Chroma is back, without a hand. With a minute of each:
``OUTAGE_SECONDS=60 python -m pytest -s memory_pipeline_tests/chaos/test_outages.py``.
"""

import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from memory_pipeline.local.processes import wait_until
from memory_pipeline.testing.chaos import injections as breaking
from memory_pipeline.testing.chaos.expected_state import Books
from memory_pipeline.testing.chaos.history import History
from memory_pipeline.testing.chaos.probes import Questions
from memory_pipeline.testing.chaos.run import tenants_of
from memory_pipeline.testing.chaos.stack import PrivateStack, private_stack
from memory_pipeline.testing.chaos.workload import Workload
from memory_pipeline.testing.link_faults import LinkFault

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

SECONDS = float(os.environ.get("OUTAGE_SECONDS", "5"))
RATE, TENANTS, SEED = 30, 20, 1
BACK_SECONDS = 60.0
OUTAGES: dict[str, breaking.Break] = {
    "down": breaking.chroma_killed,
    "hanging": breaking.chroma_frozen,
    "disk full": breaking.disk_full,
    **{
        name: breaking.link_broken("chroma", lambda _, way=way: way)  # type: ignore[misc]
        for name, way in {
            "refusing": LinkFault("refuse"),
            "replies cut after applying": LinkFault("cut", bytes=20),
            "replies lost after applying": LinkFault("lost"),
            "500": LinkFault("answer", status=500),
            "429": LinkFault("answer", status=429),
        }.items()
    },
}
CONFIRMS_APART = "SELECT count(*) FROM memory_pipeline.change WHERE NOT confirm"
FAILED = "SELECT count(*) FROM memory_pipeline.failure"


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    """Write down what the application does."""
    written = History(tmp_path_factory.mktemp("outages") / "history.jsonl")
    yield written
    written.close()


@pytest.fixture(scope="module")
def stack(history: History) -> Iterator[PrivateStack]:
    """Run Postgres, Chroma and a live process, with a proxy between them."""
    with private_stack(history, seed=SEED, lives=1) as running:
        yield running


def one(connection: psycopg.Connection, query: str) -> int:
    """Ask for a number."""
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("kind", OUTAGES)
def test_an_outage_costs_nothing_but_time(stack: PrivateStack, history: History, kind: str) -> None:
    """P1, P5, P6: it waits in Postgres, and is there soon after."""
    if kind == "disk full" and stack.disk is None:
        pytest.skip("no disk of its own can be mounted here: only root may")
    workload = Workload(stack.connect, tenants_of(TENANTS), history, Books(), rate=RATE, seed=SEED)
    errors = len(failed_statements(history))
    with stack.connect("chaos-run") as connection:
        workload.start()
        try:
            assert wait_until(lambda: workload.changes > RATE, within=BACK_SECONDS)
            with OUTAGES[kind](stack, random.Random(SEED)):
                threading.Event().wait(SECONDS)
                waiting = one(connection, CONFIRMS_APART)
        finally:
            workload.stop()
        back = time.monotonic()
        drained = wait_until(lambda: one(connection, CONFIRMS_APART) == 0, within=BACK_SECONDS)
        seconds = time.monotonic() - back
        assert drained, Questions(stack).waiting()
        assert waiting > RATE  # it was an outage
        assert one(connection, FAILED) == 0
    assert len(failed_statements(history)) == errors
    assert wait_until(lambda: Questions(stack).pending() == 0, within=BACK_SECONDS)
    assert Questions(stack).verified()["findings"] == []
    print(  # noqa: T201 - for whoever asks with -s
        f"{kind}: {SECONDS:.0f} s, {waiting} changes waited, gone {seconds:.1f} s after"
    )


def failed_statements(history: History) -> list[str]:
    """Return the application's statements that nobody knows the end of, or that failed."""
    history.flush()
    return [line for line in Path(history.file).read_text().splitlines() if '"info"' in line]
