"""Many seeds, or many planted bugs, in several processes.

Each seed is a world of its own and bugs are planted in one process alone, so nothing is shared.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

from memory_pipeline_tests.simulation.run import Report, Simulation
from memory_pipeline_tests.simulation.sabotage import BUGS, Caught, hunt

SEEDS_A_SHARE = 100
# So many are enough to see that a second guard is there: without both, few are needed.
SEEDS_BEHIND = 200


@dataclass(frozen=True, slots=True)
class Share:
    """What some seeds did; a report of each that broke a promise."""

    seeds: int
    steps: int
    broken: tuple[Report, ...]


def run_share(seeds: range) -> Share:
    """Run seeds, one after the other."""
    reports = [Simulation(seed).run() for seed in seeds]
    return Share(len(seeds), sum(r.steps for r in reports), tuple(r for r in reports if r.broken))


def run_shares(seeds: range, processes: int, *, each: int = SEEDS_A_SHARE) -> Iterator[Share]:
    """Run many seeds, so many at a time; yield each share when it is done."""
    shares = [seeds[at : at + each] for at in range(0, len(seeds), each)]
    if processes == 1:
        yield from map(run_share, shares)
        return
    with _pool(processes) as pool:
        for done in as_completed([pool.submit(run_share, share) for share in shares]):
            yield done.result()


def hunt_each(names: Sequence[str], seeds: range, processes: int) -> Iterator[Caught]:
    """Hunt each of these bugs; yield in their order."""
    look: Callable[[str], Caught] = partial(_hunt, seeds=seeds)
    if processes == 1:
        yield from map(look, names)
        return
    with _pool(processes) as pool:
        yield from pool.map(look, names)


def _hunt(name: str, seeds: range) -> Caught:
    return hunt(name, seeds[:SEEDS_BEHIND] if BUGS[name].behind else seeds)


def _pool(processes: int) -> ProcessPoolExecutor:
    # Not forked: greenlets of the parent would be the children's as well.
    return ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
