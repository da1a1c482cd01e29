"""The order of turns: no tenant waits behind another's backlog, and no backlog for ever."""

from dataclasses import dataclass, field
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from memory_pipeline.backoff import Backoff
from memory_pipeline.domain.outcomes import Outcome, Verdict
from memory_pipeline.domain.types import TenantId
from memory_pipeline.worker.tenant_scheduler import (
    BACKLOGS_AT_ONCE,
    BUSY_BACKOFF,
    ERROR_BACKOFF,
    TenantScheduler,
)

AT_ONCE = 4
ADA, BOB, EVE = TenantId("ada"), TenantId("bob"), TenantId("eve")
HERE, THERE = UUID(int=1), UUID(int=2)


def tenants(prefix: str, count: int) -> list[TenantId]:
    """Return some tenants."""
    return [TenantId(f"{prefix}-{n}") for n in range(count)]


def done(tenant: TenantId, *, more: bool = False) -> Outcome:
    """Return the outcome of a turn that succeeded; ``more``: changes are left."""
    return Outcome(tenant, "done", more=more)


def with_backlogs(*backlogs: TenantId, concurrency: int = AT_ONCE) -> TenantScheduler:
    """Return a scheduler that knows these backlogs, the least recently served first."""
    turns = TenantScheduler(concurrency)
    for second, tenant in enumerate(backlogs):
        turns.update_pending([*backlogs[:second], tenant])
        turns._turns.add(tenant)
        turns.finish(done(tenant, more=True), float(second - len(backlogs)))
    return turns


# ---- oldest first, and no tenant twice


def test_the_oldest_change_goes_first() -> None:
    """Turns begin in the order of the query, as many as there are slots."""
    turns = TenantScheduler(2)
    turns.update_pending([EVE, ADA, BOB])
    assert turns.start_next(0.0) == [EVE, ADA]
    assert turns.start_next(0.0) == []
    turns.finish(done(ADA), 0.0)
    assert turns.start_next(0.0) == [BOB]


def test_no_tenant_has_two_turns_at_once() -> None:
    """A tenant that is pending again while its turn runs waits for the turn's end."""
    turns = TenantScheduler(AT_ONCE)
    turns.update_pending([ADA])
    assert turns.start_next(0.0) == [ADA]
    turns.update_pending([ADA, BOB])
    assert turns.start_next(0.0) == [BOB]
    turns.finish(done(ADA), 0.0)
    assert turns.start_next(0.0) == [ADA]


def test_a_tenant_without_changes_gets_no_turn() -> None:
    """Each query replaces the one before: changes that another worker synced are not repeated."""
    turns = TenantScheduler(1)
    turns.update_pending([ADA, BOB, EVE])
    assert turns.start_next(0.0) == [ADA]
    turns.update_pending([EVE])
    turns.finish(done(ADA), 0.0)
    assert turns.start_next(0.0) == [EVE]
    turns.finish(done(EVE), 0.0)
    assert turns.start_next(0.0) == []


def test_every_end_of_a_turn_frees_its_slot() -> None:
    """Whatever the verdict, the next turn may begin."""
    turns = TenantScheduler(AT_ONCE)
    verdicts: list[Verdict] = ["done", "busy", "fenced", "postponed"]
    named = tenants("t", len(verdicts))
    turns.update_pending(named)
    assert turns.start_next(0.0) == named
    for left, (tenant, verdict) in enumerate(zip(named, verdicts, strict=True), start=1):
        turns.finish(Outcome(tenant, verdict), 0.0)
        assert turns.running == AT_ONCE - left


# ---- backlogs


def test_small_changes_run_before_a_second_backlog() -> None:
    """One slot is reserved for a backlog; the others are for tenants with a change or two."""
    big = tenants("big", 3)
    small = tenants("small", 5)
    turns = with_backlogs(*big)
    turns.update_pending([*big, *small])  # the backlogs' changes are the oldest
    assert turns.start_next(0.0) == [big[0], *small[: AT_ONCE - 1]]


