"""The nemesis heals each fault, and the report shows the faults around each violation."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import cast

import pytest

from memory_pipeline.domain.types import MemoryId, TenantId
from memory_pipeline.errors import Transient
from memory_pipeline.testing.chaos.checker import Violation, during
from memory_pipeline.testing.chaos.faults import Fault, fault
from memory_pipeline.testing.chaos.figures import Figures, Options
from memory_pipeline.testing.chaos.history import FaultPeriod, History, HistoryReader
from memory_pipeline.testing.chaos.nemesis import AT_ONCE, Nemesis
from memory_pipeline.testing.chaos.report import as_json, as_page
from memory_pipeline.testing.chaos.stack import PrivateStack


@dataclass
class Parts:
    """Parts that can be broken, and the parts that are broken now."""

    broken: list[str] = field(default_factory=list)
    most: int = 0
    together: bool = False
    ended: bool = False
    home: Path = Path("/home-of-the-stack")
    error: str = "prevented"
    lock: threading.Lock = field(default_factory=threading.Lock)

    def end_commands(self) -> None:
        """Record the call."""
        self.ended = True

    def kind(self, name: str, needs: str, *, fails: bool = False) -> Fault:
        """Return a kind of fault that breaks a part for a moment."""

        @contextmanager
        def breaks(_stack: PrivateStack, _chance: Random) -> Generator[str]:
            with self.lock:
                self.together |= needs in self.broken
                self.broken.append(needs)
                self.most = max(self.most, len(self.broken))
            try:
                if fails:
                    raise Transient(self.error.format(home=self.home), sent=False)
                yield needs
            finally:
                with self.lock:
                    self.broken.remove(needs)

        return fault(name, needs, (0.05, 0.1), breaks)


def run(parts: Parts, kinds: list[Fault], folder: Path, *, count: int, seed: int) -> Nemesis:
    """Inject faults as fast as possible."""
    history = History(folder / f"{seed}.jsonl")
    nemesis = Nemesis(cast("PrivateStack", parts), kinds, history, seed=seed)
    try:
        nemesis.run(count, 0.2)
    finally:
        history.close()
    return nemesis


def recorded(folder: Path, seed: int) -> list[FaultPeriod]:
    """Return the recorded faults."""
    reading = HistoryReader(folder / f"{seed}.jsonl")
    rows = list(reading.more())
    reading.close()
    return [row for row in rows if isinstance(row, FaultPeriod)]


def test_all_is_healed_and_no_two_faults_share_what_they_need(tmp_path: Path) -> None:
    """Several at once, each kind as often as the others."""
    parts = Parts()
    kinds = [parts.kind(f"{n}", "ab"[n % 2]) for n in range(4)] + [parts.kind("4", "c")]
    nemesis = run(parts, kinds, tmp_path, count=20, seed=1)
    assert nemesis.counts == {f"{n}": 4 for n in range(5)}
    assert parts.broken == []
    assert not parts.together
    assert 1 < parts.most <= AT_ONCE
    assert len(recorded(tmp_path, 1)) == 20


LONG = "connection to server failed: FATAL: the database system is starting up " * 5


@pytest.mark.parametrize("error", ["prevented: {home}/postgres", LONG])
def test_a_fault_that_another_prevents_is_reported(tmp_path: Path, error: str) -> None:
    """It is not counted, and the others continue. What broke: its line was cut within a word."""
    parts = Parts(error=error)
    kinds = [parts.kind("good", "a"), parts.kind("bad", "b", fails=True)]
    nemesis = run(parts, kinds, tmp_path, count=4, seed=2)
    assert nemesis.counts == {"good": 2}
    why = nemesis.skipped["bad"]
    assert len(why) < 250
    name, message = why.split(": ", 1)
    assert name == "Transient"
    assert set(message.split()) <= {*error.format(home="…").split(), "…"}
    assert parts.broken == []


def test_the_report_gives_the_reason_for_a_fault_that_was_not_done() -> None:
    """In a sentence."""
    figures = Figures(Options(10, 2, 3, 4.0, seed=77))
    figures.skipped = {"rebuild killed": "OperationalError: the database system is starting up"}
    assert (
        "- rebuild killed: not done every time, because another fault prevented it "
        "(OperationalError: the database system is starting up)\n"
    ) in as_page(as_json(figures))


@pytest.mark.parametrize("release", ["6.18.44-vendor-0a1b.x86_64", "6.18-rc1-vendor", "6.18"])
def test_the_report_names_the_system_and_nothing_else_of_the_machine(
    release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What broke: the suffix of the release named the very machine."""
    monkeypatch.setattr("memory_pipeline.testing.machine.platform.release", lambda: release)
    system = as_json(Figures(Options(10, 2, 3, 4.0, seed=77)))["machine"]["system"]
    assert system == "Linux 6.18"


def test_the_seed_chooses(tmp_path: Path) -> None:
    """The same seed breaks the same things in the same order."""
    orders = []
    for number, seed in enumerate((7, 7, 8)):
        parts, folder = Parts(), tmp_path / str(number)
        folder.mkdir()
        run(parts, [parts.kind(f"{n}", "all") for n in range(8)], folder, count=8, seed=seed)
        orders.append([row.kind for row in recorded(folder, seed)])
    assert orders[0] == orders[1] != orders[2]


def test_an_interrupted_run_heals_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle of a fault leaves nothing broken."""
    parts = Parts()
    pauses = iter([None, None])

    def interrupted(_moment: float) -> None:
        if next(pauses, "interrupt"):
            raise KeyboardInterrupt

    monkeypatch.setattr("memory_pipeline.testing.chaos.nemesis._wait_until", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(parts, [parts.kind("a", "a"), parts.kind("b", "b")], tmp_path, count=9, seed=3)
    assert parts.broken == []
    assert parts.ended


def test_the_report_shows_each_violation_with_the_faults_around_it() -> None:
    """With the faults that were active or had just been healed; the seed is in the first line."""
    figures = Figures(Options(10, 2, 3, 4.0, seed=77))
    figures.faults.update({"chroma killed": 2, "model unavailable": 1})
    figures.violations = [Violation("lost", TenantId("ada"), MemoryId(5))]
    figures.blamed = [frozenset({"chroma killed"})]
    shown = as_json(figures)
    assert shown["verdict"] == "broken"
    assert shown["table"]["chroma killed"]["lost"] == 1
    assert shown["table"]["model unavailable"]["lost"] == 0
    page = as_page(as_json(figures))
    assert page.startswith("# Chaos, seed 77: PROMISES WERE BROKEN")
    assert "| chroma killed | 2 | 1 |" in page
    assert "**lost** ada 5" in page


def test_a_fault_is_blamed_for_a_while_after_it_was_healed() -> None:
    """Its effect may be observed later."""
    broken = [FaultPeriod("early", 10, 20), FaultPeriod("late", 50, 60)]
    assert during(25, broken, after_ns=10) == {"early"}
    assert during(31, broken, after_ns=10) == set()
    assert during(55, broken, after_ns=10) == {"late"}
