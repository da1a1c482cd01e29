"""Run seeds: ``python -m memory_pipeline_tests.simulation --seeds 0..5000``, or ``--seed 17``.

With ``--sabotage`` bugs are planted, and what noticed each is printed as a Markdown table.
"""

import argparse
import sys
import time

from memory_pipeline_tests.simulation.parallel import hunt_each, run_shares
from memory_pipeline_tests.simulation.run import Report, Simulation
from memory_pipeline_tests.simulation.sabotage import BUGS, Caught

PROGRESS_SECONDS = 10.0
HEAD = (
    "| the bug | the guard that it takes away | seeds | the promise that broke |",
    "|---|---|---:|---|",
)


def say(line: str) -> None:
    """Print a line at once, whatever it is printed to."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run what was asked for; return 1 where a promise was broken, or a bug not noticed."""
    parser = argparse.ArgumentParser(prog="python -m memory_pipeline_tests.simulation")
    parser.add_argument("--seed", type=int, help="one seed, with its schedule")
    parser.add_argument("--seeds", help="A..B, B not included")
    parser.add_argument("--processes", type=int, default=1, help="so many at a time")
    parser.add_argument("--sabotage", action="store_true", help="plant bugs; are they noticed?")
    parser.add_argument("--bug", action="append", help="this one alone")
    asked = parser.parse_args()
    if asked.seed is not None:
        report = Simulation(asked.seed).run(whole=True)
        show(report)
        return 1 if report.broken else 0
    first, last = (int(n) for n in (asked.seeds or "0..6000").split(".."))
    if asked.sabotage or asked.bug:
        return sabotage(asked.bug or list(BUGS), range(first, last), asked.processes)
    return run(range(first, last), asked.processes)


def run(seeds: range, processes: int) -> int:
    """Run many seeds; tell those that broke a promise at once, and how far and fast it is."""
    began = told = time.monotonic()
    done = steps = broken = 0
    for share in run_shares(seeds, processes):
        done, steps, broken = done + share.seeds, steps + share.steps, broken + len(share.broken)
        for report in share.broken:
            say(f"seed {report.seed}: {report.broken}")
        now = time.monotonic()
        if now - told > PROGRESS_SECONDS or done == len(seeds):
            told = now
            say(
                f"{done} of {len(seeds)} seeds, {steps} steps, {broken} broken, "
                f"{now - began:.1f} s, {done / (now - began):.0f} seeds/s"
            )
    return 1 if broken else 0


def sabotage(names: list[str], seeds: range, processes: int) -> int:
    """Plant bugs, one at a time; print what noticed each, and after how many seeds."""
    missed = 0
    for line in HEAD:
        say(line)
    for caught in hunt_each(names, seeds, processes):
        missed += caught.report is None and not BUGS[caught.name].behind
        say(line_of(caught))
    return 1 if missed else 0


def line_of(caught: Caught) -> str:
    """Write what became of a bug in one line of the table."""
    bug = BUGS[caught.name]
    if caught.report is not None:
        seeds, said = str(caught.seeds), caught.report.broken or ""
        said = said.partition(": FakeChange")[0]  # what waits still, at length
    elif bug.behind:
        seeds, said = "none", f"not in {caught.seeds}, for {bug.behind}"
    else:
        seeds, said = "none", f"NOT NOTICED in {caught.seeds}"
    return f"| {caught.name} | {bug.guard} | {seeds} | {said.replace('|', ' ')[:120]} |"


def show(report: Report) -> None:
    """Print the schedule of a seed."""
    for when, who, what in report.trace:
        say(f"{when:9.3f} {who:20} {what}")
    say(f"seed {report.seed}: {report.broken or 'every promise is kept'}, {report.steps} steps")


if __name__ == "__main__":
    sys.exit(main())
