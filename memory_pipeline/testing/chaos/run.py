"""A run: rounds of faults under load, each healed, drained and judged; then the last verify.

1. warm up, and measure how fresh things are while nothing is broken
2. break things, up to three at once, while the application writes and the sampler looks
3. heal everything; wait until the pipeline keeps up again, and measure once more
4. stop writing; wait until nothing is pending
5. read both sides whole, and judge all that was written down
6. after the last round: ``verify --repair`` of everything, and a verify that finds nothing
"""

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg

from memory_pipeline.domain.types import TenantId
from memory_pipeline.errors import ChromaUnavailable, SettingsError
from memory_pipeline.local.processes import wait_until
from memory_pipeline.testing.chaos.background import beside
from memory_pipeline.testing.chaos.checker import (
    Ledger,
    Violation,
    during,
    judge,
    lags,
    statements_ms,
)
from memory_pipeline.testing.chaos.expected_state import Books
from memory_pipeline.testing.chaos.faults import Fault, faults
from memory_pipeline.testing.chaos.figures import Figures, Options
from memory_pipeline.testing.chaos.history import History, HistoryReader, now
from memory_pipeline.testing.chaos.nemesis import Nemesis
from memory_pipeline.testing.chaos.operator_faults import operators, repaired
from memory_pipeline.testing.chaos.probes import Questions
from memory_pipeline.testing.chaos.sampler import Sampler
from memory_pipeline.testing.chaos.stack import PrivateStack, private_stack
from memory_pipeline.testing.chaos.workload import Workload

ROUND_SECONDS = 300.0
QUIET_SECONDS = 3.0
# After everything is healed it is waited for so long until it keeps up with the application: how
# long that takes is a figure, for it depends on the machine. Once nobody writes, it is waited until
# nothing is pending; when nothing has moved for so long, it is stuck.
RECOVERY_SECONDS, STUCK_SECONDS = 30.0, 60.0
KEEPS_UP_SECONDS = 1.0
POISON_A_ROUND = 4
TELL_SECONDS = 10.0
REPAIRS = 5
TOLD_CHARACTERS = 400
# How long before a violation something that was healed may have caused it.
BLAMED_NS = 15_000_000_000

Tell = Callable[[str], None]


def chaos(options: Options, tell: Tell) -> Figures:
    """Run it; return what came of it. Leaves nothing behind, also where it is interrupted.

    Raises:
        SettingsError: there is no such kind of fault.

    """
    began = time.monotonic()
    figures = Figures(options)
    with tempfile.TemporaryDirectory(prefix="memory-pipeline-history-") as folder:
        history = History((options.keep or Path(folder)) / "history.jsonl")
        try:
            with private_stack(
                history, seed=options.seed, lives=options.lives, program=options.program
            ) as stack:
                _Run(options, stack, history, figures, tell).all_rounds()
        finally:
            history.close()
    figures.seconds = time.monotonic() - began
    return figures


def tenants_of(count: int) -> list[TenantId]:
    """Name tenants, as people name them."""
    styles = ("tenant-{}", "user {}", "Zoë/{}", "会社-{}", "o'{}@example.org")
    return [TenantId(styles[n % len(styles)].format(n)) for n in range(count)]


