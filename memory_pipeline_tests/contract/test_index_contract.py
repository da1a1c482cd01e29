"""What every index promises: the fake in memory and Chroma alike."""

from dataclasses import replace
from uuid import uuid4

import numpy as np
import pytest

from memory_pipeline.domain.types import Generation, MemoryId, MetadataValue, TenantId
from memory_pipeline.errors import Corrupt, Fenced, PipelineError, Poison, ServerLost
from memory_pipeline.settings import Settings
from memory_pipeline_tests.fakes import (
    FakeIndex,
    FakeWorld,
    QueryableIndex,
    a_document,
    a_vector,
    no_lease,
)


@pytest.fixture(params=["fake", "real"])
def index(request: pytest.FixtureRequest) -> QueryableIndex:
    """Return an index of either kind."""
    if request.param == "fake":
        return FakeIndex(FakeWorld(Settings.load()))
    found: QueryableIndex = request.getfixturevalue("pipeline").index
    return found


@pytest.fixture
def generation(index: QueryableIndex) -> Generation:
    """Return a generation whose collection was just created."""
    return _created(index)


def _created(index: QueryableIndex, tenant: str = "ada") -> Generation:
    begun = Generation(uuid4(), TenantId(tenant), index.choose_server(), None, "model", "config")
    return index.create(begun, memories=0, renew=no_lease)


def _nearest(
    index: QueryableIndex,
    generation: Generation,
    seed: int,
    *,
    limit: int = 5,
    where: dict[str, object] | None = None,
) -> list[int]:
    found = index.query(generation, a_vector(seed), limit=limit, where=where, seconds=5.0)
    return [match.memory_id for match in found]


def test_a_new_collection_is_empty_and_has_an_id(
    index: QueryableIndex, generation: Generation
) -> None:
    """A generation knows its collection's own id, and starts with nothing."""
    assert generation.collection_id is not None
    assert index.hashes(generation, renew=no_lease) == {}


def test_a_server_takes_writes_and_a_stranger_does_not(index: QueryableIndex) -> None:
    """Only a server that is who it should be is asked for a write."""
    assert index.takes_writes(index.choose_server())
    assert not index.takes_writes(uuid4())


def test_a_collection_is_never_shared_by_two_creates(
    index: QueryableIndex, generation: Generation
) -> None:
    """Creating a name that exists fails; it never returns what somebody else fills."""
    index.write(generation, [a_document(1)], [], renew=no_lease)
    with pytest.raises(PipelineError):
        index.create(replace(generation, collection_id=None), memories=0, renew=no_lease)
    assert set(index.hashes(generation, renew=no_lease)) == {"memory_log_1"}


def test_what_was_written_is_held_and_found(index: QueryableIndex, generation: Generation) -> None:
    """A document is there under its memory's id, with its hash, and its own vector finds it."""
    index.write(generation, [a_document(n) for n in (1, 2, 3)], [], renew=no_lease)
    assert index.hashes(generation, renew=no_lease) == {
        f"memory_log_{n}": f"hash of {n}" for n in (1, 2, 3)
    }
    assert [_nearest(index, generation, n, limit=1) for n in (1, 2, 3)] == [[1], [2], [3]]


def test_matches_come_nearest_first_with_their_distance(
    index: QueryableIndex, generation: Generation
) -> None:
    """The first match of a document's own vector is itself, at distance nought."""
    index.write(generation, [a_document(n) for n in range(1, 21)], [], renew=no_lease)
    found = index.query(generation, a_vector(7), limit=20, where=None, seconds=5.0)
    distances = [match.distance for match in found]
    assert found[0].memory_id == 7
    assert distances[0] == pytest.approx(0.0, abs=1e-5)
    assert distances == sorted(distances)
    assert len(found) == 20


def test_writing_the_same_again_changes_nothing(
    index: QueryableIndex, generation: Generation
) -> None:
    """A write may be repeated after an unknown outcome."""
    documents = [a_document(n) for n in (1, 2)]
    index.write(generation, documents, [MemoryId(3)], renew=no_lease)
    once = index.hashes(generation, renew=no_lease)
    index.write(generation, documents, [MemoryId(3)], renew=no_lease)
    assert index.hashes(generation, renew=no_lease) == once


