"""What a run asks its stack: how far it is, what stands on either side, what a verify finds."""

import json
import subprocess
from typing import Any

import psycopg
from psycopg.rows import dict_row

from memory_pipeline.testing.chaos.checker import Ack, Final
from memory_pipeline.testing.chaos.ground_truth import Eyes
from memory_pipeline.testing.chaos.stack import PrivateStack

VERIFY_SECONDS = 1800.0

OLDEST = """
SELECT coalesce(extract(epoch FROM clock_timestamp() - min(changed_at)), 0)::float8
FROM memory_pipeline.change c
WHERE NOT confirm AND NOT again AND NOT EXISTS (
    SELECT FROM memory_pipeline.failure f
    WHERE f.tenant = c.tenant AND f.memory_id = c.memory_id
)
"""
PENDING = """
SELECT (SELECT count(*) FROM memory_pipeline.change)
     + (SELECT count(*) FROM memory_pipeline.truncation)
"""
CLOCK = "SELECT extract(epoch FROM clock_timestamp())::float8"
ACKS = """
SELECT seq, tenant, memory_id, applications, covered, claim_token, lease_token, late_seconds,
       changed, acked
FROM chaos.acked
"""
FORGET_ACKS = "TRUNCATE chaos.acked"
# Why something still waits, for whoever has to find out.
WAITING = """
SELECT t.tenant, t.lease_owner, t.lease_until - clock_timestamp() AS leased,
       t.retry_at - clock_timestamp() AS paused, t.last_error, t.live, t.building, g.state,
       c.claim_token, c.confirm, c.covered_by, c.not_before - clock_timestamp() AS due, count(*)
FROM memory_pipeline.change c
LEFT JOIN memory_pipeline.tenant t ON t.tenant = c.tenant
LEFT JOIN memory_pipeline.generation g ON g.id = t.live
GROUP BY t.tenant, g.state, c.claim_token, c.confirm, c.covered_by, c.not_before LIMIT 10
"""


class Questions:
    """Asks, around the proxy, each time on a connection of its own."""

    def __init__(self, stack: PrivateStack) -> None:
        self._stack = stack

    def clock(self) -> float:
        """Tell the time of Postgres, in seconds since the epoch."""
        return float(self._ask(CLOCK))

    def oldest_seconds(self) -> float:
        """Tell how old the oldest change is that waits and has not failed for what it is."""
        return float(self._ask(OLDEST))

    def pending(self) -> int:
        """Count what waits."""
        return int(self._ask(PENDING))

    def waiting(self) -> str:
        """Tell why something still waits."""
        with self._stack.connect("chaos-run") as connection:
            rows = connection.cursor(row_factory=dict_row).execute(WAITING).fetchall()
        return json.dumps(rows, default=str, ensure_ascii=False)

    def final(self) -> tuple[list[Ack], Final]:
        """Read both sides whole, and who has acked what since it was asked last."""
        with self._stack.connect("chaos-run") as connection:
            acks = [Ack(*row) for row in connection.execute(ACKS)]
            connection.execute(FORGET_ACKS)
            eyes = Eyes(connection, self._stack.chroma_url)
            memories = {i: (row.tenant, row.raw) for i, row in eyes.all_rows().items()}
            documents = {
                tenant: dict(eyes.documents(live)) for tenant, live in eyes.all_live().items()
            }
            buried = eyes.buried()
        return acks, Final(memories, documents, buried, self.pending())

    def verified(self, *options: str) -> dict[str, Any]:
        """Verify everything, as a person would; return what the command tells."""
        child = self._stack.command("verify", "--json", "--sample", "all", *options)
        try:
            child.wait(VERIFY_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
        said = self._stack.said(child).strip().splitlines()
        if not said:
            return {"repaired": 0, "findings": [{"kind": "verify said nothing"}], "unverified": {}}
        told: dict[str, Any] = json.loads(said[-1])
        return told

    def _ask(self, query: str) -> Any:
        with self._stack.connect("chaos-run") as connection:
            row = connection.execute(query.encode()).fetchone()
        if row is None:
            raise psycopg.DataError("a question without an answer")
        return row[0]
