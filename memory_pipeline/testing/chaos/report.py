"""What a run has shown, for a program (JSON) and on one page (markdown)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from memory_pipeline.testing.chaos.figures import Figures
from memory_pipeline.testing.machine import machine

SHOWN_VIOLATIONS = 30
# The columns of the table: what each promise is broken by.
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
    """Return all of it as plain values."""
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
        "restarts_of_chroma": figures.chroma_restarts,
        "starts_of_live_processes": figures.restarts,
        "planted_poison": figures.planted,
        "dead_letters": figures.dead_letters,
        "seen": dict(figures.seen),
        "violations": len(figures.violations),
        "violations_by_kind": dict(Counter(v.kind for v in figures.violations)),
        "table": table(figures),
        "freshness_ms_outside_faults": quantiles([s * 1000 for s in figures.quiet_lags]),
        "freshness_ms_all_along": quantiles([s * 1000 for s in figures.lags]),
        "application_statements_ms": quantiles(figures.statements_ms),
        "keeps_up_again_seconds": [round(s, 2) for s in figures.recovery],
        "drained_seconds": [round(s, 2) for s in figures.drain],
        "repaired": figures.repaired,
        "found_after_repair": figures.found_after_repair,
        "unreachable_after_repair": figures.unreachable,
        "first_violations": [asdict(v) for v in figures.violations[:SHOWN_VIOLATIONS]],
        "machine": machine(),
    }


def verdict(figures: Figures) -> str:
    """Say in a word how it went."""
    return "broken" if figures.violations else "kept"


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the tail and the end of a distribution, and how many it has."""
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
    """Name the promise, a column of the table, that a kind of violation breaks."""
    return next(
        (name for name, words in INVARIANTS.items() if any(word in kind for word in words)), OTHER
    )


def as_page(figures: Figures) -> str:
    """Return one page of markdown."""
    told = as_json(figures)
    columns = [*INVARIANTS, OTHER]
    promises = "every promise was kept" if not figures.violations else "PROMISES WERE BROKEN"
    seen = told["seen"]
    written = (
        f"{told['changes']:,} changes of {told['tenants']} tenants, {told['faults']:,} faults of "
        f"{told['kinds']} kinds in {told['fault_seconds']:,.0f} s, {told['rounds']} rounds"
    )
    looked = (
        f"{seen.get('searches', 0):,} searches and {seen.get('documents looked at', 0):,} "
        "documents looked at meanwhile"
    )
    left = (
        f"{told['memories_at_the_end']:,} memories at the end, {told['planted_poison']} poison "
        f"planted, {told['dead_letters']} dead letters"
    )
    repair = (
        f"`verify --repair`: {told['repaired']} repaired, {told['found_after_repair']} found "
        f"afterwards, {told['unreachable_after_repair']} unreachable"
    )
    lines = [
        f"# Chaos, seed {told['seed']}: {promises}",
        "",
        *(f"- {said}" for said in (written, looked, left, repair)),
        "",
        "| fault | times | " + " | ".join(columns) + " |",
        "|---|---:|" + "---:|" * len(columns),
        *(
            f"| {kind} | {row['faults']} | " + " | ".join(str(row[c]) for c in columns) + " |"
            for kind, row in told["table"].items()
        ),
        "",
        "A violation stands in the row of every fault that was under way or had just been healed.",
        "",
        "| figure | count | p50 | p95 | p99 | slowest |",
        "|---|---:|---:|---:|---:|---:|",
        _line("freshness outside faults, ms", told["freshness_ms_outside_faults"]),
        _line("freshness all along, ms", told["freshness_ms_all_along"]),
        _line("application's statements, ms", told["application_statements_ms"]),
        _line("keeps up again after healing, s", quantiles(figures.recovery)),
        _line("nothing pending after the last write, s", quantiles(figures.drain)),
        "",
    ]
    if figures.chroma_restarts:
        lines.append(
            f"- Chroma had ended by itself or was stuck, and was started again as `up` does, "
            f"{figures.chroma_restarts} times"
        )
    lines += [
        f"- {kind}: not done every time, another fault was in its way ({why})"
        for kind, why in told["not_done"].items()
    ]
    lines += [
        f"- **{v.kind}** {v.tenant or ''} {v.memory_id or ''} {v.detail} "
        f"(around: {', '.join(sorted(kinds)) or 'nothing'})"
        for v, kinds in zip(
            figures.violations[:SHOWN_VIOLATIONS], figures.blamed[:SHOWN_VIOLATIONS], strict=True
        )
    ]
    return "\n".join(lines) + "\n"


def _line(name: str, figures: dict[str, float]) -> str:
    values = [str(figures.get(key, "")) for key in ("count", "p50", "p95", "p99", "slowest")]
    return f"| {name} | " + " | ".join(values) + " |"