class _Run:
    """What the steps of a run share."""

    def __init__(
        self, options: Options, stack: PrivateStack, history: History, figures: Figures, tell: Tell
    ) -> None:
        self._options = options
        self._stack = stack
        self._history = history
        self._figures = figures
        self._tell = tell
        self._ledger = Ledger()
        self._reading = HistoryReader(history.file)
        tenants = tenants_of(options.tenants)
        kinds = _chosen([*faults(), *operators(tenants)], options.kinds)
        self._hits = frozenset(fault.kind for fault in kinds if fault.hits_application)
        books = Books()  # the application's own; the ledger's are read from the history
        self._nemesis = Nemesis(stack, kinds, history, seed=options.seed)
        self._workload = Workload(
            stack.connect, tenants, history, books, rate=options.rate, seed=options.seed
        )
        self._sampler = Sampler(stack, tenants, books, seed=options.seed)
        self._questions = Questions(stack)
        self._judged: set[Violation] = set()

    def all_rounds(self) -> None:
        """Run every round and the last verify."""
        rounds = max(1, round(self._options.seconds / ROUND_SECONDS))
        try:
            for number in range(rounds):
                self._figures.rounds = number + 1
                first, last = (self._options.faults * n // rounds for n in (number, number + 1))
                self._round(last - first, self._options.seconds / rounds)
                self._tell(f"round {number + 1} of {rounds} judged: {self._state()}")
            self._last_verify()
        finally:
            self._reading.close()
            self._count()

    def _round(self, count: int, seconds: float) -> None:
        with beside("telling", TELL_SECONDS, lambda: self._tell(self._state())), self._writing():
            self._workload.plant(POISON_A_ROUND)
            quiet = [self._quiet()]  # 1
            self._nemesis.run(count, seconds)  # 2
            self._recover()  # 3
            quiet.append(self._quiet())
        self._drain()  # 4
        if tampered := [TenantId(t) for t in sorted(self._stack.tampered)]:
            try:
                repaired(self._stack, tampered, attempts=REPAIRS)
            except ChromaUnavailable as error:
                self._found(Violation("not repaired", detail=str(error)))
        self._judge(quiet)  # 5

    # ---- what runs beside

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Let the application write and the sampler look."""
        self._workload.start()
        self._sampler.start()
        try:
            yield
        finally:
            self._workload.stop()
            self._sampler.stop()

    def _state(self) -> str:
        broken = sum(self._nemesis.counts.values())
        seen = sum(n for kind, n in self._sampler.seen.items() if kind.startswith("violation"))
        found = len(self._figures.violations)
        try:
            pending = str(self._questions.pending())
        except psycopg.Error:
            pending = "?"  # Postgres is being broken
        return (
            f"{self._workload.changes} changes, {self._workload.memories} memories, "
            f"{pending} pending, "
            f"{broken} faults of {len(self._nemesis.counts)} kinds, "
            f"{self._sampler.seen['searches']} searches, {found or seen} violations"
        )

    # ---- the steps

    def _quiet(self) -> tuple[float, float]:
        """Let nothing be broken for a while; return from when to when, on Postgres' clock."""
        began = self._questions.clock()
        threading.Event().wait(QUIET_SECONDS)
        return began, self._questions.clock()

    def _recover(self) -> None:
        healed = time.monotonic()

        def keeps_up() -> bool:
            return bool(self._questions.oldest_seconds() < KEEPS_UP_SECONDS)

        if not wait_until(keeps_up, within=RECOVERY_SECONDS):
            age = self._questions.oldest_seconds()
            self._tell(f"does not keep up yet: the oldest change is {age:.1f} s old")
        self._figures.recovery.append(time.monotonic() - healed)

    def _drain(self) -> None:
        """Wait until nothing is pending."""
        began = time.monotonic()
        left = self._questions.pending()
        while left and self._moves(left):
            left = self._questions.pending()
        if left:
            self._tell(f"not drained: {self._questions.waiting()}")
        self._figures.drain.append(time.monotonic() - began)

    def _moves(self, left: int) -> bool:
        return wait_until(lambda: self._questions.pending() < left, within=STUCK_SECONDS)

    def _judge(self, quiet: Sequence[tuple[float, float]]) -> None:
        self._history.flush()
        self._ledger.read(self._reading.more())
        acks, final = self._questions.final()
        self._ledger.count(acks)
        for violation in judge(self._ledger, final, acks, hits_application=self._hits):
            self._found(violation)
        figures = self._figures
        figures.acked += len(acks)
        figures.quiet_lags += lags(acks, quiet, but=self._ledger.planted)
        figures.lags += lags(acks, [(0.0, float("inf"))], but=self._ledger.planted)
        figures.statements_ms = statements_ms(self._ledger, self._hits)
        figures.memories, figures.dead_letters = len(final.memories), len(final.buried)
        figures.planted = len(self._ledger.planted)

    def _found(self, violation: Violation) -> None:
        """Take note of a violation, once, and of what was broken around it."""
        if violation in self._judged:
            return
        self._judged.add(violation)
        sights = [
            s.at
            for s in self._ledger.sights
            if (s.kind, s.tenant, s.memory_id)
            == (violation.kind, violation.tenant, violation.memory_id)
        ]
        known = (
            None
            if violation.memory_id is None
            else self._ledger.books.known.get(violation.memory_id)
        )
        at = sights[-1] if sights else known.since if known is not None else now()
        self._figures.violations.append(violation)
        self._figures.blamed.append(during(at, self._ledger.broken, after_ns=BLAMED_NS))
        self._tell(f"VIOLATION {str(violation)[:TOLD_CHARACTERS]}")

    def _last_verify(self) -> None:
        """Repair, which may only have to mend what is unreachable; then nothing may be found."""
        repair = self._questions.verified("--repair")
        self._figures.repaired = repair["repaired"]
        last = self._questions.verified()
        left = [
            *last["findings"],
            *({"kind": "unverified", "tenant": t} for t in last["unverified"]),
        ]
        self._figures.found_after_repair = len(left)
        self._figures.unreachable = sum(f["kind"] == "unreachable" for f in left)
        for finding in left:
            self._found(
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
        figures.seen, figures.chroma_restarts = self._sampler.seen, self._stack.tended.restarts
        figures.restarts = sum(resident.starts for resident in self._stack.residents)


def _chosen(kinds: Sequence[Fault], wanted: Sequence[str]) -> list[Fault]:
    """Return these kinds; all of them where none is named."""
    strange = set(wanted) - {fault.kind for fault in kinds}
    if strange:
        known = ", ".join(fault.kind for fault in kinds)
        raise SettingsError(f"no such kind of fault: {', '.join(strange)}; there are: {known}")
    return [fault for fault in kinds if not wanted or fault.kind in wanted]
