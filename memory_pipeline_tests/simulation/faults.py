"""What goes wrong at a step: a crash, a pause, an error before or after the step, an outage.

One number decides for each step; what is chosen then depends on who is asked. The rate and the mix
are drawn once a seed, so that some seeds are calm and some are a storm.
"""

from collections.abc import Callable
from typing import Literal

from memory_pipeline.errors import (
    ChromaUnavailable,
    EmbedderUnavailable,
    PipelineError,
    PostgresUnavailable,
    ServerLost,
)
from memory_pipeline_tests.fakes import Fault, Lands
from memory_pipeline_tests.simulation.scheduler import Actor, Crashed, Process
from memory_pipeline_tests.simulation.world import SimulatedWorld

RATES = (0.0, 0.003, 0.01, 0.03)
# Where it matters most when something goes wrong, and where it hardly does.
HOT = (
    "embedder.embed",
    "index.write",
    "lease.renew",
    "memories.back_up",
    "memories.versions",
    "outbox.ack",
    "outbox.claim",
    "rebuilds.record_chunk",
    "rebuilds.flip",
    "rebuilds.register_building",
    "registry.abandon",
    "registry.flip_first",
)
# What a rebuild does last in a proof, and first for its flip.
AFTER_THE_PROOF = "memories.ids, outbox.acquire_lease"
# Where a seed looks for trouble: each of these is the edge of some window. A season has its own.
Season = Literal["any", "sync", "rebuild", "verify"]
FOCUSES: dict[Season, tuple[str, ...]] = {
    "any": (
        *HOT,
        "index.query",
        "memories.get",
        "memories.ids",
        "memories.read",
        "outbox.acquire_lease",
        "registry.building",
        "registry.live",
    ),
    "sync": (
        "embedder.embed",
        "index.write",
        "lease.renew",
        "memories.back_up",
        "outbox.ack",
        "outbox.claim",
    ),
    "rebuild": (
        "index.write",
        "lease.renew",
        "memories.read",
        "memories.versions",
        "outbox.acquire_lease",
        "outbox.acquire_lease",
        AFTER_THE_PROOF,
        AFTER_THE_PROOF,
        "rebuilds.record_chunk",
        "rebuilds.flip",
        "rebuilds.may_fill",
        "rebuilds.register_building",
        "registry.abandon",
    ),
    "verify": (
        "index.fetch",
        "index.fetch",
        "index.fetch",
        "index.unreachable_by_vector",
        "index.pages",
        "memories.get",
        "memories.versions",
        "outbox.expected_differences",
        "outbox.expected_differences",
        "registry.live",
    ),
}
FOCUS_SHARE = 0.3
# A verify looks twice: what is to deceive it has to happen each time, and to be over by then. So
# has what is to be overlooked between a proof and its flip.
PATIENT_SHARE = 0.9
AMID_SHARE = 0.8
LANDS: tuple[Lands, ...] = ("never", "now")
LATE_LANDS: tuple[Lands, ...] = ("never", "now", "late", "late")
LATEST: dict[str, Lands] = {"index.write": "late"}
COLD = frozenset({"outbox.pending_tenants", "registry.damaged", "registry.droppable"})
HOT_TIMES = 3.0
# How often the application, or whoever does harm, acts just before a step of somebody else.
MEDDLING = (0.0, 0.02, 0.06)
SHORT_SECONDS = 3.0
# Longer than a lease, a request and the grace together.
LEAST_LONG_SECONDS = 8.0
LONG_SECONDS = 30.0
OUTAGE_SECONDS = 15.0


