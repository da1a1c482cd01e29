"""The cost of a rebuild, compared with the limit: the same documents loaded from memory.

Each measurement has fresh servers, a fresh copy of the filled database and a process of its own.
The limit's best method is chosen on a part; then limit, rebuild and rebuild without its proof take
turns, so that changes of the machine affect all of them.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from memory_pipeline.content.document import recipe_from
from memory_pipeline.domain.types import RebuildId
from memory_pipeline.local.environment import base_environment
from memory_pipeline.local.postgres import EmbeddedPostgres, start_postgres
from memory_pipeline.pipeline import opened
from memory_pipeline.settings import Settings
from memory_pipeline.testing.benchmarks.bulk_load import LoadRate
from memory_pipeline.testing.benchmarks.limit import LoadLimit, load_limit
from memory_pipeline.testing.benchmarks.rows import Load
from memory_pipeline.testing.benchmarks.services import (
    copy_database,
    fill_database,
    fresh_servers,
    settings_for,
)
from memory_pipeline.testing.benchmarks.worker_process import register_tenants
from memory_pipeline.testing.machine import machine, median

FILLED = "filled"
SMALL_ROWS = 5_000
TURNS = 3
SECONDS_A_RUN = 1800.0


@dataclass(frozen=True, slots=True)
class RebuildRun:
    """One rebuild of everything, measured in its own process."""

    seconds: float
    documents: int
    done: int
    repaired: int
    peak_mb: float

    @property
    def per_second(self) -> float:
        """Return the documents a second of wall time."""
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
    """Measure on services of its own below ``home``; the user's own services are not touched.

    Returns:
        ``ratio_to_limit``: documents a second of the rebuild with its proof over those of the limit
        in the same turns, medians; ``peak_mb``: memory of the rebuilding process.

    """
    # The small load has fewer tenants of the same size, where there are several.
    load, small = Load(rows, tenants), _small(rows, tenants)
    settings = Settings.load(document=document, embedder="hashing")
    postgres = start_postgres(home / "postgres")
    try:
        fill_database(postgres, settings, load, FILLED)
        fill_database(postgres, settings, small, "small")
        with load_limit(home, load, recipe_from(settings)) as limit:
            trials = limit.trials(servers=servers)
            method = trials[0].method
            limits: list[LoadRate] = []
            proven: list[RebuildRun] = []
            bare: list[RebuildRun] = []
            for turn in range(turns):
                limits.append(limit.rate(method, servers=servers))
                both = [(proven, True), (bare, False)]
                for runs, proves in both if turn % 2 else reversed(both):
                    runs.append(
                        _measure_rebuild(home, postgres, settings, FILLED, servers, proves=proves)
                    )
            naive = limit.naive()
            one_server = _one_server(limit, servers, turns)
        smallest = _measure_rebuild(home, postgres, settings, "small", servers, proves=True)
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
        "limit_way": asdict(method),
        "limit_trials": [
            {**asdict(t.method), "documents_per_second": round(t.per_second, 1)} for t in trials
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


def _one_server(limit: LoadLimit, servers: int, turns: int) -> float | None:
    """Measure the limit of one server, where there are several: the gain of more servers."""
    if servers == 1:
        return None
    method = limit.trials(servers=1)[0].method
    rates: list[LoadRate] = [limit.rate(method) for _ in range(turns)]
    return statistics.median(r.per_second for r in rates)


def _measure_rebuild(
    home: Path,
    postgres: EmbeddedPostgres,
    settings: Settings,
    database: str,
    servers: int,
    *,
    proves: bool,
) -> RebuildRun:
    with ExitStack() as stack:
        urls = stack.enter_context(fresh_servers(home, servers))
        own = settings_for(settings, postgres, copy_database(postgres, database), urls)
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=home))
        answer = Path(folder) / "run.json"
        subprocess.run(
            [sys.executable, "-m", __name__, str(answer), "proves" if proves else "bare"],
            env=base_environment(own),
            check=True,
            timeout=SECONDS_A_RUN,
        )
        return RebuildRun(**json.loads(answer.read_text()))


def main(answer: Path, *, proves: bool) -> None:
    """Rebuild everything once in this process, and write its figures to a file."""
    with opened(Settings.load()) as pipeline:
        pipeline.index.servers()  # imports and connects before the time is taken
        tenants = register_tenants(pipeline)
        began = time.perf_counter()
        rebuilt = list(pipeline.rebuild(proves=proves).run(RebuildId("bench"), tenants))
        seconds = time.perf_counter() - began
    wrong = [r for r in rebuilt if r.verdict != "done"]
    if wrong:
        raise RuntimeError(f"{len(wrong)} tenants were not rebuilt: {wrong[0].reason}")
    peak_mb = median([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024])
    written = sum(r.written for r in rebuilt)
    repaired = sum(r.repaired for r in rebuilt)
    run = RebuildRun(seconds, written, len(rebuilt), repaired, peak_mb)
    answer.write_text(json.dumps(asdict(run)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), proves=sys.argv[2] == "proves")
