"""Real Postgres, real Chroma, any order of steps and faults: the promises hold after each.

STATEFUL_EXAMPLES and STATEFUL_STEPS say how many examples of how many steps are run;
STATEFUL_SHRINK=yes makes a failing one short.
"""

import os
import sys

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
BUG_EXAMPLES, BUG_STEPS = 150, 40


@pytest.mark.timeout(max(240, EXAMPLES * STEPS))
def test_the_promises_hold_whatever_happens(world: World) -> None:
    """P1, P2, P3, P4, P5, P7, P8: no order of steps and faults breaks any of them."""
    explore(
        world,
        settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            phases=PHASES,
            report_multiple_bugs=False,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", BUGS)
def test_planted_bugs_are_caught(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A guard that is taken away is missed: the same examples each time, none of them shrunk."""
    BUGS[name](world, monkeypatch)
    with pytest.raises((Violation, FlakyFailure)) as caught:
        explore(
            world,
            settings(
                max_examples=BUG_EXAMPLES,
                stateful_step_count=BUG_STEPS,
                derandomize=True,
                deadline=None,
                database=None,
                phases=(Phase.generate,),
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ),
        )
    sys.stdout.write(f"{name}: in example {world.examples}: {caught.value}\n")