def test_at_most_two_backlogs_run_at_once() -> None:
    """However many slots are free: a third would only make small writes wait longer."""
    big = tenants("big", 5)
    turns = with_backlogs(*big, concurrency=16)
    assert turns.start_next(0.0) == big[:BACKLOGS_AT_ONCE]
    turns.update_pending(big)
    assert turns.start_next(0.0) == []
    turns.update_pending(big[BACKLOGS_AT_ONCE:])  # all changes of the two are claimed
    assert turns.start_next(0.0) == []
    turns.finish(done(big[1], more=True), 1.0)
    assert turns.start_next(1.0) == [big[2]]


def test_the_backlog_that_was_served_longest_ago_goes_first() -> None:
    """Backlogs take turns with each other."""
    big = tenants("big", 3)
    turns = with_backlogs(*big)
    served: list[TenantId] = []
    for second in range(6):
        turns.update_pending([*big, *tenants(f"small-{second}", 20)])
        begun = turns.start_next(float(second))
        served += [t for t in begun if t in big]
        for tenant in begun:
            turns.finish(done(tenant, more=tenant in big), second + 0.5)
    assert served == big * 2


def test_a_stream_of_small_changes_starves_no_backlog() -> None:
    """However many others have older changes, each round that has no backlog begins one."""
    turns = with_backlogs(ADA)
    served = 0
    for second in range(50):
        turns.update_pending([*tenants(f"small-{second}", 20), ADA])
        begun = turns.start_next(float(second))
        assert len(begun) == AT_ONCE
        served += ADA in begun
        for tenant in begun:
            turns.finish(done(tenant, more=tenant == ADA), second + 0.5)
    assert served == 50


def test_a_backlog_that_is_under_way_keeps_no_small_change_waiting() -> None:
    """While one or two backlogs run, a tenant with one change begins at once."""
    turns = with_backlogs(ADA, BOB)
    assert turns.start_next(0.0) == [ADA, BOB]
    for second in range(20):
        (small,) = tenants(f"small-{second}", 1)
        turns.update_pending([ADA, BOB, small])  # their changes stay until they are acked
        assert turns.start_next(float(second)) == [small]
        turns.finish(done(small), second + 0.5)


def test_a_backlog_continues_without_another_query() -> None:
    """A tenant that is known to have more needs no query first: the query costs time."""
    turns = TenantScheduler(AT_ONCE)
    turns.update_pending([ADA])
    for second in range(5):
        assert turns.start_next(float(second)) == [ADA]
        turns.finish(done(ADA, more=True), second + 0.5)


def test_a_backlog_that_is_done_counts_no_longer() -> None:
    """A tenant whose backlog is done is served like every other tenant, at once."""
    turns = with_backlogs(ADA, BOB, EVE)
    assert turns.start_next(0.0) == [ADA, BOB]
    turns.finish(done(ADA), 1.0)
    turns.update_pending([BOB, ADA, EVE])
    assert turns.start_next(1.0) == [ADA, EVE]


def test_a_backlog_that_another_worker_synced_counts_no_longer() -> None:
    """A query without the tenant shows it."""
    turns = with_backlogs(ADA, BOB, EVE)
    turns.update_pending([ADA, BOB])
    assert turns.start_next(0.0) == [ADA, BOB]
    turns.update_pending([ADA, BOB, EVE])
    assert turns.start_next(0.0) == [EVE]


# ---- back-off


