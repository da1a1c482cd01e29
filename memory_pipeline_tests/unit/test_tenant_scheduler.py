"""Whose turn it is: nobody waits behind another's backlog, and no backlog waits for ever."""

from dataclasses import dataclass, field
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from memory_pipeline.domain.outcomes import Outcome, Verdict
from memory_pipeline.domain.types import TenantId
from memory_pipeline.worker.tenant_scheduler import (
    BACKLOGS_AT_ONCE,
    BUSY_SECONDS,
    LONGEST_BUSY_SECONDS,
    LONGEST_SECONDS,
    TROUBLE_SECONDS,
    TenantScheduler,
)

AT_ONCE = 4
ADA, BOB, EVE = TenantId("ada"), TenantId("bob"), TenantId("eve")
HERE, THERE = UUID(int=1), UUID(int=2)


def tenants(prefix: str, count: int) -> list[TenantId]:
    """Name some tenants."""
    return [TenantId(f"{prefix}-{n}") for n in range(count)]


def done(tenant: TenantId, *, more: bool = False) -> Outcome:
    """Say that a turn went well, and whether more of the tenant stands."""
    return Outcome(tenant, "done", more=more)


def with_backlogs(*backlogs: TenantId, concurrency: int = AT_ONCE) -> TenantScheduler:
    """Make turns that know these tenants' backlogs, the first served longest ago."""
    turns = TenantScheduler(concurrency)
    for second, tenant in enumerate(backlogs):
        turns.update_pending([*backlogs[:second], tenant])
        turns._running.add(tenant)
        turns.finish(done(tenant, more=True), float(second - len(backlogs)))
    return turns


# ---- oldest first, and nobody twice


def test_the_oldest_change_goes_first() -> None:
    """Turns are handed out in the order of the offer, as many as there are places."""
    turns = TenantScheduler(2)
    turns.update_pending([EVE, ADA, BOB])
    assert turns.start_next(0.0) == [EVE, ADA]
    assert turns.start_next(0.0) == []
    turns.finish(done(ADA), 0.0)
    assert turns.start_next(0.0) == [BOB]


def test_nobody_has_two_turns_at_once() -> None:
    """A tenant that is offered again while its turn is under way waits for the turn's end."""
    turns = TenantScheduler(AT_ONCE)
    turns.update_pending([ADA])
    assert turns.start_next(0.0) == [ADA]
    turns.update_pending([ADA, BOB])
    assert turns.start_next(0.0) == [BOB]
    turns.finish(done(ADA), 0.0)
    assert turns.start_next(0.0) == [ADA]


def test_who_has_no_changes_any_more_gets_no_turn() -> None:
    """An offer replaces the one before it: what another process did is not done again."""
    turns = TenantScheduler(1)
    turns.update_pending([ADA, BOB, EVE])
    assert turns.start_next(0.0) == [ADA]
    turns.update_pending([EVE])
    turns.finish(done(ADA), 0.0)
    assert turns.start_next(0.0) == [EVE]
    turns.finish(done(EVE), 0.0)
    assert turns.start_next(0.0) == []


def test_who_ended_is_not_running() -> None:
    """Each end makes a place free, however it ended."""
    turns = TenantScheduler(AT_ONCE)
    verdicts: list[Verdict] = ["done", "busy", "fenced", "postponed"]
    named = tenants("t", len(verdicts))
    turns.update_pending(named)
    assert turns.start_next(0.0) == named
    for left, (tenant, verdict) in enumerate(zip(named, verdicts, strict=True), start=1):
        turns.finish(Outcome(tenant, verdict), 0.0)
        assert turns.running == AT_ONCE - left


# ---- backlogs


def test_everybody_else_goes_before_a_second_backlog() -> None:
    """One place is a backlog's; the others are theirs who have a change or two."""
    big = tenants("big", 3)
    small = tenants("small", 5)
    turns = with_backlogs(*big)
    turns.update_pending([*big, *small])  # the backlogs' changes are the oldest
    assert turns.start_next(0.0) == [big[0], *small[: AT_ONCE - 1]]


