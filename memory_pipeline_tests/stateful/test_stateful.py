"""Real Postgres, real Chroma, any order of steps and faults: the promises hold after each.

STATEFUL_EXAMPLES and STATEFUL_STEPS say how many examples of how many steps are run;
STATEFUL_SHRINK=yes makes a failing one short. STATEFUL_HUNT says how many of them chance may take
to come upon each planted bug; without it, steps that were written down show them all in a minute.
"""

import os
import sys
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import FlakyFailure

from memory_pipeline_tests.stateful.application import Statement
from memory_pipeline_tests.stateful.checks import Violation
from memory_pipeline_tests.stateful.conftest import NewWorld
from memory_pipeline_tests.stateful.faults import Plan
from memory_pipeline_tests.stateful.machine import Step, explore, perform
from memory_pipeline_tests.stateful.sabotage import BUGS
from memory_pipeline_tests.stateful.scripted import SCRIPTED
from memory_pipeline_tests.stateful.world import World

EXAMPLES = int(os.environ.get("STATEFUL_EXAMPLES", "50"))
STEPS = int(os.environ.get("STATEFUL_STEPS", "30"))
HUNT = int(os.environ.get("STATEFUL_HUNT", "0"))
# To shrink an example takes many minutes, and makes it a few steps long.
SHRINK = os.environ.get("STATEFUL_SHRINK") == "yes"
PHASES = (Phase.generate, Phase.shrink) if SHRINK else (Phase.generate,)


def how(examples: int, **more: Any) -> settings:
    """Tell Hypothesis how much to try; a step may take as long as it takes."""
    return settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        **more,
    )


@pytest.mark.faults
@pytest.mark.timeout(max(240, EXAMPLES * STEPS * 2))
def test_the_promises_hold_whatever_happens(world: World) -> None:
    """P1, P2, P3, P4, P5, P7, P8: no order of steps and faults breaks any of them."""
    explore(world, how(EXAMPLES, phases=PHASES, print_blob=True))


@pytest.mark.faults
def test_what_waits_in_a_first_collection_that_is_half_built_is_not_lost(world: World) -> None:
    """A mistake of the check, found by chance: batches write what the next rebuild lets live."""
    cut_off = Plan(kind="crash after", at=13)
    recheck = Statement(verb="put again", id=2, tenant=0, text=4)
    steps = [
        Step("begin", {"chance": 1, "trust": False}),
        Step("rebuild_and_fail", {"chunk": 2, "plan": cut_off, "resume": False, "tenant": 0}),
        Step("rebuild", {"chunk": 3, "resume": False, "tenant": 1}),
        Step("work", {"number": 1, "tenant": 0}),
        Step("do_half", {"kept": [recheck], "undone": []}),
        Step("work", {"number": 1, "tenant": 0}),
    ]
    perform(world, steps)


@pytest.mark.faults
@pytest.mark.parametrize("name", BUGS)
def test_planted_bugs_are_caught(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A guard that is taken away is missed, by steps that are clean as long as it is there."""
    bug, steps = BUGS[name], SCRIPTED[name]
    perform(world, steps)
    bug.plant(world, monkeypatch)
    if bug.behind is not None:
        perform(world, steps)
        bug.behind(world, monkeypatch)
    with pytest.raises(Violation) as caught:
        perform(world, steps)
    sys.stdout.write(f"{name}: {caught.value}\n")


@pytest.mark.faults
@pytest.mark.skipif(not HUNT, reason="STATEFUL_HUNT is not set")
@pytest.mark.timeout(max(240, HUNT * STEPS * 2))
@pytest.mark.parametrize("name", BUGS)
def test_chance_comes_upon_planted_bugs(new_world: NewWorld, name: str) -> None:
    """The same examples each time; the one that breaks a promise is clean without the bug."""
    bug = BUGS[name]
    with new_world() as world, pytest.MonkeyPatch.context() as patch:
        for plant in filter(None, (bug.plant, bug.behind)):
            plant(world, patch)
        with suppress(Violation, FlakyFailure):
            explore(world, how(HUNT, derandomize=True, phases=(Phase.generate,)))
    assert world.violated is not None, f"not in {HUNT} examples"
    told, steps = world.violated
    with new_world() as clean:
        perform(clean, steps)
    sys.stdout.write(f"{name}: in example {world.examples}: {told}\n")
