"""Bugs, planted one at a time: each takes one guard away, and the simulation has to notice.

A simulation that misses one is too weak. Each is a small patch of the core or of a guard in the
fakes, in force while its context lasts.
"""

# The order of these imports is the order of the table in docs/sabotage.md.
# isort: off
from memory_pipeline_tests.simulation.sabotage import (
    essential,
    protocol,
    rebuilds,
    past_designs,
    found_by_simulation,
    backups,
    forgetting,
)

# isort: on
from memory_pipeline_tests.simulation.sabotage.hunting import Caught, hunt
from memory_pipeline_tests.simulation.sabotage.planting import BUGS

__all__ = [
    "BUGS",
    "Caught",
    "backups",
    "essential",
    "forgetting",
    "found_by_simulation",
    "hunt",
    "past_designs",
    "protocol",
    "rebuilds",
]
