"""A run: rounds of faults under load, each healed, drained and judged; then the last verify.

1. warm up, and measure the freshness without faults
2. inject faults, up to three at once, while the application writes and the sampler compares
3. heal everything; wait until the pipeline keeps up again, and measure once more
4. stop writing; wait until nothing is pending
5. read both sides whole, and judge the history
6. after the last round: ``verify --repair`` of everything, and a verify without findings
"""

import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psycopg

from memory_pipeline.domain.types import TenantId
from memory_pipeline.errors import ChromaUnavailable, SettingsError
from memory_pipeline.local.processes import wait_until
from memory_pipeline.testing.chaos.background import repeating
from memory_pipeline.testing.chaos.checker import Violation
from memory_pipeline.testing.chaos.expected_state import ExpectedState
from memory_pipeline.testing.chaos.faults import Fault, faults
from memory_pipeline.testing.chaos.figures import Figures, Options
from memory_pipeline.testing.chaos.history import History
from memory_pipeline.testing.chaos.nemesis import Nemesis
from memory_pipeline.testing.chaos.operator_faults import operator_faults, repair
from memory_pipeline.testing.chaos.probes import Probes
from memory_pipeline.testing.chaos.round_judge import ReportProgress, RoundJudge
from memory_pipeline.testing.chaos.sampler import Sampler
from memory_pipeline.testing.chaos.stack import PrivateStack, private_stack
from memory_pipeline.testing.chaos.workload import Workload

ROUND_SECONDS = 300.0
QUIET_SECONDS = 3.0
# After healing, a run waits this long for the pipeline to keep up with the application: how long
# that takes is a figure, not a promise, because it depends on the machine.
RECOVERY_SECONDS, KEEPS_UP_SECONDS = 30.0, 1.0
# Without writes, a backlog that has not shrunk for this long is stuck.
STUCK_SECONDS = 60.0
POISON_A_ROUND = 4
PROGRESS_SECONDS = 10.0
REPAIRS = 5


def run_chaos(options: Options, progress: ReportProgress) -> Figures:
    """Run chaos and return its figures; remove everything at the end, also when interrupted.

    ``progress`` is called with sentences for a person, from several threads.

    Raises:
        SettingsError: there is no such kind of fault.

    """
    began = time.monotonic()
    figures = Figures(options)
    with tempfile.TemporaryDirectory(prefix="memory-pipeline-history-") as folder:
        history = History((options.keep or Path(folder)) / "history.jsonl")
        try:
            with private_stack(
                history, seed=options.seed, workers=options.workers, program=options.program
            ) as stack:
                _Run(options, stack, history, figures, progress).all_rounds()
        finally:
            history.close()
    figures.seconds = time.monotonic() - began
    return figures


def tenant_names(count: int) -> list[TenantId]:
    """Return names of tenants, in the styles of real ones."""
    styles = ("tenant-{}", "user {}", "Zoë/{}", "会社-{}", "o'{}@example.org")
    return [TenantId(styles[n % len(styles)].format(n)) for n in range(count)]