@pytest.mark.parametrize(
    ("verdict", "backoff"),
    [
        ("busy", BUSY_BACKOFF),
        ("fenced", BUSY_BACKOFF),
        ("postponed", ERROR_BACKOFF),
        ("refused", ERROR_BACKOFF),
        ("damaged", ERROR_BACKOFF),
    ],
)
def test_a_failing_tenant_backs_off(verdict: Verdict, backoff: Backoff) -> None:
    """Longer each time, up to a limit; after a success the pause is short again."""
    turns, now, pause = TenantScheduler(AT_ONCE), 100.0, backoff.first_seconds
    turns.update_pending([ADA])
    for _ in range(12):
        assert turns.start_next(now) == [ADA]
        turns.finish(Outcome(ADA, verdict), now)
        assert turns.wait_seconds(now, 1000.0) == pytest.approx(pause)
        assert turns.start_next(now + pause - 0.001) == []
        now += pause
        pause = min(pause * 2, backoff.limit_seconds)
    assert pause == backoff.limit_seconds
    assert turns.start_next(now) == [ADA]
    turns.finish(done(ADA), now)
    turns.update_pending([ADA])
    assert turns.start_next(now) == [ADA]
    turns.finish(Outcome(ADA, verdict), now)
    assert turns.wait_seconds(now, 1000.0) == pytest.approx(backoff.first_seconds)


def test_a_pausing_tenant_delays_no_other() -> None:
    """Failing tenants take no slot, however old their changes are."""
    turns = TenantScheduler(AT_ONCE)
    broken, well = tenants("broken", 10), tenants("well", 4)
    turns.update_pending(broken)
    while begun := turns.start_next(0.0):
        for tenant in begun:
            turns.finish(Outcome(tenant, "postponed"), 0.0)
    turns.update_pending([*broken, *well])
    assert turns.start_next(0.1) == well


def test_a_pausing_backlog_takes_no_backlogs_slot() -> None:
    """The next one runs instead."""
    turns = with_backlogs(ADA, BOB, EVE)
    assert turns.start_next(0.0) == [ADA, BOB]
    turns.finish(Outcome(ADA, "postponed"), 0.0)
    assert turns.start_next(0.0) == [EVE]


def test_a_reset_ends_every_pause() -> None:
    """``reset_backoff`` lets every tenant retry at once; the next pause is short again."""
    turns = TenantScheduler(AT_ONCE)
    turns.update_pending([ADA, BOB])
    for _ in range(3):
        for tenant in turns.start_next(0.0):
            turns.finish(Outcome(tenant, "postponed"), 0.0)
        turns.reset_backoff()
    assert turns.start_next(0.0) == [ADA, BOB]
    turns.finish(Outcome(ADA, "postponed"), 0.0)
    assert turns.wait_seconds(0.0, 1000.0) == pytest.approx(ERROR_BACKOFF.first_seconds)


def test_a_pause_does_not_grow_by_old_failures() -> None:
    """Losing a race now and then is no failure: another worker had the tenant for a batch."""
    turns = TenantScheduler(AT_ONCE)
    for now in range(0, 500, 50):
        turns.update_pending([ADA])
        assert turns.start_next(float(now)) == [ADA]
        turns.finish(Outcome(ADA, "busy"), float(now))
        assert turns.wait_seconds(float(now), 1000.0) == pytest.approx(BUSY_BACKOFF.first_seconds)
        turns.update_pending([])  # the other worker has synced it
        assert turns.start_next(now + 1.0) == []


def test_an_error_after_a_lost_race_pauses_as_an_error_does() -> None:
    """The verdict decides how long the first pause is."""
    turns = TenantScheduler(AT_ONCE)
    turns.update_pending([ADA])
    assert turns.start_next(0.0) == [ADA]
    turns.finish(Outcome(ADA, "busy"), 0.0)
    assert turns.start_next(1.0) == [ADA]
    turns.finish(Outcome(ADA, "postponed"), 1.0)
    assert turns.wait_seconds(1.0, 1000.0) >= ERROR_BACKOFF.first_seconds