def test_a_later_write_replaces_the_vector_and_the_metadata(
    index: QueryableIndex, generation: Generation
) -> None:
    """What is searched for is what was written last."""
    index.write(generation, [a_document(1, seed=1, task="old"), a_document(2)], [], renew=no_lease)
    changed = a_document(1, seed=77, task="new", rewritten=True)
    index.write(generation, [changed], [], renew=no_lease)
    [match] = index.query(generation, a_vector(77), limit=1, where=None, seconds=5.0)
    assert (match.memory_id, match.metadata["task"]) == (1, "new")
    assert match.distance == pytest.approx(0.0, abs=1e-5)


def test_a_key_that_a_later_write_leaves_out_stays(
    index: QueryableIndex, generation: Generation
) -> None:
    """Upserts merge metadata, which is why every key is always sent."""
    index.write(generation, [a_document(1, task="old")], [], renew=no_lease)
    index.write(generation, [a_document(1, date="2026")], [], renew=no_lease)
    [match] = index.query(generation, a_vector(1), limit=1, where=None, seconds=5.0)
    assert (match.metadata["task"], match.metadata["date"]) == ("old", "2026")


def test_added_documents_are_held_and_found(index: QueryableIndex, generation: Generation) -> None:
    """What a rebuild adds is what a batch would have written."""
    index.write(generation, [a_document(n) for n in (1, 2, 3)], [], renew=no_lease, add_only=True)
    assert index.hashes(generation, renew=no_lease) == {
        f"memory_log_{n}": f"hash of {n}" for n in (1, 2, 3)
    }
    assert [_nearest(index, generation, n, limit=1) for n in (1, 2, 3)] == [[1], [2], [3]]


def test_an_added_document_displaces_none_that_exists(
    index: QueryableIndex, generation: Generation
) -> None:
    """What a batch has written since is newer: it stays as it is, and its neighbours are added."""
    index.write(generation, [a_document(1, seed=77, task="newer")], [], renew=no_lease)
    older = a_document(1, seed=1, task="older", date="2026")
    documents = [a_document(2), older, a_document(3)]
    for _ in range(2):
        index.write(generation, documents, [], renew=no_lease, add_only=True)
        assert set(index.hashes(generation, renew=no_lease)) == {
            f"memory_log_{n}" for n in (1, 2, 3)
        }
        [match] = index.query(generation, a_vector(77), limit=1, where=None, seconds=5.0)
        assert match.memory_id == 1
        assert match.distance == pytest.approx(0.0, abs=1e-5)
        assert match.metadata == {"hash": "hash of 1", "task": "newer"}
        assert [_nearest(index, generation, n, limit=1) for n in (2, 3)] == [[2], [3]]


def test_what_was_deleted_can_be_added(index: QueryableIndex, generation: Generation) -> None:
    """Deletes come first, and what was added may be changed and deleted like any other."""
    index.write(generation, [a_document(1, seed=77, task="old")], [], renew=no_lease)
    index.write(generation, [a_document(1)], [MemoryId(1)], renew=no_lease, add_only=True)
    [match] = index.query(generation, a_vector(1), limit=1, where=None, seconds=5.0)
    assert match.metadata == {"hash": "hash of 1"}
    assert match.distance == pytest.approx(0.0, abs=1e-5)
    index.write(generation, [a_document(1, seed=5, rewritten=True)], [], renew=no_lease)
    [match] = index.query(generation, a_vector(5), limit=1, where=None, seconds=5.0)
    assert match.distance == pytest.approx(0.0, abs=1e-5)
    index.write(generation, [], [MemoryId(1)], renew=no_lease)
    assert index.hashes(generation, renew=no_lease) == {}


def test_deletes_take_away_and_unknown_ones_are_silent(
    index: QueryableIndex, generation: Generation
) -> None:
    """A delete of what is not there is no error: the same delete may come twice."""
    index.write(generation, [a_document(1), a_document(2)], [], renew=no_lease)
    index.write(generation, [], [MemoryId(1), MemoryId(404)], renew=no_lease)
    index.write(generation, [], [MemoryId(1)], renew=no_lease)
    assert set(index.hashes(generation, renew=no_lease)) == {"memory_log_2"}
    assert _nearest(index, generation, 1) == [2]


