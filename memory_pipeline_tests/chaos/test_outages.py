"""An outage of Chroma, of each kind, while the application continues to write.

What must hold: no statement of the application fails, no memory is charged or lost, and the backlog
is gone soon after Chroma is back, without an operator. With a minute of each:
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
from memory_pipeline.testing.chaos import injections
from memory_pipeline.testing.chaos.expected_state import ExpectedState
from memory_pipeline.testing.chaos.history import History
from memory_pipeline.testing.chaos.probes import Probes
from memory_pipeline.testing.chaos.run import tenant_names
from memory_pipeline.testing.chaos.stack import PrivateStack, private_stack
from memory_pipeline.testing.chaos.workload import Workload
from memory_pipeline.testing.link_faults import LinkFault

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

SECONDS = float(os.environ.get("OUTAGE_SECONDS", "5"))
RATE, TENANTS, SEED = 30, 20, 1
BACK_SECONDS = 60.0
OUTAGES: dict[str, injections.Injection] = {
    "down": injections.chroma_killed,
    "hanging": injections.chroma_frozen,
    "disk full": injections.disk_full,
    **{
        name: injections.link_broken("chroma", lambda _, fault=fault: fault)  # type: ignore[misc]
        for name, fault in {
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
    """Record the writes of the application."""
    written = History(tmp_path_factory.mktemp("outages") / "history.jsonl")
    yield written
    written.close()


@pytest.fixture(scope="module")
def stack(history: History) -> Iterator[PrivateStack]:
    """Run Postgres, Chroma and a worker, with proxies between them."""
    with private_stack(history, seed=SEED, workers=1) as running:
        yield running


def one(connection: psycopg.Connection, query: str) -> int:
    """Return the number that a query selects."""
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("kind", OUTAGES)
def test_an_outage_costs_nothing_but_time(stack: PrivateStack, history: History, kind: str) -> None:
    """P1, P5, P6: changes wait in Postgres, and are searchable soon after."""
    if kind == "disk full" and stack.disk is None:
        pytest.skip("no disk of its own can be mounted here: only root may")
    workload = Workload(
        stack.connect, tenant_names(TENANTS), history, ExpectedState(), rate=RATE, seed=SEED
    )
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
        assert drained, Probes(stack).waiting()
        assert waiting > RATE  # it was an outage
        assert one(connection, FAILED) == 0
    assert len(failed_statements(history)) == errors
    assert wait_until(lambda: Probes(stack).pending() == 0, within=BACK_SECONDS)
    assert Probes(stack).verify()["findings"] == []
    print(  # noqa: T201 - shown with -s
        f"{kind}: {SECONDS:.0f} s, {waiting} changes waited, gone {seconds:.1f} s after"
    )


def failed_statements(history: History) -> list[str]:
    """Return the application's statements that failed, or got no answer."""
    history.flush()
    return [line for line in Path(history.file).read_text().splitlines() if '"info"' in line]