def test_at_most_two_backlogs_are_at_it_at_once() -> None:
    """However many places are free: a third would only make small writes wait longer."""
    big = tenants("big", 5)
    turns = with_backlogs(*big, concurrency=16)
    assert turns.start_next(0.0) == big[:BACKLOGS_AT_ONCE]
    turns.update_pending(big)
    assert turns.start_next(0.0) == []
    turns.update_pending(big[BACKLOGS_AT_ONCE:])  # all that stood of the two is claimed
    assert turns.start_next(0.0) == []
    turns.finish(done(big[1], more=True), 1.0)
    assert turns.start_next(1.0) == [big[2]]


def test_the_backlog_that_was_served_longest_ago_goes_first() -> None:
    """Backlogs take turns among themselves."""
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
    """While one or two backlogs are at it, who comes with one change begins at once."""
    turns = with_backlogs(ADA, BOB)
    assert turns.start_next(0.0) == [ADA, BOB]
    for second in range(20):
        (small,) = tenants(f"small-{second}", 1)
        turns.update_pending([ADA, BOB, small])  # their changes stand until they are acked
        assert turns.start_next(float(second)) == [small]
        turns.finish(done(small), second + 0.5)


def test_a_backlog_goes_on_without_being_offered_again() -> None:
    """What is known to have more waits for no question; the question costs, and comes later."""
    turns = TenantScheduler(AT_ONCE)
    turns.update_pending([ADA])
    for second in range(5):
        assert turns.start_next(float(second)) == [ADA]
        turns.finish(done(ADA, more=True), second + 0.5)


def test_a_backlog_that_is_over_is_one_no_longer() -> None:
    """Who came to the end is served as everybody else, at once."""
    turns = with_backlogs(ADA, BOB, EVE)
    assert turns.start_next(0.0) == [ADA, BOB]
    turns.finish(done(ADA), 1.0)
    turns.update_pending([BOB, ADA, EVE])
    assert turns.start_next(1.0) == [ADA, EVE]


def test_a_backlog_that_another_process_ended_is_one_no_longer() -> None:
    """An offer without the tenant says so."""
    turns = with_backlogs(ADA, BOB, EVE)
    turns.update_pending([ADA, BOB])
    assert turns.start_next(0.0) == [ADA, BOB]
    turns.update_pending([ADA, BOB, EVE])
    assert turns.start_next(0.0) == [EVE]


# ---- set aside


@pytest.mark.parametrize(
    ("verdict", "shortest", "longest"),
    [
        ("busy", BUSY_SECONDS, LONGEST_BUSY_SECONDS),
        ("fenced", BUSY_SECONDS, LONGEST_BUSY_SECONDS),
        ("postponed", TROUBLE_SECONDS, LONGEST_SECONDS),
        ("refused", TROUBLE_SECONDS, LONGEST_SECONDS),
        ("damaged", TROUBLE_SECONDS, LONGEST_SECONDS),
    ],
)
def test_who_cannot_be_served_comes_back_after_a_growing_pause(
    verdict: Verdict, shortest: float, longest: float
) -> None:
    """Longer each time, up to a limit; once it went well the pause is short again."""
    turns, now, pause = TenantScheduler(AT_ONCE), 100.0, shortest
    turns.update_pending([ADA])
    for _ in range(12):
        assert turns.start_next(now) == [ADA]
        turns.finish(Outcome(ADA, verdict), now)
        assert turns.wait_seconds(now, 1000.0) == pytest.approx(pause)
        assert turns.start_next(now + pause - 0.001) == []
        now += pause
        pause = min(pause * 2, longest)
    assert pause == longest
    assert turns.start_next(now) == [ADA]
    turns.finish(done(ADA), now)
    turns.update_pending([ADA])
    assert turns.start_next(now) == [ADA]
    turns.finish(Outcome(ADA, verdict), now)
    assert turns.wait_seconds(now, 1000.0) == pytest.approx(shortest)


def test_who_is_set_aside_keeps_nobody_waiting() -> None:
    """Tenants in trouble take no place, however old their changes are."""
    turns = TenantScheduler(AT_ONCE)
    broken, well = tenants("broken", 10), tenants("well", 4)
    turns.update_pending(broken)
    while begun := turns.start_next(0.0):
        for tenant in begun:
            turns.finish(Outcome(tenant, "postponed"), 0.0)
    turns.update_pending([*broken, *well])
    assert turns.start_next(0.1) == well


