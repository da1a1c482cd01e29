"""The kinds of fault of single services: their duration and the resources that each needs."""

import random
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace

from memory_pipeline.testing.chaos.injections import (
    Injection,
    backends_killed,
    chroma_frozen,
    chroma_killed,
    disk_full,
    link_broken,
    model_fails,
    postgres_down,
    rows_locked,
    transaction_open,
    worker_frozen,
    worker_killed,
    worker_stopped,
)
from memory_pipeline.testing.chaos.stack import LEASE_SECONDS
from memory_pipeline.testing.link_faults import LinkFault


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault.

    ``needs``: resources that no two faults use at once. ``seconds``: the bounds of its duration.
    ``inject``: the block in which it lasts.
    """

    kind: str
    needs: frozenset[str]
    seconds: tuple[float, float]
    inject: Injection
    # Whether statements of the application may fail during it.
    hits_application: bool = False


def fault(kind: str, needs: str, seconds: tuple[float, float], inject: Injection) -> Fault:
    """Return a kind of fault; ``needs`` are separated by spaces."""
    return Fault(kind, frozenset(needs.split()), seconds, inject)


def between(low: float, high: float) -> Callable[[random.Random], float]:
    """Return a choice between two bounds."""
    return lambda chance: chance.uniform(low, high)


SHARE = between(0.2, 1.0)
FREEZE = (1.0, 3 * LEASE_SECONDS)
LINKS = (
    ("lost replies", "chroma", lambda c: LinkFault("lost", share=SHARE(c))),
    ("429", "chroma", lambda c: LinkFault("answer", status=429, share=SHARE(c))),
    (
        "500",
        "chroma",
        lambda c: LinkFault("answer", status=c.choice([500, 502, 503]), share=SHARE(c)),
    ),
    ("resets", "chroma", lambda c: LinkFault("reset", share=SHARE(c))),
    ("refused", "chroma", lambda _: LinkFault("refuse")),
    ("stalled", "chroma", lambda c: LinkFault(c.choice(["stall", "deaf"]))),
    ("slow", "chroma", lambda c: LinkFault("slow", seconds=c.uniform(0, 0.3), bytes_a_second=2e5)),
    ("cut replies", "chroma", lambda c: LinkFault("cut", bytes=c.randint(0, 300), share=SHARE(c))),
    ("resets", "postgres", lambda c: LinkFault("reset", share=c.uniform(0.02, 0.5))),
    ("stalled", "postgres", lambda c: LinkFault(c.choice(["stall", "deaf"]))),
    (
        "slow",
        "postgres",
        lambda c: LinkFault("slow", seconds=c.uniform(0, 0.05), bytes_a_second=1e6),
    ),
    ("lost replies", "postgres", lambda c: LinkFault("lost", share=c.uniform(0.02, 0.3))),
)


def faults() -> list[Fault]:
    """Return every kind of fault of single services."""
    down = (
        ("postgres killed", signal.SIGKILL),
        ("postgres restarted at once", signal.SIGQUIT),
    )
    return [
        fault("worker killed", "worker", (0.5, 5.0), worker_killed),
        fault("worker frozen", "worker", FREEZE, worker_frozen),
        fault("worker stopped", "worker", (0.0, 3.0), worker_stopped),
        fault("backends killed", "postgres", (0.0, 1.0), backends_killed),
        *(
            replace(
                fault(kind, "postgres", (0.2, 3.0), postgres_down(number)), hits_application=True
            )
            for kind, number in down
        ),
        fault("rows locked", "postgres locks", (1.0, 8.0), rows_locked),
        fault("transaction left open", "postgres", (3.0, 10.0), transaction_open),
        fault("chroma killed", "chroma", (0.2, 5.0), chroma_killed),
        fault("chroma frozen", "chroma", (1.0, 10.0), chroma_frozen),
        fault("chroma's disk full", "chroma disk", (2.0, 8.0), disk_full),
        *(
            fault(f"{which} link: {kind}", f"{which}-link", (2.0, 8.0), link_broken(which, make))
            for kind, which, make in LINKS
        ),
        fault("model unavailable", "model", (1.0, 6.0), model_fails("unavailable")),
        fault("model refuses everything", "model", (1.0, 6.0), model_fails("refuses")),
    ]
