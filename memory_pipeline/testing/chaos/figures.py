"""The options of a run, and its counts and measurements."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from memory_pipeline.testing.chaos.checker import Violation
from memory_pipeline.testing.chaos.stack import PROGRAM


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a run.

    ``rate``: changes a second, in all. ``program``: the command line of the product. ``kinds``: the
    kinds of fault; empty: all. ``keep``: the folder in which the history is kept.
    """

    seconds: float
    faults: int
    tenants: int
    rate: float
    seed: int
    workers: int = 2
    program: Sequence[str] = PROGRAM
    kinds: Sequence[str] = ()
    keep: Path | None = None


@dataclass(slots=True)
class Figures:
    """The counts and measurements of a run; times are in seconds unless the name has a unit."""

    options: Options
    rounds: int = 0
    changes: int = 0
    memories: int = 0
    dead_letters: int = 0
    planted: int = 0
    acked: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    skipped: dict[str, str] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    recovery: list[float] = field(default_factory=list)
    drain: list[float] = field(default_factory=list)
    quiet_lags: list[float] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    statements_ms: list[float] = field(default_factory=list)
    worker_starts: int = 0
    chroma_restarts: int = 0
    repaired: int = 0
    unreachable: int = 0
    found_after_repair: int = 0
    violations: list[Violation] = field(default_factory=list)
    # The kinds of the faults around each violation, in the same order.
    blamed: list[frozenset[str]] = field(default_factory=list)
    seconds: float = 0.0