def test_a_backlog_that_is_set_aside_takes_no_backlogs_place() -> None:
    """The next one goes on in its place."""
    turns = with_backlogs(ADA, BOB, EVE)
    assert turns.start_next(0.0) == [ADA, BOB]
    turns.finish(Outcome(ADA, "postponed"), 0.0)
    assert turns.start_next(0.0) == [EVE]


def test_what_is_back_lets_everybody_try_at_once() -> None:
    """``forgive`` ends every pause, and the next one is short again."""
    turns = TenantScheduler(AT_ONCE)
    turns.update_pending([ADA, BOB])
    for _ in range(3):
        for tenant in turns.start_next(0.0):
            turns.finish(Outcome(tenant, "postponed"), 0.0)
        turns.reset_backoff()
    assert turns.start_next(0.0) == [ADA, BOB]
    turns.finish(Outcome(ADA, "postponed"), 0.0)
    assert turns.wait_seconds(0.0, 1000.0) == pytest.approx(TROUBLE_SECONDS)


def test_a_pause_does_not_grow_by_what_was_long_ago() -> None:
    """Losing a race once in a while is no trouble: another had the tenant for a batch each time."""
    turns = TenantScheduler(AT_ONCE)
    for now in range(0, 500, 50):
        turns.update_pending([ADA])
        assert turns.start_next(float(now)) == [ADA]
        turns.finish(Outcome(ADA, "busy"), float(now))
        assert turns.wait_seconds(float(now), 1000.0) == pytest.approx(BUSY_SECONDS)
        turns.update_pending([])  # the other process has done it
        assert turns.start_next(now + 1.0) == []


def test_trouble_that_follows_a_lost_race_pauses_as_trouble_does() -> None:
    """The kind of the trouble decides how long its first pause is."""
    turns = TenantScheduler(AT_ONCE)
    turns.update_pending([ADA])
    assert turns.start_next(0.0) == [ADA]
    turns.finish(Outcome(ADA, "busy"), 0.0)
    assert turns.start_next(1.0) == [ADA]
    turns.finish(Outcome(ADA, "postponed"), 1.0)
    assert turns.wait_seconds(1.0, 1000.0) >= TROUBLE_SECONDS


def test_waiting_ends_when_the_first_pause_does() -> None:
    """Nothing is polled in vain, and no pause is slept over."""
    turns = TenantScheduler(AT_ONCE)
    turns.update_pending([ADA, BOB])
    assert turns.wait_seconds(0.0, 0.25) == 0.25
    turns.start_next(0.0)
    turns.finish(Outcome(ADA, "postponed"), 0.0)
    turns.finish(Outcome(BOB, "busy"), 0.0)
    assert turns.wait_seconds(0.0, 0.25) == pytest.approx(BUSY_SECONDS)
    assert turns.wait_seconds(BUSY_SECONDS, 0.25) == 0.25
    assert turns.wait_seconds(TROUBLE_SECONDS - 0.1, 0.25) == pytest.approx(0.1)
    assert turns.wait_seconds(0.0, -1.0) == 0.0


# ---- several servers


def test_no_server_has_more_than_its_share() -> None:
    """Turns that hang on one server leave the others' to their tenants."""
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


def test_what_is_new_has_no_server_and_no_limit() -> None:
    """A tenant's first turn finds out where it goes."""
    new = tenants("new", 6)
    turns = TenantScheduler(8, per_server_limit=2)
    turns.update_pending(new, dict.fromkeys(new))
    assert turns.start_next(0.0) == new


def test_nothing_begins_on_a_server_that_is_closed() -> None:
    """Its tenants keep their places until it is open again."""
    turns = TenantScheduler(AT_ONCE)
    turns.update_pending([ADA, BOB, EVE], {ADA: HERE, BOB: THERE, EVE: None})
    assert turns.start_next(0.0, unwritable={HERE}) == [BOB, EVE]
    assert turns.start_next(0.0, unwritable={HERE}) == []
    assert turns.start_next(0.0) == [ADA]


# ---- whatever happens, in whatever order