def test_zero_and_negative_ids_are_ids(index: QueryableIndex, generation: Generation) -> None:
    """Every bigint that Postgres allows as a memory's id names a document."""
    ids = [-(2**63), -1, 0, 2**63 - 1]
    index.write(
        generation, [a_document(n, seed=5 + k) for k, n in enumerate(ids)], [], renew=no_lease
    )
    assert set(index.hashes(generation, renew=no_lease)) == {f"memory_log_{n}" for n in ids}
    assert [_nearest(index, generation, 5 + k, limit=1) for k in range(4)] == [[n] for n in ids]
    index.write(generation, [], [MemoryId(n) for n in ids], renew=no_lease)
    assert index.hashes(generation, renew=no_lease) == {}


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"task": {"$eq": "walk"}}, {1, 2}),
        ({"task": {"$ne": "walk"}}, {3, 4}),
        ({"ts": {"$gte": 20}}, {2, 3, 4}),
        ({"ts": {"$gt": 10}}, {2, 3, 4}),
        ({"ts": {"$lt": 20}}, {1}),
        ({"task": {"$in": ["swim", "run"]}}, {3, 4}),
        ({"task": {"$nin": ["swim"]}}, {1, 2, 4}),
        ({"$and": [{"task": {"$eq": "walk"}}, {"ts": {"$lte": 10}}]}, {1}),
        ({"$or": [{"task": {"$eq": "run"}}, {"ts": {"$eq": 10}}]}, {1, 4}),
        ({"done": {"$eq": True}}, {1}),
        ({"done": {"$eq": 1}}, set()),
        ({"tags": {"$contains": "far"}}, {1, 2}),
        ({"tags": {"$not_contains": "far"}}, {3, 4}),
        ({"tags": {"$eq": "far"}}, {3}),
        ({"tags": {"$ne": "far"}}, {1, 2, 4}),
        ({"tags": {"$contains": 1}}, set()),
    ],
)
def test_a_filter_lets_through_what_meets_it(
    index: QueryableIndex,
    generation: Generation,
    where: dict[str, object],
    expected: set[int],
) -> None:
    """Every operator that searches use means the same everywhere; a boolean is no number."""
    documents = [
        a_document(1, task="walk", ts=10, done=True, tags=["far"]),
        a_document(2, task="walk", ts=20, done=False, tags=["near", "far"]),
        a_document(3, task="swim", ts=30, done=False, tags="far"),
        a_document(4, task="run", ts=40, done=False, tags=[1.0, 2.0]),
    ]
    index.write(generation, documents, [], renew=no_lease)
    assert set(_nearest(index, generation, 1, where=where)) == expected


def test_generations_share_nothing(index: QueryableIndex, generation: Generation) -> None:
    """The same memory in two collections is two documents."""
    other = _created(index, "bob")
    index.write(generation, [a_document(1, task="ada's")], [], renew=no_lease)
    index.write(other, [a_document(1, task="bob's"), a_document(2)], [], renew=no_lease)
    index.write(generation, [], [MemoryId(2)], renew=no_lease)
    assert set(index.hashes(other, renew=no_lease)) == {"memory_log_1", "memory_log_2"}
    [match] = index.query(generation, a_vector(1), limit=1, where=None, seconds=5.0)
    assert match.metadata["task"] == "ada's"


def test_of_a_few_distant_documents_every_one_is_listed(
    index: QueryableIndex, generation: Generation
) -> None:
    """What no query lists any more is told, and where there is nothing of it, nothing."""
    assert index.unreachable(generation, renew=no_lease) == []
    index.write(generation, [a_document(n) for n in range(1, 21)], [], renew=no_lease)
    index.write(generation, [], [MemoryId(7)], renew=no_lease)
    assert index.unreachable(generation, renew=no_lease) == []


def test_a_control_write_changes_nothing(index: QueryableIndex, generation: Generation) -> None:
    """It asks whether the collection takes writes at all."""
    index.write(generation, [a_document(1)], [], renew=no_lease)
    index.control_write(generation, renew=no_lease)
    assert index.hashes(generation, renew=no_lease) == {"memory_log_1": "hash of 1"}


