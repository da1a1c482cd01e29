"""The queries of a chaos run fit the migrated schema.

What broke: a column was renamed, and every run ended in an error: the queries are in no test but
the runs, which `make test` leaves out.
"""

from dataclasses import dataclass
from typing import cast

import psycopg
import pytest

from memory_pipeline.domain.types import MemoryId, TenantId
from memory_pipeline.testing.chaos import injections
from memory_pipeline.testing.chaos.ack_record import install_ack_record, take_acks
from memory_pipeline.testing.chaos.ground_truth import Excused, GroundTruth
from memory_pipeline.testing.chaos.history import Sort
from memory_pipeline.testing.chaos.probes import Probes
from memory_pipeline.testing.chaos.sql_writes import PlannedWrite, new_ids, write
from memory_pipeline.testing.chaos.stack import PrivateStack

ADA = TenantId("ada")
NO_CHROMA = "http://127.0.0.1:1"


@dataclass
class Stack:
    """The part of a private stack that the probes use: connections."""

    url: str

    def connect(self, name: str) -> psycopg.Connection:
        """Connect, as the private stack does."""
        return psycopg.connect(self.url, autocommit=True, application_name=name)


@pytest.fixture
def memory_id(db: psycopg.Connection) -> MemoryId:
    """Write a memory as the application of a run does; return its id."""
    (new,) = new_ids(db, 1)
    write(db, "insert", [PlannedWrite(new, ADA, {"summary": "first"})])
    return new


def test_a_deleted_change_is_recorded_once(db: psycopg.Connection, memory_id: MemoryId) -> None:
    """With the tokens of its claim and of the lease, here none."""
    install_ack_record(db)
    db.execute("DELETE FROM memory_pipeline.change")
    (ack,) = take_acks(db)
    assert (ack.tenant, ack.memory_id) == (ADA, memory_id)
    assert (ack.applications, ack.covered) == (True, False)
    assert (ack.claim_token, ack.lease_token, ack.late_seconds) == (None, None, None)
    assert ack.changed <= ack.acked
    assert take_acks(db) == []


def test_the_probes_see_a_pending_change(database_url: str, memory_id: MemoryId) -> None:
    """Its number, its age and its state."""
    probes = Probes(cast("PrivateStack", Stack(database_url)))
    assert memory_id
    assert probes.pending() == 1
    assert 0 < probes.oldest_seconds() < probes.clock()
    assert '"count": 1' in probes.waiting()


def test_the_ground_truth_excuses_a_pending_change(
    db: psycopg.Connection, memory_id: MemoryId
) -> None:
    """And no other memory; there is no collection and no dead letter yet."""
    truth = GroundTruth(db, NO_CHROMA)
    assert list(truth.rows([memory_id])) == list(truth.all_rows()) == [memory_id]
    assert truth.some_ids(ADA, 5) == [memory_id]
    assert truth.excused(ADA, [memory_id]) == Excused(frozenset({memory_id}), everything=False)
    assert (truth.live(ADA), truth.all_live(), truth.buried()) == (None, {}, set())


@pytest.mark.parametrize(
    "sort", ["insert", "update", "delete", "move", "transaction", "rollback", "savepoint", "copy"]
)
def test_every_sort_of_write_is_a_statement(
    db: psycopg.Connection, memory_id: MemoryId, sort: Sort
) -> None:
    """A deletion deletes, a rollback changes nothing, the others leave a memory."""
    fresh = new_ids(db, 2)
    plans = [PlannedWrite(i, ADA, "new") for i in fresh]
    if sort in {"update", "transaction", "rollback"}:
        plans = [PlannedWrite(memory_id, ADA, "second")]
    elif sort == "delete":
        plans = [PlannedWrite(memory_id, None)]
    elif sort == "move":
        plans = [PlannedWrite(memory_id, TenantId("bob"), changed=False)]
    write(db, sort, plans)
    count = {"insert": 2, "savepoint": 2, "copy": 3, "delete": 0}.get(sort, 1)
    assert len(GroundTruth(db, NO_CHROMA).all_rows()) == count


def test_the_faults_lock_and_pin_rows(db: psycopg.Connection, memory_id: MemoryId) -> None:
    """As far as they are queries."""
    assert memory_id
    with db.transaction():
        assert db.execute(injections.LOCK, (5,)).fetchall() == []  # no tenant is registered
        assert len(db.execute(injections.LOCK_CHANGES).fetchall()) == 1
        row = db.execute(injections.PIN).fetchone()
        assert row is not None
        assert row[0] == 1
    assert db.execute(injections.TERMINATE).fetchone() == (0,)