@dataclass
class World:
    """What stands for each tenant, and since when; what is under way."""

    batches: dict[TenantId, int] = field(default_factory=dict)
    since: dict[TenantId, int] = field(default_factory=dict)
    running: set[TenantId] = field(default_factory=set)
    # Known to have more after their last turn, and not seen without changes since.
    backlogs: set[TenantId] = field(default_factory=set)

    def pending(self) -> list[TenantId]:
        """Tell who has changes, oldest first, as Postgres would: turns under way included."""
        return sorted((t for t, left in self.batches.items() if left), key=lambda t: self.since[t])


class AnyOrder(RuleBasedStateMachine):
    """Changes, offers, beginnings and ends in any order."""

    named = tenants("t", 9)
    verdicts: tuple[Verdict, ...] = ("busy", "fenced", "postponed", "damaged")

    @initialize(concurrency=st.integers(3, 6))
    def start(self, concurrency: int) -> None:
        """Begin with nothing."""
        self.turns = TenantScheduler(concurrency)
        self.world = World()
        self.now = 0.0
        self.changes = 0
        self.offered: list[TenantId] = []

    @rule(tenant=st.sampled_from(named), batches=st.integers(1, 5))
    def change(self, tenant: TenantId, batches: int) -> None:
        """Somebody writes so much."""
        self.changes += 1
        if not self.world.batches.get(tenant):
            self.world.since[tenant] = self.changes
        self.world.batches[tenant] = self.world.batches.get(tenant, 0) + batches

    @rule()
    def update_pending(self) -> None:
        """The loop asks who has changes."""
        self.offered = self.world.pending()
        self.turns.update_pending(self.offered)
        self.world.backlogs &= {*self.offered, *self.world.running}

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
        # Everybody else first: a second backlog begins only when no small one is left waiting.
        small = [t for t in begun if t not in self.world.backlogs]
        left = [
            t
            for t in self.turns._waiting
            if t not in self.world.backlogs
            and t not in self.world.running
            and self.turns._backoff.get(t, (0.0,))[0] <= self.now
        ]
        if left:
            assert len(large) <= 1
            assert len(self.world.running) == self.turns.concurrency
        # Of those that the last offer named, the oldest.
        named = [t for t in self.offered if t in small or t in left]
        assert [t for t in small if t in named] == named[: len([t for t in small if t in named])]

    @precondition(lambda self: self.world.running)
    @rule(data=st.data())
    def goes_well(self, data: st.DataObject) -> None:
        """A turn brings a batch."""
        tenant = data.draw(st.sampled_from(sorted(self.world.running)))
        left = max(0, self.world.batches.get(tenant, 0) - 1)
        self.world.batches[tenant] = left
        self.world.running.discard(tenant)
        self.turns.finish(done(tenant, more=left > 0), self.now)
        (self.world.backlogs.add if left else self.world.backlogs.discard)(tenant)

    @precondition(lambda self: self.world.running)
    @rule(data=st.data(), verdict=st.sampled_from(verdicts))
    def goes_wrong(self, data: st.DataObject, verdict: Verdict) -> None:
        """A turn brings nothing."""
        tenant = data.draw(st.sampled_from(sorted(self.world.running)))
        self.world.running.discard(tenant)
        self.turns.finish(Outcome(tenant, verdict), self.now)

    @precondition(lambda self: any(self.world.batches.values()))
    @rule(data=st.data())
    def another_process_brings_it(self, data: st.DataObject) -> None:
        """What one tenant had is done elsewhere; the next offer does not name it."""
        tenant = data.draw(st.sampled_from(self.world.pending()))
        self.world.batches[tenant] = 0

    @rule()
    def what_was_down_is_back(self) -> None:
        """Every pause ends."""
        self.turns.reset_backoff()

    @invariant()
    def nothing_is_lost_count_of(self) -> None:
        """What it takes for running is what runs, and nothing begins while all places are taken."""
        if hasattr(self, "turns"):
            assert self.turns._running == self.world.running

    def teardown(self) -> None:
        """Once all goes well, every change is brought, within the longest pause."""
        if not hasattr(self, "turns"):
            return
        until = self.now + LONGEST_SECONDS + 1
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
