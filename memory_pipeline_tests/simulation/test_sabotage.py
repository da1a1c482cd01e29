"""Bugs are planted in the core, one at a time, and the simulation notices each.

What broke: a checker that cannot fail proves nothing. What must not change: every guard that a
promise rests on has a bug here that takes it away.
"""

from pathlib import Path

import pytest

from memory_pipeline_tests.simulation.sabotage import BUGS, hunt

# Those that need two things at once are rarer: the simulation runs through so many in two minutes.
MOST_SEEDS = 6000
TABLE = Path(__file__).parents[2] / "docs" / "sabotage.md"


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [name for name, bug in BUGS.items() if not bug.behind])
def test_a_planted_bug_is_noticed(name: str) -> None:
    """Some promise breaks, in a seed that keeps every promise without the bug."""
    caught = hunt(name, range(MOST_SEEDS))
    assert caught.report is not None, f"{name}: not noticed in {caught.seeds} seeds"
    print(f"{name}: seed {caught.report.seed}, {caught.report.broken}")  # noqa: T201 - the table


def test_bugs_leave_nothing_behind() -> None:
    """Each is in force only while it is planted: the next test runs the true core."""
    from memory_pipeline_tests.simulation.run import Simulation

    before = Simulation(5).run(whole=True)
    for bug in BUGS.values():
        with bug.plant():
            pass
    assert Simulation(5).run(whole=True) == before


def test_every_bug_is_in_the_table() -> None:
    """What is published is what is planted."""
    rows = [line.split(" | ") for line in TABLE.read_text().splitlines() if " | " in line]
    named = [row[0].removeprefix("| ") for row in rows[1:]]
    assert named == list(BUGS)
    assert [row[1] for row in rows[1:]] == [bug.guard for bug in BUGS.values()]
