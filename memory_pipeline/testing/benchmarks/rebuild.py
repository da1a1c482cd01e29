"""What a rebuild costs beside the limit: the same documents, from memory, by Chroma's own client.

Each measurement has fresh servers, a fresh copy of the filled database and a process of its own.
The limit's best way is chosen on a part; then limit, rebuild and rebuild without its proof take
turns, so that what changes on the machine meets all of them.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import psycopg
from psycopg import sql

from memory_pipeline.content.document import recipe_from
from memory_pipeline.domain.types import RebuildId
from memory_pipeline.local.environment import base_environment
from memory_pipeline.local.postgres import EmbeddedPostgres, start_postgres
from memory_pipeline.pipeline import opened
from memory_pipeline.postgres.database import Database
from memory_pipeline.postgres.migrate import migrate
from memory_pipeline.settings import Settings
from memory_pipeline.testing.benchmarks.limit import LoadLimit, Rate, fresh_servers, limit_of
from memory_pipeline.testing.benchmarks.rows import Load, fill
from memory_pipeline.testing.benchmarks.worker_process import registered
from memory_pipeline.testing.machine import machine, median

FILLED = "filled"
SMALL_ROWS = 5_000
TURNS = 3
SECONDS_A_RUN = 1800.0


@dataclass(frozen=True, slots=True)
class Run:
    """One rebuild of everything, measured in its own process."""

    seconds: float
    documents: int
    done: int
    repaired: int
    peak_mb: float

    @property
    def per_second(self) -> float:
        """Documents a second of wall time."""
        return self.documents / self.seconds


def bench_rebuild(
    home: Path,
    *,
    rows: int,
    tenants: int,
    servers: int,
    document: Literal["full", "none"],
    turns: int = TURNS,
) -> dict[str, object]:
    """Measure on services of its own below ``home``; nothing of the user's is touched.

    Returns:
        ``ratio_to_limit``: documents a second of the rebuild with its proof, to those of the limit
        in the same turns, medians; ``peak_mb``: memory of the rebuilding process.

    """
    # Fewer tenants of the same size, where there are several.
    load, small = Load(rows, tenants), _small(rows, tenants)
    settings = Settings.load(document=document, embedder="hashing")
    postgres = start_postgres(home / "postgres")
    try:
        fill_database(postgres, settings, load, FILLED)
        fill_database(postgres, settings, small, "small")
        with limit_of(home, load, recipe_from(settings)) as limit:
            trials = limit.trials(servers=servers)
            way = trials[0].way
            limits: list[Rate] = []
            proven: list[Run] = []
            bare: list[Run] = []
            for turn in range(turns):
                limits.append(limit.rate(way, servers=servers))
                both = [(proven, True), (bare, False)]
                for runs, proves in both if turn % 2 else reversed(both):
                    runs.append(_measured(home, postgres, settings, FILLED, servers, proves=proves))
            naive = limit.naive()
            one_server = _one_server(limit, servers, turns)
        smallest = _measured(home, postgres, settings, "small", servers, proves=True)
    finally:
        postgres.remove()
    limit_rate = statistics.median(r.per_second for r in limits)
    rate = statistics.median(r.per_second for r in proven)
    bare_rate = statistics.median(r.per_second for r in bare)
    peak = max(r.peak_mb for r in proven)
    return {
        "rows": rows,
        "tenants": tenants,
        "servers": servers,
        "document": document,
        "ratio_to_limit": round(rate / limit_rate, 3),
        "ratio_to_limit_without_verify": round(bare_rate / limit_rate, 3),
        "ratio_to_naive": round(rate / naive.per_second, 1),
        "ratio_to_one_server_limit": round(rate / one_server, 3) if one_server else None,
        "documents_per_second": round(rate, 1),
        "documents_per_second_without_verify": round(bare_rate, 1),
        "limit_documents_per_second": round(limit_rate, 1),
        "one_server_limit_documents_per_second": round(one_server, 1) if one_server else None,
        "naive_documents_per_second": round(naive.per_second, 1),
        "naive_seconds_extrapolated": round(rows / naive.per_second, 1),
        "naive_note": f"one add a row, measured on {naive.documents} rows and extrapolated",
        "limit_way": asdict(way),
        "limit_trials": [
            {**asdict(t.way), "documents_per_second": round(t.per_second, 1)} for t in trials
        ],
        "limit_runs": [round(r.per_second, 1) for r in limits],
        "runs": [round(r.per_second, 1) for r in proven],
        "runs_without_verify": [round(r.per_second, 1) for r in bare],
        "repaired": sum(r.repaired for r in proven),
        "peak_mb": peak,
        "peak_mb_at_small": smallest.peak_mb,
        "small": asdict(small),
        "machine": machine(),
    }


def _small(rows: int, tenants: int) -> Load:
    few = min(rows, SMALL_ROWS)
    return Load(few, max(1, tenants * few // rows))


def fill_database(postgres: EmbeddedPostgres, settings: Settings, load: Load, name: str) -> None:
    """Make a database that holds these memories with their vectors, never synced."""
    postgres.create_database(name)
    mine = settings_of(settings, postgres, name, [])
    migrate(mine, vectors="trust")
    database = Database.from_settings(mine)
    fill(database, load)
    database.close()
    with psycopg.connect(postgres.url(name), autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


def copy_database(postgres: EmbeddedPostgres, template: str) -> str:
    """Make a fresh copy of a database: a rebuild leaves its traces in what it rebuilds from."""
    name = f"{template}_copy"
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
        connection.execute("CHECKPOINT")
    return name


def settings_of(
    settings: Settings, postgres: EmbeddedPostgres, database: str, urls: Sequence[str]
) -> Settings:
    """Return the settings of one measurement: this database and these servers."""
    return Settings.load(
        document=settings.document,
        embedder=settings.embedder,
        database_url=postgres.url(database),
        chroma_url=urls[0] if urls else None,
        chroma_urls=tuple(urls[1:]),
    )


def _one_server(limit: LoadLimit, servers: int, turns: int) -> float | None:
    """Measure one server's limit, where there are several: what more of them bring."""
    if servers == 1:
        return None
    way = limit.trials(servers=1)[0].way
    rates: list[Rate] = [limit.rate(way) for _ in range(turns)]
    return statistics.median(r.per_second for r in rates)


