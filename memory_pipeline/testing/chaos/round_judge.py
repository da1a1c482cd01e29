"""The judgement of each round, as figures: violations, with the faults around each of them."""

from collections.abc import Callable, Collection, Sequence

from memory_pipeline.testing.chaos.checker import (
    Violation,
    during,
    judge,
    lags,
    statements_ms,
)
from memory_pipeline.testing.chaos.figures import Figures
from memory_pipeline.testing.chaos.history import History, HistoryReader, now
from memory_pipeline.testing.chaos.ledger import Ledger
from memory_pipeline.testing.chaos.probes import Probes

# A fault that was healed this long before a violation may have caused it.
BLAMED_NS = 15_000_000_000
VIOLATION_CHARACTERS = 400

# Reports one sentence to a person; called from several threads.
ReportProgress = Callable[[str], None]


class RoundJudge:
    """Reads the history and both sides, and records violations, each once."""

    def __init__(
        self,
        history: History,
        probes: Probes,
        figures: Figures,
        progress: ReportProgress,
        *,
        hits_application: Collection[str],
    ) -> None:
        self._history = history
        self._reader = HistoryReader(history.file)
        self._ledger = Ledger()
        self._probes = probes
        self._figures = figures
        self._progress = progress
        self._hits_application = hits_application
        self._judged: set[Violation] = set()

    def judge_round(self, quiet: Sequence[tuple[float, float]]) -> None:
        """Judge the history up to now against both sides; ``quiet``: the times without faults."""
        self._history.flush()
        self._ledger.read(self._reader.more())
        acks, final = self._probes.final()
        self._ledger.count(acks)
        for violation in judge(self._ledger, final, acks, hits_application=self._hits_application):
            self.record(violation)
        figures, planted = self._figures, self._ledger.planted
        figures.acked += len(acks)
        figures.quiet_lags += lags(acks, quiet, but=planted)
        figures.lags += lags(acks, [(0.0, float("inf"))], but=planted)
        figures.statements_ms = statements_ms(self._ledger, self._hits_application)
        figures.memories, figures.dead_letters = len(final.memories), len(final.buried)
        figures.planted = len(planted)

    def record(self, violation: Violation) -> None:
        """Record a violation with the faults around it, unless it is recorded already."""
        if violation in self._judged:
            return
        self._judged.add(violation)
        blamed = during(self._moment(violation), self._ledger.faults, after_ns=BLAMED_NS)
        self._figures.violations.append(violation)
        self._figures.blamed.append(blamed)
        self._progress(f"Violation: {str(violation)[:VIOLATION_CHARACTERS]}")

    def _moment(self, violation: Violation) -> int:
        """Return when it was last observed, or when its memory was last written, or now."""
        observed = [
            anomaly.at
            for anomaly in self._ledger.anomalies
            if (anomaly.kind, anomaly.tenant, anomaly.memory_id)
            == (violation.kind, violation.tenant, violation.memory_id)
        ]
        if observed:
            return observed[-1]
        if violation.memory_id in self._ledger.expected.memories:
            return self._ledger.expected.memories[violation.memory_id].since
        return now()

    def close(self) -> None:
        """Close the history's reader."""
        self._reader.close()
