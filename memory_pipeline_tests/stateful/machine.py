"""Anything that an application, workers, rebuilds and chance may do, in any order."""

from contextlib import suppress
from typing import cast

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
from memory_pipeline_tests.stateful.faults import KINDS, Plan
from memory_pipeline_tests.stateful.world import WORKERS, Act, World

# A batch of a tenant makes some 13 calls of its ports, a rebuild some 40.
CALLS_OF_A_BATCH = 16
CALLS_OF_A_REBUILD = 45

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
        hot_statements, statements, st.sampled_from(["take over", "expire", "take over", "rebuild"])
    ),
    min_size=1,
    max_size=3,
)


def plans(calls: int) -> st.SearchStrategy[Plan]:
    """Strike one of so many calls."""
    return st.builds(Plan, kind=st.sampled_from(KINDS), at=st.integers(0, calls))


def pauses(calls: int) -> st.SearchStrategy[Plan]:
    """Freeze the process before one of so many calls."""
    return st.builds(Plan, kind=st.just("meanwhile"), at=st.integers(0, calls))


class _Undone(Exception):
    """The application changes its mind."""


class Machine(RuleBasedStateMachine):
    """The rules. What has to be true after each stands in ``World.check``."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.begun = False
        self.restarts = False

    @initialize(trust=st.booleans(), chance=st.integers(0, 15))
    def begin(self, *, trust: bool, chance: int) -> None:
        """Begin with nothing. A restart of Chroma takes a second, so few examples have one."""
        self.world.begin(trust=trust)
        self.begun, self.restarts = True, chance == 15

    # ---- the application

    @rule(some=st.lists(writes, min_size=1, max_size=4))
    def write(self, some: list[Statement]) -> None:
        """Write memories, each by itself."""
        for statement in some:
            self.world.application.do(statement)

    @rule(statement=statements)
    def change(self, statement: Statement) -> None:
        """Do one thing to one memory."""
        self.world.application.do(statement)

    @rule(some=few_statements, undone=st.booleans())
    def do_together(self, some: list[Statement], *, undone: bool) -> None:
        """Do several things in one transaction, which may be rolled back."""
        with suppress(_Undone), self.world.db.transaction():
            for statement in some:
                self.world.application.do(statement)
            if undone:
                raise _Undone

    @rule(kept=few_statements, undone=few_statements)
    def do_half(self, kept: list[Statement], undone: list[Statement]) -> None:
        """Roll back to a savepoint in the middle of a transaction."""
        with self.world.db.transaction():
            for statement in kept:
                self.world.application.do(statement)
            with suppress(_Undone), self.world.db.transaction():
                for statement in undone:
                    self.world.application.do(statement)
                raise _Undone

    @rule(some=st.lists(writes, min_size=1, max_size=5))
    def copy(self, some: list[Statement]) -> None:
        """COPY memories in."""
        self.world.application.copy(some)

    @rule(restart=st.booleans(), then=st.lists(writes, max_size=3))
    def truncate(self, *, restart: bool, then: list[Statement]) -> None:
        """TRUNCATE, and write again in the same transaction."""
        self.world.application.truncate(restart=restart, then=then)

    @precondition(lambda self: self.begun and not self.world.application.held)
    @rule(some=few_statements)
    def begin_slowly(self, some: list[Statement]) -> None:
        """Begin a transaction that stays open over other steps, and is overtaken by them."""
        for statement in some:
            self.world.application.do(statement, on=self.world.slow)
        self.world.application.held = {statement.id for statement in some}

    @precondition(lambda self: self.begun and self.world.application.held)
    @rule(kept=st.booleans())
    def end_slowly(self, *, kept: bool) -> None:
        """Commit it after all, or not."""
        (self.world.slow.commit if kept else self.world.slow.rollback)()
        self.world.application.held = set()

    # ---- the pipeline

    @rule(number=workers, tenant=tenants)
    def work(self, number: int, tenant: int) -> None:
        """A worker brings one batch."""
        self.world.work(number, tenant)

    @rule(number=workers, tenant=tenants, plan=plans(CALLS_OF_A_BATCH))
    def work_and_fail(self, number: int, tenant: int, plan: Plan) -> None:
        """A worker dies in the middle of a batch, or what it calls fails in one of three ways."""
        self.world.work(number, tenant, plan)

    @rule(number=workers, tenant=tenants, plan=pauses(CALLS_OF_A_BATCH), acts=acts)
    def work_as_a_zombie(self, number: int, tenant: int, plan: Plan, acts: list[Act]) -> None:
        """A worker is frozen in the middle of a batch; others act, and then it goes on."""
        self.world.work(number, tenant, plan, acts)

    @rule()
    def expire(self) -> None:
        """Leases end; requests may still be on their way."""
        self.world.expire()

    @rule()
    def land(self) -> None:
        """What was sent long ago lands."""
        self.world.faults.land()

    @rule()
    def pass_time(self) -> None:
        """Hours pass."""
        self.world.pass_time()

    @rule(tenant=tenants, chunk=chunks, resume=st.booleans())
    def rebuild(self, tenant: int, chunk: int, *, resume: bool) -> None:
        """A tenant is rebuilt from the start to the flip, or from where it was left."""
        self.world.rebuild(tenant, chunk=chunk, resume=resume)

    @rule(tenant=tenants, chunk=chunks, resume=st.booleans(), plan=plans(CALLS_OF_A_REBUILD))
    def rebuild_and_fail(self, tenant: int, chunk: int, plan: Plan, *, resume: bool) -> None:
        """A rebuild dies in a chunk, at the flip, anywhere; or what it calls fails."""
        self.world.rebuild(tenant, chunk=chunk, resume=resume, plan=plan)

    @rule(tenant=tenants, chunk=chunks, plan=pauses(CALLS_OF_A_REBUILD), acts=acts)
    def rebuild_as_a_zombie(self, tenant: int, chunk: int, plan: Plan, acts: list[Act]) -> None:
        """A rebuild is frozen; others act, and then it goes on."""
        self.world.rebuild(tenant, chunk=chunk, resume=True, plan=plan, acts=acts)

    # ---- people and chance

    @rule(tenant=tenants, ids=st.lists(st.integers(1, IDS), max_size=3))
    def replay(self, tenant: int, ids: list[int]) -> None:
        """An operator has memories looked at again, whether they exist or not."""
        self.world.replay(tenant, ids)

    @rule(tenant=tenants, text=st.integers(0, len(TEXTS) - 2))  # the last is poison, as a query too
    def search(self, tenant: int, text: int) -> None:
        """Somebody searches."""
        self.world.search(tenant, text)

    @rule()
    def retire(self) -> None:
        """Old collections are dropped."""
        self.world.retire()

    @rule(tenant=tenants, building=st.booleans())
    def destroy(self, tenant: int, *, building: bool) -> None:
        """Somebody deletes a collection."""
        self.world.destroy(tenant, building=building)

    @precondition(lambda self: self.restarts)
    @rule()
    def restart_chroma(self) -> None:
        """Chroma is restarted, once an example."""
        self.restarts = False
        self.world.restart_chroma()

    # ---- what has to be true

    @invariant()
    def promises_hold(self) -> None:
        """After every step."""
        if self.begun:
            self.world.check()

    def teardown(self) -> None:
        """At the end everything heals, and all is as Postgres says."""
        if self.begun and not self.world.broken:
            self.world.settle()


def explore(world: World, how: settings) -> None:
    """Run examples. Raises Violation, with the steps of the shortest example found."""
    factory = cast("type[Machine]", lambda: Machine(world))  # hypothesis calls it, and no more
    run_state_machine_as_test(factory, settings=how)