def test_waiting_ends_when_the_first_pause_does() -> None:
    """The loop wakes neither too early nor too late."""
    turns = TenantScheduler(AT_ONCE)
    turns.update_pending([ADA, BOB])
    assert turns.wait_seconds(0.0, 0.25) == 0.25
    turns.start_next(0.0)
    turns.finish(Outcome(ADA, "postponed"), 0.0)
    turns.finish(Outcome(BOB, "busy"), 0.0)
    assert turns.wait_seconds(0.0, 0.25) == pytest.approx(BUSY_BACKOFF.first_seconds)
    assert turns.wait_seconds(BUSY_BACKOFF.first_seconds, 0.25) == 0.25
    assert turns.wait_seconds(ERROR_BACKOFF.first_seconds - 0.1, 0.25) == pytest.approx(0.1)
    assert turns.wait_seconds(0.0, -1.0) == 0.0


# ---- several servers


def test_no_server_has_more_than_its_share() -> None:
    """Turns that hang on one server leave slots to the tenants of the others."""
    here, there = tenants("here", 6), tenants("there", 3)
    servers = dict.fromkeys(here, HERE) | dict.fromkeys(there, THERE)
    turns = TenantScheduler(8, per_server_limit=AT_ONCE)
    turns.update_pending([*here, *there], servers)
    assert turns.start_next(0.0) == [*here[:AT_ONCE], *there]
    turns.finish(done(there[0]), 0.0)
    turns.update_pending([*here, there[0]], servers)
    assert turns.start_next(0.0) == [there[0]]
    turns.finish(done(here[0]), 0.0)
    turns.update_pending(here[1:], servers)
    assert turns.start_next(0.0) == [here[AT_ONCE]]


def test_a_new_tenant_has_no_server_and_no_limit() -> None:
    """A tenant's first turn chooses its server."""
    new = tenants("new", 6)
    turns = TenantScheduler(8, per_server_limit=2)
    turns.update_pending(new, dict.fromkeys(new))
    assert turns.start_next(0.0) == new


def test_no_turn_begins_on_an_unwritable_server() -> None:
    """Its tenants stay in the queue until it takes writes again."""
    turns = TenantScheduler(AT_ONCE)
    turns.update_pending([ADA, BOB, EVE], {ADA: HERE, BOB: THERE, EVE: None})
    assert turns.start_next(0.0, unwritable={HERE}) == [BOB, EVE]
    assert turns.start_next(0.0, unwritable={HERE}) == []
    assert turns.start_next(0.0) == [ADA]


# ---- any order


@dataclass
class World:
    """The batches of each tenant, the age of its oldest change, and the running turns."""

    batches: dict[TenantId, int] = field(default_factory=dict)
    since: dict[TenantId, int] = field(default_factory=dict)
    running: set[TenantId] = field(default_factory=set)
    # Tenants with changes left after their last turn, and in every query since.
    backlogs: set[TenantId] = field(default_factory=set)

    def pending(self) -> list[TenantId]:
        """Return the tenants with changes, oldest first, running ones included."""
        return sorted((t for t, left in self.batches.items() if left), key=lambda t: self.since[t])


