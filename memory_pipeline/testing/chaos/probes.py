"""Queries of a run to its stack: the backlog, both sides' contents, the findings of a verify."""

import json
import subprocess
from typing import Any

import psycopg
from psycopg.rows import dict_row

from memory_pipeline.testing.chaos.ack_record import take_acks
from memory_pipeline.testing.chaos.checker import Final
from memory_pipeline.testing.chaos.ground_truth import GroundTruth
from memory_pipeline.testing.chaos.ledger import Ack
from memory_pipeline.testing.chaos.stack import PrivateStack

VERIFY_SECONDS = 1800.0

OLDEST = """
SELECT coalesce(extract(epoch FROM clock_timestamp() - min(changed_at)), 0)::float8
FROM memory_pipeline.change c
WHERE NOT confirm AND NOT recheck AND NOT EXISTS (
    SELECT FROM memory_pipeline.failure f
    WHERE f.tenant = c.tenant AND f.memory_id = c.memory_id
)
"""
PENDING = """
SELECT (SELECT count(*) FROM memory_pipeline.change)
     + (SELECT count(*) FROM memory_pipeline.truncation)
"""
CLOCK = "SELECT extract(epoch FROM clock_timestamp())::float8"
# Why changes are still pending, for the person that investigates.
WAITING = """
SELECT t.tenant, t.lease_owner, t.lease_until - clock_timestamp() AS leased,
       t.retry_at - clock_timestamp() AS paused, t.last_error, t.live, t.building, g.state,
       c.claim_token, c.confirm, c.covered_by, c.not_before - clock_timestamp() AS due, count(*)
FROM memory_pipeline.change c
LEFT JOIN memory_pipeline.tenant t ON t.tenant = c.tenant
LEFT JOIN memory_pipeline.generation g ON g.id = t.live
GROUP BY t.tenant, g.state, c.claim_token, c.confirm, c.covered_by, c.not_before LIMIT 10
"""


class Probes:
    """Queries around the proxy, each on a connection of its own. Thread-safe."""

    def __init__(self, stack: PrivateStack) -> None:
        self._stack = stack

    def clock(self) -> float:
        """Return the time of Postgres, in seconds since the epoch."""
        return float(self._query(CLOCK))

    def oldest_seconds(self) -> float:
        """Return the age of the oldest pending change, without memories that have a failure."""
        return float(self._query(OLDEST))

    def pending(self) -> int:
        """Return how many changes and resets are pending."""
        return int(self._query(PENDING))

    def waiting(self) -> str:
        """Return the state of some pending changes and their tenants, as JSON."""
        with self._stack.connect("chaos-run") as connection:
            rows = connection.cursor(row_factory=dict_row).execute(WAITING).fetchall()
        return json.dumps(rows, default=str, ensure_ascii=False)

    def final(self) -> tuple[list[Ack], Final]:
        """Return the acks since the last call, and everything on both sides."""
        with self._stack.connect("chaos-run") as connection:
            acks = take_acks(connection)
            truth = GroundTruth(connection, self._stack.chroma_url)
            memories = {i: (row.tenant, row.raw) for i, row in truth.all_rows().items()}
            documents = {
                tenant: dict(truth.documents(live)) for tenant, live in truth.all_live().items()
            }
            buried = truth.buried()
        return acks, Final(memories, documents, buried, self.pending())

    def verify(self, *options: str) -> dict[str, Any]:
        """Verify everything by the command, and return its JSON."""
        child = self._stack.command("verify", "--json", "--sample", "all", *options)
        try:
            child.wait(VERIFY_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
        lines = self._stack.output_of(child).strip().splitlines()
        if not lines:
            silent = {"kind": "verify printed nothing"}
            return {"repaired": 0, "findings": [silent], "skipped": {}}
        printed: dict[str, Any] = json.loads(lines[-1])
        return printed

    def _query(self, query: str) -> Any:
        with self._stack.connect("chaos-run") as connection:
            row = connection.execute(query.encode()).fetchone()
        if row is None:
            raise psycopg.DataError("a probe returned no row")
        return row[0]
