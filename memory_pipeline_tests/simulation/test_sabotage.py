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


def _rows() -> list[list[str]]:
    """Return the rows of the table: bug, guard, seeds, promise."""
    rows = [line.split(" | ") for line in TABLE.read_text().splitlines() if " | " in line]
    return rows[1:]


def _known(name: str) -> int:
    """Return the seed that has noticed a bug before."""
    (seeds,) = (row[2] for row in _rows() if row[0] == f"| {name}")
    return int(seeds) - 1


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [name for name, bug in BUGS.items() if not bug.behind])
def test_a_planted_bug_is_noticed(name: str) -> None:
    """Some promise breaks, in a seed that keeps every promise without the bug.

    The one of the table first; where schedules are others by now, some other seed has to.
    """
    known = _known(name)
    caught = hunt(name, [known, *(seed for seed in range(MOST_SEEDS) if seed != known)])
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
    assert [row[0].removeprefix("| ") for row in _rows()] == list(BUGS)
    assert [row[1] for row in _rows()] == [bug.guard for bug in BUGS.values()]
