"""Which server is where: every row of the tables in chroma/server_identity.py, without a server."""

from uuid import UUID, uuid4

import pytest

from memory_pipeline.chroma.server_identity import identify_servers
from memory_pipeline.chroma.server_map import Marker, ProbeResult, ServerMap
from memory_pipeline.domain.epoch import EpochStamp
from memory_pipeline.domain.types import Server
from memory_pipeline.errors import ChromaUnavailable, ServerLost

OURS, THEIRS = uuid4(), uuid4()
A, B, C = uuid4(), uuid4(), uuid4()
ONE, TWO, THREE = "http://one:1", "http://two:2", "http://three:3"
DOWN = "cannot be reached"


def marked(url: str, server: UUID, installation: UUID = OURS) -> ProbeResult:
    """Return what an address says whose server has a marker."""
    return ProbeResult(url, 0.0, Marker(server, installation))


def unmarked(url: str) -> ProbeResult:
    """Return what an address says whose server has none."""
    return ProbeResult(url, 0.0)


def down(url: str) -> ProbeResult:
    """Return what is known of an address that cannot be reached."""
    return ProbeResult(url, 0.0, unreachable=f"{url} {DOWN}")


def registered(server: UUID, url: str, state: str = "ready") -> Server:
    """Return what the registry says."""
    return Server(server, url, state, 0)


def look(answers: list[ProbeResult], *servers: Server) -> ServerMap:
    """Recognise, and check what holds in every case."""
    view = identify_servers(answers, servers, OURS)
    known = {s.id for s in servers if s.state != "retired"}
    assert known - set(view.found) == set(view.absent)
    assert set(view.lost) <= set(view.absent)
    assert {*view.found.values(), *view.idle, *view.new} == {a.url for a in answers}
    assert not {*view.found.values(), *view.new} & set(view.idle)
    return view


def test_a_marker_of_ours_is_that_server_wherever_it_is() -> None:
    """Also where the registry says another address, calls it lost, or does not know it yet."""
    view = look(
        [marked(ONE, B), marked(TWO, A), marked(THREE, C)],
        registered(A, ONE),
        registered(B, TWO, "lost"),
    )
    assert view.found == {B: ONE, A: TWO, C: THREE}
    assert view.problems() == []


def test_the_first_servers_are_all_new() -> None:
    """An installation may begin with several at once."""
    assert look([unmarked(ONE), unmarked(TWO)]).new == (ONE, TWO)


@pytest.mark.parametrize("other", [marked(ONE, A), down(ONE)])
def test_an_unmarked_address_is_new_where_every_server_is_accounted_for(other: ProbeResult) -> None:
    """A server that is down at its own address does not keep a further one out."""
    assert look([other, unmarked(TWO)], registered(A, ONE)).new == (TWO,)


def test_a_server_that_is_down_is_not_lost() -> None:
    """An outage says nothing about the data."""
    view = look([down(ONE), marked(TWO, B)], registered(A, ONE), registered(B, TWO))
    assert view.lost == {}
    assert view.found == {B: TWO}
    assert type(view.problem_of(A).error()) is ChromaUnavailable
    assert not view.problem_of(A).error().sent
    assert [t.message for t in view.problems()] == [f"{ONE} {DOWN}"]


def test_an_unmarked_address_of_a_registered_server_has_lost_its_data() -> None:
    """It is not made anew; one beside it that nobody can have been at is."""
    view = look(
        [unmarked(ONE), marked(TWO, B), unmarked(THREE)], registered(A, ONE), registered(B, TWO)
    )
    assert view.lost == {A: ONE}
    assert view.new == (THREE,)
    with pytest.raises(ServerLost, match=f"{ONE} has lost its data .*{A}"):
        raise view.problem_of(A).error()


def test_a_missing_server_may_have_been_at_any_unmarked_address() -> None:
    """Where the addresses have changed, none of them is made anew while one is missing."""
    view = look([unmarked(TWO), unmarked(THREE)], registered(A, ONE))
    assert view.lost == {A: TWO}
    assert view.new == ()
    assert set(view.idle) == {TWO, THREE}


def test_all_missing_servers_are_lost_where_there_is_a_place_for_them() -> None:
    """By their addresses as far as these are known."""
    view = look([unmarked(TWO), unmarked(THREE)], registered(A, ONE), registered(B, TWO))
    assert view.lost == {B: TWO, A: THREE}
    assert look([unmarked(THREE)], registered(A, ONE), registered(B, TWO)).lost == {
        A: THREE,
        B: THREE,
    }


