"""Run seeds: ``python -m memory_pipeline_tests.simulation --seeds 0..5000``, or ``--seed 17``."""

import argparse
import sys
import time

from memory_pipeline_tests.simulation.run import Report, Simulation
from memory_pipeline_tests.simulation.sabotage import BUGS, hunt


def say(line: str) -> None:
    """Print a line at once, whatever it is printed to."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run what was asked for; return 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m memory_pipeline_tests.simulation")
    parser.add_argument("--seed", type=int, help="one seed, with its schedule")
    parser.add_argument("--seeds", default="0..1000", help="A..B, B not included")
    parser.add_argument("--sabotage", action="store_true", help="plant bugs; are they noticed?")
    parser.add_argument("--bug", action="append", help="this one alone")
    asked = parser.parse_args()
    if asked.sabotage:
        first, last = (int(n) for n in asked.seeds.split(".."))
        return sabotage(asked.bug or list(BUGS), range(first, last))
    if asked.seed is not None:
        report = Simulation(asked.seed).run(whole=True)
        show(report)
        return 1 if report.broken else 0
    first, last = (int(n) for n in asked.seeds.split(".."))
    return run(range(first, last))


def run(seeds: range) -> int:
    """Run many seeds; tell those that broke a promise, and how fast it was."""
    began = time.monotonic()
    steps = broken = 0
    for seed in seeds:
        report = Simulation(seed).run()
        steps += report.steps
        if report.broken:
            broken += 1
            say(f"seed {seed}: {report.broken}")
    seconds = time.monotonic() - began
    say(
        f"{len(seeds)} seeds, {steps} steps, {broken} broken, {seconds:.1f} s, "
        f"{len(seeds) / seconds:.0f} seeds/s"
    )
    return 1 if broken else 0


def sabotage(names: list[str], seeds: range) -> int:
    """Plant bugs, one at a time; print what noticed each, and after how many seeds."""
    missed = 0
    for name in names:
        caught = hunt(name, seeds)
        missed += caught.report is None
        said = "NOT CAUGHT" if caught.report is None else caught.report.broken
        say(f"{name:60} {caught.seeds:6}  {(said or '')[:90]}")
    return 1 if missed else 0


def show(report: Report) -> None:
    """Print the schedule of a seed."""
    for when, who, what in report.trace:
        say(f"{when:9.3f} {who:20} {what}")
    say(f"seed {report.seed}: {report.broken or 'every promise is kept'}, {report.steps} steps")


if __name__ == "__main__":
    sys.exit(main())