class _Run:
    """The steps of a run, and the parts that they share."""

    def __init__(
        self,
        options: Options,
        stack: PrivateStack,
        history: History,
        figures: Figures,
        progress: ReportProgress,
    ) -> None:
        self._options = options
        self._stack = stack
        self._figures = figures
        self._progress = progress
        tenants = tenant_names(options.tenants)
        kinds = _chosen([*faults(), *operator_faults(tenants)], options.kinds)
        expected = ExpectedState()  # the writers' own; the judge builds its own from the history
        self._nemesis = Nemesis(stack, kinds, history, seed=options.seed)
        self._workload = Workload(
            stack.connect, tenants, history, expected, rate=options.rate, seed=options.seed
        )
        self._sampler = Sampler(stack, tenants, expected, seed=options.seed)
        self._probes = Probes(stack)
        self._judge = RoundJudge(
            history,
            self._probes,
            figures,
            progress,
            hits_application=frozenset(fault.kind for fault in kinds if fault.hits_application),
        )

    def all_rounds(self) -> None:
        """Run every round and the last verify."""
        rounds = max(1, round(self._options.seconds / ROUND_SECONDS))
        try:
            for number in range(rounds):
                self._figures.rounds = number + 1
                first, last = (self._options.faults * n // rounds for n in (number, number + 1))
                self._round(last - first, self._options.seconds / rounds)
                self._progress(f"Round {number + 1} of {rounds} is judged: {self._state()}")
            self._last_verify()
        finally:
            self._judge.close()
            self._count()

    def _round(self, count: int, seconds: float) -> None:
        with self._reporting(), self._writing():
            self._workload.plant(POISON_A_ROUND)
            quiet = [self._quiet()]  # 1
            self._nemesis.run(count, seconds)  # 2
            self._recover()  # 3
            quiet.append(self._quiet())
        self._drain()  # 4
        if tampered := [TenantId(t) for t in sorted(self._stack.tampered)]:
            try:
                repair(self._stack, tampered, attempts=REPAIRS)
            except ChromaUnavailable as error:
                self._judge.record(Violation("not repaired", detail=str(error)))
        self._judge.judge_round(quiet)  # 5

    # ---- during a round

    def _reporting(self) -> AbstractContextManager[None]:
        """Report the progress of the round every few seconds."""
        return repeating("progress", PROGRESS_SECONDS, lambda: self._progress(self._state()))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Run the application and the sampler."""
        self._workload.start()
        self._sampler.start()
        try:
            yield
        finally:
            self._workload.stop()
            self._sampler.stop()

    def _state(self) -> str:
        injected = sum(self._nemesis.counts.values())
        seen = sum(n for kind, n in self._sampler.seen.items() if kind.startswith("violation"))
        found = len(self._figures.violations)
        try:
            pending = str(self._probes.pending())
        except psycopg.Error:
            pending = "?"  # Postgres is down, by a fault
        return (
            f"{self._workload.changes} changes, {self._workload.memories} memories, "
            f"{pending} pending, "
            f"{injected} faults of {len(self._nemesis.counts)} kinds, "
            f"{self._sampler.seen['searches']} searches, {found or seen} violations"
        )

    # ---- the steps

    def _quiet(self) -> tuple[float, float]:
        """Inject nothing for a while; return its begin and end, by Postgres's clock."""
        began = self._probes.clock()
        threading.Event().wait(QUIET_SECONDS)
        return began, self._probes.clock()

    def _recover(self) -> None:
        healed = time.monotonic()

        def keeps_up() -> bool:
            return self._probes.oldest_seconds() < KEEPS_UP_SECONDS

        if not wait_until(keeps_up, within=RECOVERY_SECONDS):
            age = self._probes.oldest_seconds()
            self._progress(f"The backlog is not gone yet: its oldest change is {age:.1f} s old")
        self._figures.recovery.append(time.monotonic() - healed)

    def _drain(self) -> None:
        """Wait until nothing is pending, or the backlog is stuck."""
        began = time.monotonic()
        pending = self._probes.pending()
        while pending and self._shrinks(pending):
            pending = self._probes.pending()
        if pending:
            self._progress(f"Changes are still pending: {self._probes.waiting()}")
        self._figures.drain.append(time.monotonic() - began)

    def _shrinks(self, pending: int) -> bool:
        return wait_until(lambda: self._probes.pending() < pending, within=STUCK_SECONDS)

    def _last_verify(self) -> None:
        """Repair unreachable documents, if there are any; afterwards a verify finds nothing."""
        repaired = self._probes.verify("--repair")
        self._figures.repaired = repaired["repaired"]
        last = self._probes.verify()
        findings = [
            *last["findings"],
            *({"kind": "skipped", "tenant": t} for t in last["skipped"]),
        ]
        self._figures.found_after_repair = len(findings)
        self._figures.unreachable = sum(f["kind"] == "unreachable" for f in findings)
        for finding in findings:
            self._judge.record(
                Violation(
                    f"after repair: {finding['kind']}",
                    finding.get("tenant"),
                    finding.get("memory_id"),
                    finding.get("detail", ""),
                )
            )

    def _count(self) -> None:
        figures = self._figures
        figures.changes = self._workload.changes
        figures.faults, figures.skipped = self._nemesis.counts, self._nemesis.skipped
        figures.seen, figures.chroma_restarts = self._sampler.seen, self._stack.chroma.restarts
        figures.worker_starts = sum(worker.starts for worker in self._stack.workers)


def _chosen(kinds: Sequence[Fault], names: Sequence[str]) -> list[Fault]:
    """Return the named kinds; all of them where none is named. Raises SettingsError."""
    unknown = set(names) - {fault.kind for fault in kinds}
    if unknown:
        known = ", ".join(fault.kind for fault in kinds)
        raise SettingsError(f"no such kind of fault: {', '.join(unknown)}; there are: {known}")
    return [fault for fault in kinds if not names or fault.kind in names]
