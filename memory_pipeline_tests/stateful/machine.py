"""Anything that an application, workers, rebuilds and chance may do, in any order."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, TypeVar, cast

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from memory_pipeline_tests.stateful.application import IDS, TENANTS, TEXTS, VERBS, Statement
from memory_pipeline_tests.stateful.checks import Violation
from memory_pipeline_tests.stateful.faults import KINDS, Plan
from memory_pipeline_tests.stateful.world import WORKERS, Act, World

# A batch of a tenant makes some 13 calls of its ports, a rebuild some 40; and which of them matter.
BATCH = (16, ("claim", "read", "embed", "back_up", "send", "delete", "ack"))
REBUILD = (45, ("register", "read", "back_up", "send", "chunk_done", "page", "flip"))

tenants = st.integers(0, TENANTS - 1)
workers = st.integers(0, WORKERS - 1)
texts = st.integers(0, len(TEXTS) - 1)
chunks = st.integers(1, 4)
statements = st.builds(
    Statement, verb=st.sampled_from(VERBS), id=st.integers(1, IDS), tenant=tenants, text=texts
)
writes = st.builds(
    Statement, verb=st.just("write"), id=st.integers(1, IDS), tenant=tenants, text=texts
)
few_statements = st.lists(statements, min_size=1, max_size=4)
hot_statements = st.builds(
    Statement,
    verb=st.sampled_from(VERBS),
    id=st.integers(1, IDS),
    tenant=tenants,
    text=texts,
    hot=st.just(value=True),
)
acts: st.SearchStrategy[list[Act]] = st.lists(
    st.one_of(
        hot_statements,
        statements,
        st.sampled_from(["take over", "expire", "take over", "rebuild", "land", "commit"]),
    ),
    min_size=1,
    max_size=3,
)


def plans(calls: int, aimed: Sequence[str]) -> st.SearchStrategy[Plan]:
    """Strike one of so many calls, or one of those that matter."""
    return _planned(st.sampled_from(KINDS), calls, aimed)


def pauses(calls: int, aimed: Sequence[str]) -> st.SearchStrategy[Plan]:
    """Freeze the process before one of so many calls, or before one of those that matter."""
    return _planned(st.just("meanwhile"), calls, aimed)


def _planned(
    kinds: st.SearchStrategy[Any], calls: int, aimed: Sequence[str]
) -> st.SearchStrategy[Plan]:
    return st.one_of(
        st.builds(Plan, kind=kinds, at=st.integers(0, calls)),
        st.builds(Plan, kind=kinds, at=st.integers(0, 1), call=st.sampled_from(aimed)),
    )


class _Undone(Exception):
    """The application changes its mind."""


@dataclass(frozen=True, slots=True)
class Step:
    """A rule, and how it was called."""

    rule: str
    how: dict[str, Any]


Rule = TypeVar("Rule", bound=Callable[..., None])


def noted(function: Rule) -> Rule:
    """Note every call of a rule, so that the same steps can be done again."""

    @wraps(function)
    def call(self: "Machine", **how: Any) -> None:
        self.steps.append(Step(function.__name__, how))
        with self.noting_violations():
            function(self, **how)

    return cast("Rule", call)


def step(**strategies: Any) -> Callable[[Rule], Any]:
    """Make a rule whose calls are noted."""
    made: Callable[[Any], Any] = rule(**strategies)
    return lambda function: made(noted(function))


class Machine(RuleBasedStateMachine):
    """The rules. What has to be true after each stands in ``World.check``."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.steps: list[Step] = []
        self.begun = False
        self.broken = False
        self.restarts = False

    @contextmanager
    def noting_violations(self) -> Iterator[None]:
        """Note the steps to the first violation."""
        try:
            yield
        except BaseException as error:
            self.broken = True
            if isinstance(error, Violation) and self.world.violated is None:
                self.world.violated = (str(error), tuple(self.steps))
            raise

    @initialize(trust=st.booleans(), chance=st.integers(0, 15))
    @noted
    def begin(self, *, trust: bool, chance: int) -> None:
        """Begin with nothing. A restart of Chroma takes a second, so few examples have one."""
        self.world.begin(trust=trust)
        self.begun, self.restarts = True, chance == 15

    # ---- the application

    @step(some=st.lists(writes, min_size=1, max_size=4))
    def write(self, some: list[Statement]) -> None:
        """Write memories, each by itself."""
        for statement in some:
            self.world.application.do(statement)

    @step(statement=statements)
    def change(self, statement: Statement) -> None:
        """Do one thing to one memory."""
        self.world.application.do(statement)

    @step(some=few_statements, undone=st.booleans())
    def do_together(self, some: list[Statement], *, undone: bool) -> None:
        """Do several things in one transaction, which may be rolled back."""
        with suppress(_Undone), self.world.db.transaction():
            for statement in some:
                self.world.application.do(statement)
            if undone:
                raise _Undone

    @step(kept=few_statements, undone=few_statements)
    def do_half(self, kept: list[Statement], undone: list[Statement]) -> None:
        """Roll back to a savepoint in the middle of a transaction."""
        with self.world.db.transaction():
            for statement in kept:
                self.world.application.do(statement)
            with suppress(_Undone), self.world.db.transaction():
                for statement in undone:
                    self.world.application.do(statement)
                raise _Undone

    @step(some=st.lists(writes, min_size=1, max_size=5))
    def copy(self, some: list[Statement]) -> None:
        """COPY memories in."""
        self.world.application.copy(some)

    @step(restart=st.booleans(), then=st.lists(writes, max_size=3))
    def truncate(self, *, restart: bool, then: list[Statement]) -> None:
        """TRUNCATE, and write again in the same transaction."""
        self.world.application.truncate(restart=restart, then=then)

    @precondition(lambda self: self.begun and not self.world.application.held)
    @step(some=few_statements)
    def begin_slowly(self, some: list[Statement]) -> None:
        """Begin a transaction that stays open over other steps, and is overtaken by them."""
        for statement in some:
            self.world.application.do(statement, on=self.world.slow)
        self.world.application.held = {statement.id for statement in some}

    @precondition(lambda self: self.begun and self.world.application.held)
    @step(kept=st.booleans())
    def end_slowly(self, *, kept: bool) -> None:
        """Commit it after all, or not."""
        self.world.end_slowly(kept=kept)

    # ---- the pipeline

    @step(number=workers, tenant=tenants)
    def work(self, number: int, tenant: int) -> None:
        """A worker brings one batch."""
        self.world.work(number, tenant)

    @step(some=st.lists(writes, max_size=2), number=workers, tenant=tenants, plan=plans(*BATCH))
    def work_and_fail(self, some: list[Statement], number: int, tenant: int, plan: Plan) -> None:
        """A worker dies in the middle of a batch, or what it calls fails in one of three ways."""
        self._write_for(tenant, some)
        self.world.work(number, tenant, plan)

    @step(
        some=st.lists(writes, max_size=2),
        number=workers,
        tenant=tenants,
        plan=pauses(BATCH[0], ("claim", "back_up", "send", "ack")),
        acts=acts,
    )
    def work_as_a_zombie(
        self, some: list[Statement], number: int, tenant: int, plan: Plan, acts: list[Act]
    ) -> None:
        """A worker is frozen in the middle of a batch; others act, and then it goes on."""
        self._write_for(tenant, some)
        self.world.work(number, tenant, plan, acts)

    @step(some=st.lists(writes, min_size=1, max_size=2), act=hot_statements, tenant=tenants)
    def die_and_be_overtaken(self, some: list[Statement], act: Statement, tenant: int) -> None:
        """A worker dies; what it sent lands when another has taken over and written newer rows."""
        self._write_for(tenant, some)
        self.world.work(0, tenant, Plan("late and crash", 0, "send"))
        self.world.application.do(self.world.aimed(act, self.world.tenant(tenant)))
        self.world.expire()
        self.world.work(1, tenant)
        self.world.faults.land()

    def _write_for(self, tenant: int, some: list[Statement]) -> None:
        for statement in some:
            self.world.application.do(replace(statement, tenant=tenant))

    @step()
    def expire(self) -> None:
        """Leases end; requests may still be on their way."""
        self.world.expire()

    @step()
    def land(self) -> None:
        """What was sent long ago lands."""
        self.world.faults.land()

    @step()
    def pass_time(self) -> None:
        """Hours pass."""
        self.world.pass_time()

    @step(tenant=tenants, chunk=chunks, resume=st.booleans())
    def rebuild(self, tenant: int, chunk: int, *, resume: bool) -> None:
        """A tenant is rebuilt from the start to the flip, or from where it was left."""
        self.world.rebuild(tenant, chunk=chunk, resume=resume)

    @step(tenant=tenants, chunk=chunks, resume=st.booleans(), plan=plans(*REBUILD))
    def rebuild_and_fail(self, tenant: int, chunk: int, plan: Plan, *, resume: bool) -> None:
        """A rebuild dies in a chunk, at the flip, anywhere; or what it calls fails."""
        self.world.rebuild(tenant, chunk=chunk, resume=resume, plan=plan)

    @step(tenant=tenants, chunk=chunks, plan=pauses(*REBUILD), acts=acts)
    def rebuild_as_a_zombie(self, tenant: int, chunk: int, plan: Plan, acts: list[Act]) -> None:
        """A rebuild is frozen; others act, and then it goes on."""
        self.world.rebuild(tenant, chunk=chunk, resume=True, plan=plan, acts=acts)

    # ---- people and chance

    @step(tenant=tenants, ids=st.lists(st.integers(1, IDS), max_size=3))
    def replay(self, tenant: int, ids: list[int]) -> None:
        """An operator has memories looked at again, whether they exist or not."""
        self.world.replay(tenant, ids)

    @step(tenant=tenants, text=st.integers(0, len(TEXTS) - 2))  # the last is poison, as a query too
    def search(self, tenant: int, text: int) -> None:
        """Somebody searches."""
        self.world.search(tenant, text)

    @step(memory=st.integers(1, IDS), tenant=tenants)
    def move_and_search(self, memory: int, tenant: int) -> None:
        """A memory changes hands, and whoever had it searches before anybody was told."""
        self.world.move_and_search(memory, tenant)

    @step()
    def retire(self) -> None:
        """Old collections are dropped."""
        self.world.retire()

    @step(tenant=tenants, building=st.booleans())
    def destroy(self, tenant: int, *, building: bool) -> None:
        """Somebody deletes a collection."""
        self.world.destroy(tenant, building=building)

    @precondition(lambda self: self.restarts)
    @step()
    def restart_chroma(self) -> None:
        """Chroma is restarted, once an example."""
        self.restarts = False
        self.world.restart_chroma()

    # ---- what has to be true

    @invariant()
    def promises_hold(self) -> None:
        """After every step."""
        if self.begun:
            with self.noting_violations():
                self.world.check()

    def teardown(self) -> None:
        """At the end everything heals, and all is as Postgres says."""
        if self.begun and not self.broken:
            with self.noting_violations():
                self.world.settle()


def explore(world: World, how: settings) -> None:
    """Run examples. Raises Violation, with the steps of the shortest example found."""
    factory = cast("type[Machine]", lambda: Machine(world))  # hypothesis calls it, and no more
    run_state_machine_as_test(factory, settings=how)


def perform(world: World, steps: Sequence[Step]) -> None:
    """Do steps that were written down, as if chance had chosen them. Raises Violation."""
    machine = Machine(world)
    for one in steps:
        getattr(machine, one.rule)(**one.how)
        machine.promises_hold()
    machine.teardown()