def _measured(
    home: Path,
    postgres: EmbeddedPostgres,
    settings: Settings,
    database: str,
    servers: int,
    *,
    proves: bool,
) -> Run:
    with ExitStack() as stack:
        urls = stack.enter_context(fresh_servers(home, servers))
        mine = settings_of(settings, postgres, copy_database(postgres, database), urls)
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=home))
        answer = Path(folder) / "run.json"
        subprocess.run(
            [sys.executable, "-m", __name__, str(answer), "proves" if proves else "bare"],
            env=base_environment(mine),
            check=True,
            timeout=SECONDS_A_RUN,
        )
        return Run(**json.loads(answer.read_text()))


def main(answer: Path, *, proves: bool) -> None:
    """Rebuild everything once in this process and write down how long it took."""
    with opened(Settings.load()) as pipeline:
        pipeline.index.servers()  # imports and connects before the clock runs
        tenants = registered(pipeline)
        began = time.perf_counter()
        rebuilt = list(pipeline.rebuild(proves=proves).run(RebuildId("bench"), tenants))
        seconds = time.perf_counter() - began
    wrong = [r for r in rebuilt if r.verdict != "done"]
    if wrong:
        raise RuntimeError(f"{len(wrong)} tenants were not rebuilt: {wrong[0].reason}")
    peak_mb = median([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024])
    written = sum(r.written for r in rebuilt)
    repaired = sum(r.repaired for r in rebuilt)
    run = Run(seconds, written, len(rebuilt), repaired, peak_mb)
    answer.write_text(json.dumps(asdict(run)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), proves=sys.argv[2] == "proves")
