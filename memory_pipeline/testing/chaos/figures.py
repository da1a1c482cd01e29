"""What a run was asked for, and what it has counted and measured."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from memory_pipeline.testing.chaos.checker import Violation
from memory_pipeline.testing.chaos.stack import PROGRAM


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked for."""

    seconds: float
    faults: int
    tenants: int
    rate: float
    seed: int
    lives: int = 2
    program: Sequence[str] = PROGRAM
    kinds: Sequence[str] = ()
    keep: Path | None = None


@dataclass(slots=True)
class Figures:
    """What a run has counted and measured; times in seconds where nothing else is said."""

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
    restarts: int = 0
    chroma_restarts: int = 0
    repaired: int = 0
    unreachable: int = 0
    found_after_repair: int = 0
    violations: list[Violation] = field(default_factory=list)
    # The kinds of what was broken around each violation, in the same order.
    blamed: list[frozenset[str]] = field(default_factory=list)
    seconds: float = 0.0
