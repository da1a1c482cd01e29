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
    """Return the result of an address whose server has a marker."""
    return ProbeResult(url, 0.0, Marker(server, installation))


def unmarked(url: str) -> ProbeResult:
    """Return the result of an address whose server has no marker."""
    return ProbeResult(url, 0.0)


def down(url: str) -> ProbeResult:
    """Return the result of an address that cannot be reached."""
    return ProbeResult(url, 0.0, unreachable=f"{url} {DOWN}")


def registered(server: UUID, url: str, state: str = "ready") -> Server:
    """Return a server of the registry."""
    return Server(server, url, state, 0)


def identified(probes: list[ProbeResult], *known: Server) -> ServerMap:
    """Identify the servers, and check what holds in every case."""
    servers = identify_servers(probes, known, OURS)
    missing = {s.id for s in known if s.state != "retired"} - set(servers.found)
    assert missing == set(servers.absent)
    assert set(servers.lost) <= set(servers.absent)
    assert {*servers.found.values(), *servers.idle, *servers.new} == {p.url for p in probes}
    assert not {*servers.found.values(), *servers.new} & set(servers.idle)
    return servers


def test_a_marker_of_ours_is_that_server_wherever_it_is() -> None:
    """Also if the registry has another address, has it as lost, or does not have it yet."""
    servers = identified(
        [marked(ONE, B), marked(TWO, A), marked(THREE, C)],
        registered(A, ONE),
        registered(B, TWO, "lost"),
    )
    assert servers.found == {B: ONE, A: TWO, C: THREE}
    assert servers.problems() == []


def test_the_first_servers_are_all_new() -> None:
    """An installation may begin with several at once."""
    assert identified([unmarked(ONE), unmarked(TWO)]).new == (ONE, TWO)


@pytest.mark.parametrize("other", [marked(ONE, A), down(ONE)])
def test_an_unmarked_address_is_new_where_every_server_is_accounted_for(other: ProbeResult) -> None:
    """A server that is down at its own address does not keep a further one out."""
    assert identified([other, unmarked(TWO)], registered(A, ONE)).new == (TWO,)


def test_a_server_that_is_down_is_not_lost() -> None:
    """An outage proves nothing about the data."""
    servers = identified([down(ONE), marked(TWO, B)], registered(A, ONE), registered(B, TWO))
    assert servers.lost == {}
    assert servers.found == {B: TWO}
    assert type(servers.problem_of(A).error()) is ChromaUnavailable
    assert not servers.problem_of(A).error().sent
    assert [t.message for t in servers.problems()] == [f"{ONE} {DOWN}"]


def test_an_unmarked_address_of_a_registered_server_has_lost_its_data() -> None:
    """It is not silently created again; an address that was no server's is a new server."""
    servers = identified(
        [unmarked(ONE), marked(TWO, B), unmarked(THREE)], registered(A, ONE), registered(B, TWO)
    )
    assert servers.lost == {A: ONE}
    assert servers.new == (THREE,)
    with pytest.raises(ServerLost, match=f"{ONE} has lost its data .*{A}"):
        raise servers.problem_of(A).error()


def test_a_missing_server_may_have_been_at_any_unmarked_address() -> None:
    """If the addresses have changed, none becomes a new server while a server is missing."""
    servers = identified([unmarked(TWO), unmarked(THREE)], registered(A, ONE))
    assert servers.lost == {A: TWO}
    assert servers.new == ()
    assert set(servers.idle) == {TWO, THREE}


def test_all_missing_servers_are_lost_where_there_is_a_place_for_them() -> None:
    """By their addresses as far as these are known."""
    servers = identified([unmarked(TWO), unmarked(THREE)], registered(A, ONE), registered(B, TWO))
    assert servers.lost == {B: TWO, A: THREE}
    assert identified([unmarked(THREE)], registered(A, ONE), registered(B, TWO)).lost == {
        A: THREE,
        B: THREE,
    }


def test_a_server_without_any_place_is_not_lost_but_said() -> None:
    """Its address was taken out of the settings; its data may be well."""
    servers = identified([unmarked(ONE), marked(THREE, C)], registered(A, ONE), registered(B, TWO))
    assert servers.lost == {A: ONE}
    assert "none of the addresses" in servers.problem_of(B).message
    assert len(servers.problems()) == 2
    assert isinstance(servers.problem_of(B).error(), ServerLost)


@pytest.mark.parametrize("place", [ONE, THREE])
def test_in_doubt_nothing_is_new_and_nothing_lost(place: str) -> None:
    """A missing server may be at an address that cannot be reached and is no other server's."""
    servers = identified([unmarked(place), down(TWO)], registered(A, ONE))
    assert (servers.new, servers.lost) == ((), {})
    assert type(servers.problem_of(A).error()) is ChromaUnavailable
    assert TWO in servers.problem_of(A).message
    assert not servers.idle[place].lost