def test_a_server_without_any_place_is_not_lost_but_said() -> None:
    """Its address was taken out of the settings; its data may be well."""
    view = look([unmarked(ONE), marked(THREE, C)], registered(A, ONE), registered(B, TWO))
    assert view.lost == {A: ONE}
    assert "none of the addresses" in view.problem_of(B).message
    assert len(view.problems()) == 2
    assert isinstance(view.problem_of(B).error(), ServerLost)


@pytest.mark.parametrize("place", [ONE, THREE])
def test_in_doubt_nothing_is_new_and_nothing_lost(place: str) -> None:
    """A server that is missing may be at an address that cannot be reached and is nobody's."""
    view = look([unmarked(place), down(TWO)], registered(A, ONE))
    assert (view.new, view.lost) == ((), {})
    assert type(view.problem_of(A).error()) is ChromaUnavailable
    assert TWO in view.problem_of(A).message
    assert not view.idle[place].lost


def test_a_server_that_is_down_at_its_own_address_raises_no_doubt() -> None:
    """The one that is missing cannot be there."""
    view = look([unmarked(ONE), down(TWO)], registered(A, ONE), registered(B, TWO))
    assert view.lost == {A: ONE}
    assert type(view.problem_of(B).error()) is ChromaUnavailable


def test_another_installations_server_is_refused_alone() -> None:
    """The other addresses go on, and nobody is called lost for it."""
    view = look([marked(ONE, A, THEIRS), marked(TWO, B)], registered(B, TWO))
    assert view.found == {B: TWO}
    assert "another installation" in view.idle[ONE].message
    assert ONE in view.idle[ONE].message


def test_a_retired_server_that_returns_is_refused() -> None:
    """What it holds was built again elsewhere; it is no place for anybody else either."""
    view = look([marked(ONE, A), marked(TWO, B)], registered(A, ONE, "retired"), registered(B, TWO))
    assert view.found == {B: TWO}
    assert "empty its volume" in view.idle[ONE].message
    assert isinstance(view.problem_of(A).error(), ServerLost)


def test_a_retired_servers_place_is_a_new_server() -> None:
    """It is missed by nobody."""
    assert look([unmarked(ONE)], registered(A, ONE, "retired")).new == (ONE,)


def test_of_two_that_answer_as_one_server_the_usual_address_counts() -> None:
    """A copied volume would go its own way; it is refused, whichever stands first."""
    view = look([marked(TWO, A), marked(ONE, A)], registered(A, ONE))
    assert view.found == {A: ONE}
    assert "copied" in view.idle[TWO].message


def test_a_marker_that_is_none_of_ours_is_refused() -> None:
    """Its address is neither new nor a place where data was lost."""
    view = look([ProbeResult(ONE, 0.0, strange="not a marker of ours")], registered(A, ONE))
    assert (view.new, view.lost) == ((), {})
    assert view.problems()[0].message == "not a marker of ours"


HERE, ELSEWHERE = "1/app", "2/app"


def stamped(url: str, server: UUID, database_id: str) -> ProbeResult:
    """Return what an address says whose marker was last written from somewhere."""
    return ProbeResult(url, 0.0, Marker(server, OURS, EpochStamp(database_id, uuid4())))


def test_a_server_that_a_copy_of_this_database_has_written_is_refused() -> None:
    """Two databases of one origin would write the same collections; the other servers go on."""
    known = [Server(A, ONE, "ready", 0, HERE), Server(B, TWO, "ready", 0, HERE)]
    view = identify_servers([stamped(ONE, A, ELSEWHERE), stamped(TWO, B, HERE)], known, OURS, HERE)
    assert view.found == {B: TWO}
    assert "--take-over" in view.idle[ONE].message
    assert isinstance(view.problem_of(A).error(), ServerLost)
    assert view.lost == {}


def test_a_database_that_is_the_copy_is_refused_as_well() -> None:
    """It knows the server from its origin; whoever came first cannot be told."""
    known = [Server(A, ONE, "ready", 0, ELSEWHERE)]
    assert not identify_servers([stamped(ONE, A, ELSEWHERE)], known, OURS, HERE).found
    assert not identify_servers([stamped(ONE, A, ELSEWHERE)], [], OURS, HERE).found


def test_a_database_that_was_told_to_take_over_is_not_refused() -> None:
    """Nor one that has never written to it."""
    known = [Server(A, ONE, "ready", 0, None)]
    assert identify_servers([stamped(ONE, A, ELSEWHERE)], known, OURS, HERE).found == {A: ONE}


def test_a_marker_without_a_stamp_is_nobodys() -> None:
    """It was written before there were any."""
    known = [Server(A, ONE, "ready", 0, HERE)]
    assert identify_servers([marked(ONE, A)], known, OURS, HERE).found == {A: ONE}