@pytest.mark.parametrize("add_only", [False, True])
def test_a_vector_of_the_wrong_dimension_is_poison(
    index: QueryableIndex, generation: Generation, *, add_only: bool
) -> None:
    """What can never be stored is refused as what it is, and leaves the collection usable."""
    index.write(generation, [a_document(1)], [], renew=no_lease)
    short = replace(a_document(2), vector=np.ones(3, dtype=np.float32))
    with pytest.raises(Poison):
        index.write(generation, [short], [], renew=no_lease, add_only=add_only)
    index.write(generation, [a_document(3)], [], renew=no_lease)
    assert set(index.hashes(generation, renew=no_lease)) == {"memory_log_1", "memory_log_3"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_vector_that_is_not_finite_is_poison(
    index: QueryableIndex, generation: Generation, value: float
) -> None:
    """NaN and infinity have no direction."""
    broken = replace(a_document(2), vector=np.full(768, value, dtype=np.float32))
    with pytest.raises(Poison):
        index.write(generation, [broken], [], renew=no_lease)
    index.write(generation, [a_document(3)], [], renew=no_lease)
    assert set(index.hashes(generation, renew=no_lease)) == {"memory_log_3"}


def test_a_lone_surrogate_is_poison(index: QueryableIndex, generation: Generation) -> None:
    """A text that no UTF-8 can carry is refused, not a crash."""
    with pytest.raises(Poison):
        index.write(generation, [a_document(1, text='"\ud800"')], [], renew=no_lease)
    index.write(generation, [a_document(2)], [], renew=no_lease)
    assert set(index.hashes(generation, renew=no_lease)) == {"memory_log_2"}


@pytest.mark.parametrize("add_only", [False, True])
def test_nothing_is_sent_once_the_lease_is_lost(
    index: QueryableIndex, generation: Generation, *, add_only: bool
) -> None:
    """The lease is asked before each request, and a lost one stops the write."""

    def lost() -> float:
        raise Fenced("the lease is lost")

    index.write(generation, [a_document(1)], [], renew=no_lease)
    with pytest.raises(Fenced):
        index.write(generation, [a_document(2)], [MemoryId(1)], renew=lost, add_only=add_only)
    with pytest.raises(Fenced):
        index.write(generation, [a_document(2)], [], renew=lost, add_only=add_only)
    assert set(index.hashes(generation, renew=no_lease)) == {"memory_log_1"}


def test_an_unknown_collection_is_corrupt(index: QueryableIndex, generation: Generation) -> None:
    """A collection that is not there, or is another than noted, is to be replaced."""
    gone = Generation(uuid4(), TenantId("ada"), generation.server, uuid4(), "model", "config")
    other = replace(generation, collection_id=uuid4())
    for damaged in (gone, other):
        with pytest.raises(Corrupt) as found:
            index.write(damaged, [a_document(1)], [], renew=no_lease)
        assert found.value.generation == damaged.id
        with pytest.raises(Corrupt):
            index.write(damaged, [a_document(1)], [], renew=no_lease, add_only=True)


def test_on_a_server_that_is_none_of_ours_nothing_is_created_or_asked(
    index: QueryableIndex, generation: Generation
) -> None:
    """A generation that was placed on a server which is gone by now never comes to be."""
    elsewhere = replace(generation, id=uuid4(), server=uuid4(), collection_id=None)
    with pytest.raises(ServerLost):
        index.create(elsewhere, memories=0, renew=no_lease)
    with pytest.raises(ServerLost):
        index.hashes(replace(generation, server=elsewhere.server), renew=no_lease)


def test_a_server_that_is_none_of_ours_is_lost(index: QueryableIndex) -> None:
    """Whether a server is who it is can be asked before its collections are blamed."""
    index.check_identity(index.choose_server())
    with pytest.raises(ServerLost):
        index.check_identity(uuid4())


def test_a_list_is_replaced_by_a_value_and_comes_back(
    index: QueryableIndex, generation: Generation
) -> None:
    """Nothing of the old value stays under the key, whichever kind it was of."""
    values: list[MetadataValue]
    values = [["far", "near"], "far", ["near"], "", [1, 2], [True], ["far"]]
    for tags in values:
        document = a_document(1, rewritten=True, tags=tags)
        index.write(generation, [document], [], renew=no_lease)
        [match] = index.query(generation, a_vector(1), limit=1, where=None, seconds=5.0)
        assert match.metadata["tags"] == tags
        held = _nearest(index, generation, 1, where={"tags": {"$contains": "far"}})
        assert held == ([1] if isinstance(tags, list) and "far" in tags else [])


def test_no_distance_is_below_zero(index: QueryableIndex, generation: Generation) -> None:
    """Rounding takes that of a document to itself below zero, and it was printed as -0.000."""
    documents = [a_document(n) for n in range(1, 41)]
    index.write(generation, documents, [], renew=no_lease)
    for document in documents:
        [match] = index.query(generation, document.vector, limit=1, where=None, seconds=5.0)
        assert not f"{match.distance:.3f}".startswith("-")
        assert match.distance <= 2.0
