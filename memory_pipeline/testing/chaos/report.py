"""The report of a run: as JSON for a program, and as one page of markdown made from that JSON."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from memory_pipeline.testing.chaos.figures import Figures
from memory_pipeline.testing.machine import machine

SHOWN_VIOLATIONS = 30
# The columns of the table: a promise, and words in the kinds of violations that break it.
INVARIANTS: dict[str, tuple[str, ...]] = {
    "lost": ("lost", "missing", "not drained", "not captured", "no collection"),
    "stale": ("stale", "vector"),
    "foreign": ("foreign",),
    "resurrected": ("resurrected", "extra"),
    "unexpected": ("unexpected",),
    "unreachable": ("unreachable",),
    "dead letters": ("buried",),
    "dead acks": ("ack under",),
    "application": ("application",),
}
OTHER = "other"


def as_json(figures: Figures) -> dict[str, Any]:
    """Return the report as values that JSON has; ``as_page`` prints it."""
    options = figures.options
    return {
        "verdict": verdict(figures),
        "seed": options.seed,
        "seconds": round(figures.seconds, 1),
        "fault_seconds": options.seconds,
        "rounds": figures.rounds,
        "tenants": options.tenants,
        "changes": figures.changes,
        "memories_at_the_end": figures.memories,
        "acks": figures.acked,
        "faults": sum(figures.faults.values()),
        "kinds": len(figures.faults),
        "by_kind": dict(sorted(figures.faults.items())),
        "not_done": figures.skipped,
        "chroma_restarts": figures.chroma_restarts,
        "worker_starts": figures.worker_starts,
        "planted_poison": figures.planted,
        "dead_letters": figures.dead_letters,
        "seen": dict(figures.seen),
        "violations": len(figures.violations),
        "violations_by_kind": dict(Counter(v.kind for v in figures.violations)),
        "table": table(figures),
        "freshness_ms_outside_faults": quantiles([s * 1000 for s in figures.quiet_lags]),
        "freshness_ms_throughout": quantiles([s * 1000 for s in figures.lags]),
        "application_statements_ms": quantiles(figures.statements_ms),
        "recovery_seconds": [round(s, 2) for s in figures.recovery],
        "drain_seconds": [round(s, 2) for s in figures.drain],
        "repaired": figures.repaired,
        "found_after_repair": figures.found_after_repair,
        "unreachable_after_repair": figures.unreachable,
        "first_violations": _first_violations(figures),
        "machine": machine(),
    }


def verdict(figures: Figures) -> str:
    """Return ``kept`` or ``broken``."""
    return "broken" if figures.violations else "kept"


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Return count, median, tail and maximum of a distribution; the count alone where it is 0."""
    if not values:
        return {"count": 0}
    p50, p95, p99 = np.percentile(np.asarray(values), [50, 95, 99])
    return {
        "count": len(values),
        "p50": round(float(p50), 1),
        "p95": round(float(p95), 1),
        "p99": round(float(p99), 1),
        "slowest": round(float(max(values)), 1),
    }


def table(figures: Figures) -> dict[str, dict[str, int]]:
    """Count the violations of each promise around each kind of fault."""
    rows = {
        kind: {"faults": count} | dict.fromkeys([*INVARIANTS, OTHER], 0)
        for kind, count in sorted(figures.faults.items())
    }
    for violation, kinds in zip(figures.violations, figures.blamed, strict=True):
        column = promise_of(violation.kind)
        for kind in kinds:
            if kind in rows:
                rows[kind][column] += 1
    return rows


def promise_of(kind: str) -> str:
    """Return the promise, a column of the table, that a kind of violation breaks."""
    return next(
        (name for name, words in INVARIANTS.items() if any(word in kind for word in words)), OTHER
    )


def _first_violations(figures: Figures) -> list[dict[str, Any]]:
    pairs = zip(figures.violations, figures.blamed, strict=True)
    found = [asdict(violation) | {"around": sorted(kinds)} for violation, kinds in pairs]
    return found[:SHOWN_VIOLATIONS]


def as_page(report: Mapping[str, Any]) -> str:
    """Return a report that ``as_json`` made, as one page of markdown."""
    lines = [
        f"# Chaos, seed {report['seed']}: "
        + ("PROMISES WERE BROKEN" if report["violations"] else "every promise was kept"),
        "",
        *_summary(report),
        "",
        *_table_of_faults(report["table"]),
        "",
        "A violation is counted in the row of every fault that was active or had just been healed.",
        "",
        *_table_of_times(report),
        "",
        *_notes(report),
    ]
    return "\n".join(lines) + "\n"


def _summary(report: Mapping[str, Any]) -> list[str]:
    seen = report["seen"]
    return [
        (
            f"- {report['changes']:,} changes of {report['tenants']} tenants, "
            f"{report['faults']:,} faults of {report['kinds']} kinds "
            f"in {report['fault_seconds']:,.0f} s, {report['rounds']} rounds"
        ),
        (
            f"- {seen.get('searches', 0):,} searches and {seen.get('documents compared', 0):,} "
            "compared documents during the rounds"
        ),
        (
            f"- {report['memories_at_the_end']:,} memories at the end, {report['planted_poison']} "
            f"planted poison, {report['dead_letters']} dead letters"
        ),
        (
            f"- `verify --repair`: {report['repaired']} repaired, {report['found_after_repair']} "
            f"found afterwards, {report['unreachable_after_repair']} unreachable"
        ),
    ]


def _table_of_faults(rows: Mapping[str, Mapping[str, int]]) -> list[str]:
    columns = [*INVARIANTS, OTHER]
    return [
        "| fault | times | " + " | ".join(columns) + " |",
        "|---|---:|" + "---:|" * len(columns),
        *(
            f"| {kind} | {row['faults']} | " + " | ".join(str(row[c]) for c in columns) + " |"
            for kind, row in rows.items()
        ),
    ]


def _table_of_times(report: Mapping[str, Any]) -> list[str]:
    columns = ("count", "p50", "p95", "p99", "slowest")
    times = {
        "freshness outside faults, ms": report["freshness_ms_outside_faults"],
        "freshness throughout, ms": report["freshness_ms_throughout"],
        "application's statements, ms": report["application_statements_ms"],
        "from healing until it keeps up (30 s at most), s": quantiles(report["recovery_seconds"]),
        "from the last write until nothing is pending, s": quantiles(report["drain_seconds"]),
    }
    return [
        "| figure | " + " | ".join(columns) + " |",
        "|---|" + "---:|" * len(columns),
        *(
            f"| {name} | " + " | ".join(str(figures.get(column, "")) for column in columns) + " |"
            for name, figures in times.items()
        ),
    ]


def _notes(report: Mapping[str, Any]) -> list[str]:
    restarts = report["chroma_restarts"]
    why = "it had ended, was stuck, or its disk had been full"
    return [
        *([f"- Chroma was restarted {restarts} times: {why}"] if restarts else []),
        *(
            f"- {kind}: not done every time, because another fault prevented it ({reason})"
            for kind, reason in report["not_done"].items()
        ),
        *(
            f"- **{v['kind']}** {v['tenant'] or ''} {v['memory_id'] or ''} {v['detail']} "
            f"(around: {', '.join(v['around']) or 'no fault'})"
            for v in report["first_violations"]
        ),
    ]
