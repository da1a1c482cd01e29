"""Plant a bug and run seeds until one notices."""

from collections.abc import Sequence
from dataclasses import dataclass

from memory_pipeline_tests.simulation.run import Report, Simulation
from memory_pipeline_tests.simulation.sabotage.planting import BUGS


@dataclass(frozen=True, slots=True)
class Caught:
    """How soon the simulation noticed a bug, and what it said; None where it did not."""

    name: str
    seeds: int
    report: Report | None


def hunt(name: str, seeds: Sequence[int]) -> Caught:
    """Plant a bug and run seeds until one notices."""
    bug = BUGS[name]
    for number, seed in enumerate(seeds, 1):
        with bug.plant():
            report = Simulation(seed, harm=bug.harm).run()
        # Where the seed is broken without the bug as well, it says nothing about it.
        if report.broken and not Simulation(seed, harm=bug.harm).run().broken:
            return Caught(name, number, report)
    return Caught(name, len(seeds), None)