def test_a_server_that_is_down_at_its_own_address_raises_no_doubt() -> None:
    """The one that is missing cannot be there."""
    servers = identified([unmarked(ONE), down(TWO)], registered(A, ONE), registered(B, TWO))
    assert servers.lost == {A: ONE}
    assert type(servers.problem_of(B).error()) is ChromaUnavailable


def test_another_installations_server_is_refused_alone() -> None:
    """The other addresses are used, and no server is called lost."""
    servers = identified([marked(ONE, A, THEIRS), marked(TWO, B)], registered(B, TWO))
    assert servers.found == {B: TWO}
    assert "another installation" in servers.idle[ONE].message
    assert ONE in servers.idle[ONE].message


def test_a_retired_server_that_returns_is_refused() -> None:
    """What it holds was built again elsewhere; it is no place for anybody else either."""
    servers = identified(
        [marked(ONE, A), marked(TWO, B)], registered(A, ONE, "retired"), registered(B, TWO)
    )
    assert servers.found == {B: TWO}
    assert "empty its volume" in servers.idle[ONE].message
    assert isinstance(servers.problem_of(A).error(), ServerLost)


def test_a_retired_servers_place_is_a_new_server() -> None:
    """A retired server is not missing."""
    assert identified([unmarked(ONE)], registered(A, ONE, "retired")).new == (ONE,)


def test_of_two_that_answer_as_one_server_the_usual_address_counts() -> None:
    """A copied volume would diverge; it is refused, in whatever order they are configured."""
    servers = identified([marked(TWO, A), marked(ONE, A)], registered(A, ONE))
    assert servers.found == {A: ONE}
    assert "copied" in servers.idle[TWO].message


def test_a_marker_that_is_none_of_ours_is_refused() -> None:
    """Its address is neither new nor a place where data was lost."""
    servers = identified(
        [ProbeResult(ONE, 0.0, strange="not a marker of ours")], registered(A, ONE)
    )
    assert (servers.new, servers.lost) == ((), {})
    assert servers.problems()[0].message == "not a marker of ours"


STAMP, FOREIGN = EpochStamp("1:5/app", uuid4()), EpochStamp("2:5/app", uuid4())
WHY = {FOREIGN: "another database wrote it; run `memory-pipeline migrate --take-over`"}


def stamped(url: str, server: UUID, stamp: EpochStamp) -> ProbeResult:
    """Return the result of an address whose marker has a stamp."""
    return ProbeResult(url, 0.0, Marker(server, OURS, stamp))


def test_a_server_that_another_database_has_written_is_refused() -> None:
    """Two databases of one origin would write the same collections; the other servers go on."""
    known = [Server(A, ONE, "ready", 0, "1:5/app"), Server(B, TWO, "ready", 0, "1:5/app")]
    servers = identify_servers([stamped(ONE, A, FOREIGN), stamped(TWO, B, STAMP)], known, OURS, WHY)
    assert servers.found == {B: TWO}
    assert isinstance(servers.problem_of(A).error(), ServerLost)
    assert servers.lost == {}


def test_the_reason_of_a_refusal_is_that_of_the_server_too() -> None:
    """What broke: searches said that the server is at none of the addresses that are set."""
    known = [Server(A, ONE, "ready", 0, "1:5/app")]
    for url in (ONE, TWO):  # also where it was not seen before
        servers = identify_servers([stamped(url, A, FOREIGN)], known, OURS, WHY)
        assert servers.problem_of(A) == servers.idle[url]
        assert WHY[FOREIGN] in servers.problem_of(A).message
        assert len(servers.problems()) == 1


def test_another_one_at_its_address_is_said() -> None:
    """Its address is set: to add it would change nothing."""
    known = [registered(A, ONE), registered(B, TWO)]
    for other in (marked(ONE, C, THEIRS), marked(ONE, B)):
        servers = identify_servers([other], known, OURS)
        said = servers.problem_of(A).message
        assert f"was last seen at {ONE}, where another one answers" in said


def test_a_database_that_is_the_copy_is_refused_as_well() -> None:
    """It knows the server from its origin; which of the two is the copy cannot be decided."""
    known = [Server(A, ONE, "ready", 0, "2:5/app")]
    assert not identify_servers([stamped(ONE, A, FOREIGN)], known, OURS, WHY).found
    assert not identify_servers([stamped(ONE, A, FOREIGN)], [], OURS, WHY).found


def test_a_database_that_was_told_to_take_over_is_not_refused() -> None:
    """Nor one that has never written to it."""
    known = [Server(A, ONE, "ready", 0, None)]
    assert identify_servers([stamped(ONE, A, FOREIGN)], known, OURS, WHY).found == {A: ONE}


def test_a_marker_without_a_stamp_is_nobodys() -> None:
    """It was written before there were any."""
    known = [Server(A, ONE, "ready", 0, "1:5/app")]
    assert identify_servers([marked(ONE, A)], known, OURS, WHY).found == {A: ONE}