class ChanceOfFaults:
    """Draws what goes wrong, and does it to whoever is current."""

    def __init__(
        self,
        world: SimulatedWorld,
        restart: Callable[[Process], None],
        meddle: Callable[[], None],
        season: Season,
    ) -> None:
        self._world = world
        self._rng = world.scheduler.rng
        self._restart = restart
        self._rate = self._rng.choice(RATES)
        self.meddle = meddle
        self._meddling = self._rng.choice(MEDDLING)
        # One or two, for some windows open only where something else has gone wrong as well.
        self._verifies = season == "verify"
        self._focus = {
            self._rng.choice(FOCUSES[season]) for _ in range(self._rng.choice((0, 1, 1, 2)))
        }
        self._down: dict[str, float] = {}
        self.off = False

    def at(self, step: str) -> Fault | None:
        """Tell what goes wrong at this step of whoever is current; may pause or kill it."""
        world = self._world
        actor = world.scheduler.current
        if step == "lease.renew" and actor is not None:
            actor.held_at = world.now
        if self.off or actor is None or actor.process.role is None:
            return None
        port = step.partition(".")[0]
        side = port if port in {"index", "embedder"} else "postgres"
        if self._down.get(side, 0.0) > world.now:
            return self._error(step, side)
        if step in COLD:
            return None
        chance = self._rng.random()
        last, actor.last = actor.last, step
        proven = AFTER_THE_PROOF in self._focus and f"{last}, {step}" == AFTER_THE_PROOF
        patient = proven or (self._verifies and step in self._focus)
        focused = FOCUS_SHARE if step in self._focus else 0.0
        if chance < (PATIENT_SHARE if patient else focused):
            return self._trouble(step, side, actor, patient=patient)
        if chance > 1.0 - self._meddling:
            self.meddle()
        elif chance < (self._rate * HOT_TIMES if step in HOT else self._rate):
            return self._something(step, side, actor)
        return None

    def _trouble(self, step: str, side: str, actor: Actor, *, patient: bool) -> Fault | None:
        """Let the application act just here, and others before this goes on; or let it go wrong."""
        if step == "index.write" and self._rng.random() < 0.5:
            return self._error(step, side)  # what opens a window here is what is not answered
        if self._rng.random() < (0.1 if patient else 0.3):
            return self._something(step, side, actor)
        self.meddle()
        if patient:
            self._wait(step)
            return None
        self._pause(step, actor, amid=self._rng.choice((0, 1, 2)))
        if self._rng.random() < 0.3:
            self.meddle()
        return None

    def heal(self) -> None:
        """Let nothing go wrong any more."""
        self.off = True
        self._down.clear()

    def _something(self, step: str, side: str, actor: Actor) -> Fault | None:
        chance = self._rng.random()
        if chance < 0.22:
            return self._crash(step, actor)
        if chance < 0.42:
            self._pause(step, actor)
            return None
        if chance < 0.48:
            self._down[side] = self._world.now + self._rng.random() * OUTAGE_SECONDS
            self._world.note(f"{side} is down for a while")
        return self._error(step, side)

    def _crash(self, step: str, actor: Actor) -> Fault:
        """Kill it, before or after the step; a request that it has sent may still land."""
        lands: Lands = self._rng.choice(("never", "never", "now", LATEST.get(step, "now")))
        self._world.note(f"is killed, its {step} lands {lands}")
        self._world.scheduler.kill(actor.process)
        self._restart(actor.process)
        return Fault(Crashed(), lands)

    def _pause(self, step: str, actor: Actor, *, amid: int = 0) -> None:
        """Freeze. What was renewed just before a write bounds how late it is, but in some seeds."""
        world = self._world
        seconds = self._rng.random() * SHORT_SECONDS
        if step != "index.write":
            if self._rng.random() < 0.5:
                seconds = LEAST_LONG_SECONDS + seconds * LONG_SECONDS / SHORT_SECONDS
        else:
            most = actor.held_at + world.settings.request_seconds - world.now
            seconds = min(seconds, max(0.0, most))
        for _ in range(amid):
            # While it is frozen, and early enough for others to bring it.
            world.scheduler.at(world.now + seconds * AMID_SHARE * self._rng.random(), self.meddle)
        world.frozen_until = max(world.frozen_until, world.now + seconds)
        world.note(f"sleeps for {seconds:.1f} s before {step}")
        world.scheduler.sleep(seconds)

    def _wait(self, step: str) -> None:
        """Freeze until all that was changed has been brought, and no longer."""
        world = self._world
        until = world.now + LEAST_LONG_SECONDS
        world.frozen_until = max(world.frozen_until, until)
        world.note(f"waits for what is pending before {step}")
        world.scheduler.wait(
            lambda: world.now > until or all(c.confirm for c in world.changes.values())
        )

    def _error(self, step: str, side: str) -> Fault:
        rng = self._rng
        error: PipelineError
        lands: Lands = rng.choice(LANDS)
        if side == "embedder":
            error, lands = EmbedderUnavailable("the model fails"), "never"
        elif side == "postgres":
            error = PostgresUnavailable("the connection broke")
        elif rng.random() < 0.15:
            error, lands = ServerLost("no marker"), "never"
            self._world.server_was_away = True
        elif rng.random() < 0.2:
            error, lands = ChromaUnavailable("refused", sent=False), "never"
        else:
            error = ChromaUnavailable("no answer in time")
            if step == "index.write":
                lands = rng.choice(LATE_LANDS)
        self._world.note(f"{step} fails ({type(error).__name__}), lands {lands}")
        return Fault(error, lands)
