"""Real Postgres, real Chroma, any order of steps and faults: the promises hold after each.

STATEFUL_EXAMPLES and STATEFUL_STEPS say how many examples of how many steps are run;
STATEFUL_SHRINK=yes makes a failing one short.
"""

import os
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import FlakyFailure

from memory_pipeline_tests.stateful.checks import Violation
from memory_pipeline_tests.stateful.machine import explore
from memory_pipeline_tests.stateful.sabotage import BUGS
from memory_pipeline_tests.stateful.world import World

EXAMPLES = int(os.environ.get("STATEFUL_EXAMPLES", "5"))
STEPS = int(os.environ.get("STATEFUL_STEPS", "20"))
# To shrink an example takes many minutes, and makes it a few steps long.
SHRINK = os.environ.get("STATEFUL_SHRINK") == "yes"
PHASES = (Phase.generate, Phase.shrink) if SHRINK else (Phase.generate,)
# The same examples each time: enough for every bug that is planted, and clean without one.
BUG_EXAMPLES, BUG_STEPS, CLEAN_EXAMPLES = 150, 40, 15


def how(examples: int, steps: int, **more: Any) -> settings:
    """Tell Hypothesis how much to try; a step may take as long as it takes."""
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        **more,
    )


@pytest.mark.faults
@pytest.mark.timeout(max(240, EXAMPLES * STEPS))
def test_the_promises_hold_whatever_happens(world: World) -> None:
    """P1, P2, P3, P4, P5, P7, P8: no order of steps and faults breaks any of them."""
    explore(world, how(EXAMPLES, STEPS, phases=PHASES, print_blob=True))


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_the_examples_that_catch_bugs_are_clean_without_them(world: World) -> None:
    """Otherwise it would be anything but the planted bug that is caught."""
    explore(world, how(CLEAN_EXAMPLES, BUG_STEPS, derandomize=True, phases=(Phase.generate,)))


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", BUGS)
def test_planted_bugs_are_caught(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A guard that is taken away is missed: the same examples each time, none of them shrunk."""
    BUGS[name](world, monkeypatch)
    examples = how(BUG_EXAMPLES, BUG_STEPS, derandomize=True, phases=(Phase.generate,))
    with pytest.raises((Violation, FlakyFailure)) as caught:
        explore(world, examples)
    sys.stdout.write(f"{name}: in example {world.examples}: {caught.value}\n")
