"""The cost of the capture triggers: one large COPY with them and without, in turns."""

import json
import time
from pathlib import Path

import psycopg
from psycopg import sql

from memory_pipeline.local.postgres import start_postgres
from memory_pipeline.postgres.migrate import migrate
from memory_pipeline.settings import Settings
from memory_pipeline.testing.machine import machine, median

TENANTS = 50
TRIGGERS = ("memory_pipeline_capture", "memory_pipeline_truncate", "memory_pipeline_hint")


def bench_capture(home: Path, *, rows: int, pairs: int) -> dict[str, object]:
    """Measure on a Postgres of its own below ``home``; the user's own services are not touched.

    Returns:
        ``trigger_us_per_row``: the additional microseconds a row, the median over the pairs.

    """
    server = start_postgres(home / "postgres")
    try:
        server.create_database("bench")
        url = server.url("bench")
        migrate(Settings.load(database_url=url))
        lines = _copy_lines(rows)
        with psycopg.connect(url, autocommit=True) as connection:
            _copy(connection, lines, captured=True)  # warms caches and files; not counted
            bare: list[float] = []
            captured: list[float] = []
            for pair in range(pairs):
                # The first run of a pair finds another machine than the second: they take turns.
                for with_triggers in (True, False) if pair % 2 else (False, True):
                    seconds = _copy(connection, lines, captured=with_triggers)
                    (captured if with_triggers else bare).append(seconds / rows * 1e6)
    finally:
        server.remove()
    return {
        "rows": rows,
        "pairs": pairs,
        "bare_us_per_row": median(bare),
        "captured_us_per_row": median(captured),
        "trigger_us_per_row": median([c - b for b, c in zip(bare, captured, strict=True)]),
        "machine": machine(),
    }


def _copy_lines(rows: int) -> bytes:
    """Return memories of about 450 bytes each, in COPY's text format."""
    details = "The connection pool was exhausted while the nightly export held its cursor. " * 4
    return b"".join(
        "\t".join(
            (
                f"user-{number % TENANTS}",
                f"project-{number % 7}",
                json.dumps(
                    {
                        "date": "2026-01-15",
                        "task": "fix",
                        "component": "pool",
                        "summary": f"Memory number {number}",
                        "details": details,
                    }
                ),
            )
        ).encode()
        + b"\n"
        for number in range(rows)
    )


def _copy(connection: psycopg.Connection, lines: bytes, *, captured: bool) -> float:
    state = sql.SQL("ENABLE ALWAYS" if captured else "DISABLE")
    connection.execute("TRUNCATE public.memory_logs")
    connection.execute("TRUNCATE memory_pipeline.change")
    for trigger in TRIGGERS:
        connection.execute(
            sql.SQL("ALTER TABLE public.memory_logs {} TRIGGER {}").format(
                state, sql.Identifier(trigger)
            )
        )
    connection.execute("CHECKPOINT")
    began = time.perf_counter()
    with (
        connection.cursor() as cursor,
        cursor.copy("COPY public.memory_logs (user_id, project_id, raw_data) FROM STDIN") as copy,
    ):
        copy.write(lines)
    return time.perf_counter() - began