class AnyOrder(RuleBasedStateMachine):
    """Changes, queries, beginnings and ends of turns in any order."""

    named = tenants("t", 9)
    verdicts: tuple[Verdict, ...] = ("busy", "fenced", "postponed", "damaged")

    @initialize(concurrency=st.integers(3, 6))
    def start(self, concurrency: int) -> None:
        """Begin with nothing."""
        self.turns = TenantScheduler(concurrency)
        self.world = World()
        self.now = 0.0
        self.changes = 0
        self.queried: list[TenantId] = []

    @rule(tenant=st.sampled_from(named), batches=st.integers(1, 5))
    def change(self, tenant: TenantId, batches: int) -> None:
        """The application writes some batches."""
        self.changes += 1
        if not self.world.batches.get(tenant):
            self.world.since[tenant] = self.changes
        self.world.batches[tenant] = self.world.batches.get(tenant, 0) + batches

    @rule()
    def update_pending(self) -> None:
        """The loop queries the pending tenants."""
        self.queried = self.world.pending()
        self.turns.update_pending(self.queried)
        self.world.backlogs &= {*self.queried, *self.world.running}

    @rule(seconds=st.sampled_from([0.0, 0.05, 0.4, 3.0]))
    def start_next(self, seconds: float) -> None:
        """Some time later, turns begin."""
        self.now += seconds
        before = set(self.world.running)
        begun = self.turns.start_next(self.now)
        assert len(set(begun)) == len(begun)
        assert not before.intersection(begun)
        self.world.running |= set(begun)
        assert len(self.world.running) <= self.turns.concurrency
        large = [t for t in begun if t in self.world.backlogs]
        assert len(self.world.running & self.world.backlogs) <= BACKLOGS_AT_ONCE
        # A second backlog begins only when no small tenant is left waiting.
        small = [t for t in begun if t not in self.world.backlogs]
        left = [
            t
            for t in self.turns._queue
            if t not in self.world.backlogs
            and t not in self.world.running
            and not self.turns._pauses_at(t, self.now)
        ]
        if left:
            assert len(large) <= 1
            assert len(self.world.running) == self.turns.concurrency
        # Among the tenants of the last query, the oldest begin.
        named = [t for t in self.queried if t in small or t in left]
        assert [t for t in small if t in named] == named[: len([t for t in small if t in named])]

    @precondition(lambda self: self.world.running)
    @rule(data=st.data())
    def succeeds(self, data: st.DataObject) -> None:
        """A turn syncs a batch."""
        tenant = data.draw(st.sampled_from(sorted(self.world.running)))
        left = max(0, self.world.batches.get(tenant, 0) - 1)
        self.world.batches[tenant] = left
        self.world.running.discard(tenant)
        self.turns.finish(done(tenant, more=left > 0), self.now)
        (self.world.backlogs.add if left else self.world.backlogs.discard)(tenant)

    @precondition(lambda self: self.world.running)
    @rule(data=st.data(), verdict=st.sampled_from(verdicts))
    def fails(self, data: st.DataObject, verdict: Verdict) -> None:
        """A turn syncs nothing."""
        tenant = data.draw(st.sampled_from(sorted(self.world.running)))
        self.world.running.discard(tenant)
        self.turns.finish(Outcome(tenant, verdict), self.now)

    @precondition(lambda self: any(self.world.batches.values()))
    @rule(data=st.data())
    def another_worker_syncs_it(self, data: st.DataObject) -> None:
        """Another worker syncs a tenant; the next query does not return it."""
        tenant = data.draw(st.sampled_from(self.world.pending()))
        self.world.batches[tenant] = 0

    @rule()
    def every_pause_ends(self) -> None:
        """A dependency is available again."""
        self.turns.reset_backoff()

    @invariant()
    def running_turns_are_counted(self) -> None:
        """The scheduler's turns are the turns that run."""
        if hasattr(self, "turns"):
            assert self.turns._turns == self.world.running

    def teardown(self) -> None:
        """Once every turn succeeds, every change is synced within the longest pause."""
        if not hasattr(self, "turns"):
            return
        until = self.now + ERROR_BACKOFF.limit_seconds + 1
        while self.world.pending() or self.world.running:
            self.update_pending()
            self.start_next(0.0)
            for tenant in sorted(self.world.running):
                left = max(0, self.world.batches.get(tenant, 0) - 1)
                self.world.batches[tenant] = left
                self.world.running.discard(tenant)
                self.turns.finish(done(tenant, more=left > 0), self.now)
                (self.world.backlogs.add if left else self.world.backlogs.discard)(tenant)
            assert self.now <= until, f"never began: {self.world.pending()}"
            self.now += max(0.01, self.turns.wait_seconds(self.now, 0.25))


AnyOrder.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase
