"""One seed: a world, who acts in it, a storm, a calm, and what has to be so by then."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from random import Random

from memory_pipeline.domain.types import MemoryId, TenantId
from memory_pipeline.settings import Settings
from memory_pipeline_tests.fakes import FakeRegistry
from memory_pipeline_tests.simulation import actors, invariants
from memory_pipeline_tests.simulation.actors import TENANTS, Application, Closing, Core, Vandal
from memory_pipeline_tests.simulation.faults import ChanceOfFaults, Season
from memory_pipeline_tests.simulation.invariants import Broken
from memory_pipeline_tests.simulation.scheduler import (
    Process,
    Stuck,
)
from memory_pipeline_tests.simulation.world import SimulatedWorld

MOST_STEPS = 20_000
# The longest that a step takes; a request may take 5 seconds, a lease lasts 8.
PACES = (0.0, 0.03, 0.3, 0.8)
# By then everything is in sync: leases, ownerships, pauses and confirms take some ten seconds each.
CALM_SECONDS = 400.0
# In these seeds vectors are refused, and may be kept in a table of the pipeline's own. The others
# are as they were: among them are those that notice the rarest of the planted bugs.
REFUSING_SEEDS = 4
REFUSING_SEED = 3
# In these, tenants are forgotten, and retired while they are empty.
FORGETTING_SEEDS = 4
FORGETTING_SEED = 0


@dataclass(frozen=True, slots=True)
class Report:
    """What one seed did, and the promise that it broke, if any."""

    seed: int
    steps: int
    seconds: float
    statements: int
    broken: str | None
    trace: tuple[tuple[float, str, str], ...]


@contextmanager
def quiet() -> Iterator[None]:
    """Log nothing: a seed is told by its trace."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@cache
def settings_of(batch_size: int, chunk: int, backup: str, attempts: int) -> Settings:
    """Return settings: the times as they are by default, batches small enough to be several."""
    return Settings.load(
        batch_size=batch_size,
        rebuild_batch_size=chunk,
        rebuild_batch_size_idle=chunk,
        backup=backup,
        max_attempts=attempts,
        retry_max_seconds=10.0,
        retire_seconds=4.0,
    )


def backup_of(seed: int, usual: str) -> str:
    """Return where a seed keeps vectors: in some in a table of the pipeline's own."""
    chance = Random(f"backup {seed}")
    return (
        "table"
        if seed % REFUSING_SEEDS == REFUSING_SEED and usual == "on" and chance.random() < 0.4
        else usual
    )


def refusing(world: SimulatedWorld, seed: int) -> Callable[[MemoryId], bool]:
    """Return whose backup Postgres refuses now, as the application has set it up.

    Nobody's in most seeds; else that of every nth memory, for good or in every other spell.
    """
    chance = Random(f"refusals {seed}")
    every, spell_seconds = chance.choice((1, 1, 2, 3)), chance.choice((0.0, 2.0, 10.0))

    def refuses(memory_id: MemoryId) -> bool:
        spell = int(world.now / spell_seconds) % 2 if spell_seconds else 0
        return memory_id % every == 0 and spell == 0

    return refuses if seed % REFUSING_SEEDS == REFUSING_SEED else lambda _: False


class Simulation:
    """One seed."""

    def __init__(self, seed: int, *, harm: bool = True) -> None:
        self.seed = seed
        chance = Random(f"world {seed}")
        settings = settings_of(
            chance.choice((1, 2, 3, 5)),
            chance.choice((1, 2, 4)),
            backup_of(seed, chance.choice(("on", "on", "on", "off"))),
            chance.choice((1, 2, 3)),
        )
        season: Season = chance.choice(("any", "sync", "sync", "rebuild", "rebuild", "verify"))
        self.world = world = SimulatedWorld(settings, seed)
        world.trust = chance.random() < 0.7
        world.re_embeds = chance.random() < 0.3
        world.beyond_the_grace = chance.random() < 0.1
        world.refuses_backup = refusing(world, seed)
        self.closing = Closing()
        self.faults = world.faults = ChanceOfFaults(world, self._restart, self._meddle, season)
        self.pace_seconds = chance.choice(PACES)
        self.cold = chance.random() < 0.3
        narrow = season != "any"
        self.vandal = (
            Vandal(world, chance.randrange(1, 5)) if chance.random() < 0.3 and harm else None
        )
        tenants = 1 if narrow else chance.choice((1, 1, 2, 3))
        world.served = TENANTS[:tenants]
        self.application = Application(
            world,
            chance.randrange(4, 36 if narrow else 26),
            world.served,
            many=chance.choice((1, 1, 3) if narrow else (1, 3, 6)),
            pauses_seconds=(10.0, 20.0) if season == "verify" else (4.0, 4.0, 10.0),
        )
        self.idle_seconds = chance.choice((1.0, 4.0) if season != "any" else (1.0, 4.0, 12.0))
        self.left_alone = chance.random() < 0.15  # nobody goes on with what a killed rebuild left
        if chance.random() < 0.3:  # the table had memories before
            for _ in range(chance.randrange(1, 5)):
                self.application.insert()
        self._start("app", self.application.run)
        # A rebuild comes before the first sync.
        late = chance.random() < (0.3 if season == "rebuild" else 0.1)
        for number in range(chance.choice((2, 3) if season == "sync" else (1, 2, 2, 3))):
            self._process(f"worker{number}", actors.worker, 20.0 if late else 0.0)
        name = "rebuild"
        for number in range(chance.choice((1, 2) if season == "rebuild" else (0, 1, 1, 2))):
            # Two of one name: runs that do the same rebuild, one of which was taken for dead.
            self._process(f"rebuilder{number}", actors.rebuilder, name)
        self._process("mender", actors.mender)
        for name, role, share in (
            ("verifier", actors.verifier, 0.5),
            ("searcher", actors.searcher, 0.4),
            ("replayer", actors.replayer, 0.3),
        ):
            # So many that some are under way whatever is done.
            for number in range(2 if season in name else chance.random() < share):
                self._process(f"{name}{number}", role)
        if self.vandal:
            self._start("vandal", self.vandal.run)
        if seed % FORGETTING_SEEDS == FORGETTING_SEED:
            self._process("forgetter", actors.forgetter)

    # ---- processes

    def _start(self, name: str, work: Callable[[], None]) -> None:
        self.world.scheduler.spawn(name, Process(name), work)

    def _process(self, name: str, role: Callable[..., None], *more: object) -> None:
        rng = self.world.scheduler.rng

        def begin() -> None:
            core = Core(self.world, loaded=not self.cold, idle_seconds=self.idle_seconds)
            process = Process(name, begin)
            # Some are slow beside others, for as long as they live.
            calm = self.closing.now
            process.pace_seconds = (
                0.0 if calm else self.pace_seconds * rng.choice((0.0, 1.0, 1.0, 4.0))
            )
            self.world.scheduler.spawn(name, process, lambda: role(core, self.closing, *more))

        begin()

    def _restart(self, process: Process) -> None:
        """Begin a process anew, soon or after everything that it held has run out."""
        scheduler = self.world.scheduler
        if process.role is None:
            return
        if self.left_alone and process.name.startswith("rebuilder"):
            if self.vandal is not None:
                self.vandal.wedge_what_is_left()
            return
        seconds = scheduler.rng.choice((0.1, 2.0, 20.0))
        scheduler.at(self.world.now + seconds, process.role)

    def _meddle(self) -> None:
        """Act just before a step of somebody else."""
        if self.vandal is not None and self.world.scheduler.rng.random() < 0.2:
            self.vandal.meddle()
        else:
            self.application.meddle()

    # ---- the course of it

    def run(self, *, whole: bool = False) -> Report:
        """Let it storm, let it calm down, and look."""
        world, broken = self.world, None
        with quiet():
            try:
                self._storm()
                self._calm()
                self._judge()
            except (Broken, Stuck) as failed:
                broken = str(failed)
            except Exception as unexpected:  # noqa: BLE001 - nothing of the core may raise any other
                broken = f"{type(unexpected).__name__}: {unexpected}"
            finally:
                world.scheduler.kill_all()
        return Report(
            self.seed,
            world.scheduler.steps,
            world.now,
            len(world.stated),
            broken,
            tuple(world.trace) if broken or whole else (),
        )

    def _after(self) -> None:
        invariants.after_every_step(self.world)

    def _storm(self) -> None:
        scheduler = self.world.scheduler
        scheduler.run(
            while_=lambda: not self.application.done and scheduler.steps < MOST_STEPS,
            after=self._after,
        )

    def _calm(self) -> None:
        """Heal everything, and let everybody end what is begun."""
        world = self.world
        world.note("from here on nothing goes wrong")
        self.faults.heal()
        self.closing.now = True
        world.scheduler.hurry()
        if self.vandal:
            self.vandal.stop()
        until = world.now + CALM_SECONDS
        steps = world.scheduler.steps + MOST_STEPS

        def goes_on() -> bool:
            if world.now > until or world.scheduler.steps > steps:
                raise Stuck(f"not quiet {CALM_SECONDS:.0f} s after the last fault: {self._left()}")
            return bool(self._left())

        world.scheduler.run(while_=goes_on, after=self._after)
        world.scheduler.kill_all()

    def _left(self) -> str:
        """Tell what is still to be done; harm that nobody has noticed yet is for the judgement."""
        return next(self._to_be_done(), "")

    def _to_be_done(self) -> Iterator[str]:
        world = self.world
        if world.on_their_way or world.truncations or world.erasures:
            yield "requests on their way, or tenants that are being forgotten"
        if world.frozen_until > world.now:
            yield "somebody who is frozen"
        for tenant, known in world.tenants.items():
            if known.lease_until > world.now:
                yield f"the lease of {tenant}"
        for (rebuild_id, tenant), part in world.parts.items():
            owned = part.state == "running" and part.owned_until > world.now
            # Those of the mender that it has not ended are left, where others mended meanwhile.
            resumed = not self.left_alone and rebuild_id.startswith("rebuild")
            if owned or (resumed and part.state in {"waiting", "running"}):
                yield f"the rebuild {rebuild_id} of {tenant}"
        if damaged := FakeRegistry(world).damaged():
            yield f"the rebuild of {sorted(damaged)}"
        for change in world.changes.values():
            if not self._is_for_a_person(change.tenant):
                yield f"{change}"

    def _is_for_a_person(self, tenant: TenantId) -> bool:
        """Say whether a tenant was damaged so often that nobody rebuilds it by himself."""
        world = self.world
        known = world.tenants.get(tenant)
        if known is None or known.live is None:
            return False
        bad = world.generations[known.live].state in {"corrupt", "lost"}
        return bad and tenant not in FakeRegistry(world).damaged()

    def _judge(self) -> None:
        """Verify; what it says has to be so; repair what was spoilt; everything has to be equal."""
        world = self.world
        core = Core(world)
        for tenant in TENANTS:
            if tenant not in world.tenants:
                continue
            live = world.tenants[tenant].live
            wrong = set() if live is None else set(invariants.differing(world, tenant, live))
            wrong -= {i for (t, i), f in world.failures.items() if t == tenant and f.buried}
            verified = core.verify.run(tenant, sample=None)
            found = {f.memory_id for f in verified.findings}
            if None not in found and found != wrong:
                raise Broken(f"P8: verify of {tenant} finds {found}, wrong are {wrong}")
            actors.tell_the_truth(world, verified, {i for _, i in world.spoilt}, set())
            if found:
                last = core.repair.run(tenant, sample=None).after
                if last.findings:
                    raise Broken(f"P8: a repair of {tenant} leaves {last.findings}")
                self._try_again(core, tenant)
        invariants.in_the_end(world)

    def _try_again(self, core: Core, tenant: TenantId) -> None:
        """Do what workers do of what a repair has met: poison is tried as often as it may be."""
        world = self.world
        for _ in range(world.settings.max_attempts):
            if not any(change.tenant == tenant for change in world.changes.values()):
                return
            world.now += world.settings.retry_max_seconds
            core.sync.run(tenant)
