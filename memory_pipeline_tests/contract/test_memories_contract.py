"""What the memories and their backup promise: fake and Postgres alike."""

from uuid import uuid4

import pytest

from memory_pipeline.content.document import vector_hash
from memory_pipeline.domain.types import MemoryId, Provenance, ProvenanceUpdate
from memory_pipeline.postgres import memories as postgres_memories
from memory_pipeline_tests.contract.worlds import (
    ADA,
    BOB,
    OURS,
    World,
    drained,
    taken,
)
from memory_pipeline_tests.fakes import a_vector


def test_reading_tells_the_rows_as_they_stand(world: World) -> None:
    """A row that is gone is not there; one that was changed shows its newest content."""
    memory, gone = world.put("ada"), world.put("ada")
    world.put("bob", '{"n": 2}', memory_id=memory)
    world.delete(gone)
    rows, left_out = world.memories.read([memory, gone])
    assert set(rows) == {memory}
    assert (rows[memory].tenant, rows[memory].raw) == (BOB, '{"n": 2}')
    assert rows[memory].provenance is None
    assert left_out == ()


def test_a_batch_is_bounded_by_bytes_but_never_empty(world: World) -> None:
    """What does not fit is named, so that it stays pending; a giant alone still fits."""
    noise = "".join(f"{uuid4()}" for _ in range(4000))
    giants = [world.put("ada", f'{{"text": "{noise}{n}"}}') for n in range(3)]
    rows, left_out = world.memories.read(giants)
    assert set(rows) == {giants[0]}
    assert left_out == tuple(giants[1:])


def test_a_backup_is_stored_with_its_provenance_and_makes_no_change(world: World) -> None:
    """The pipeline's own write of a vector is not looked at again."""
    memory = world.put("ada")
    drained(world)
    rows, _ = world.memories.read([memory])
    assert world.memories.back_up({memory: (rows[memory], a_vector(1), OURS)}) == {memory}
    rows, _ = world.memories.read([memory])
    stored = rows[memory].embedding
    assert stored is not None
    assert stored.tolist() == a_vector(1).tolist()
    assert rows[memory].provenance == OURS
    assert world.pending(ADA) == 0


def test_a_backup_misses_a_row_that_moved(world: World) -> None:
    """A vector is stored only where the row is still the one that was read."""
    moved, still, gone = world.put("ada"), world.put("ada"), world.put("ada")
    rows, _ = world.memories.read([moved, still, gone])
    world.put("ada", '{"n": 2}', memory_id=moved)
    world.delete(gone)
    done = world.memories.back_up({i: (rows[i], a_vector(1), OURS) for i in rows})
    assert done == {still}
    rows, _ = world.memories.read([moved])
    assert rows[moved].embedding is None
    assert rows[moved].provenance is None


@pytest.mark.parametrize("refused", [False, True])
def test_a_backup_that_is_refused_is_no_miss(world: World, *, refused: bool) -> None:
    """What broke: a row that could not be updated was taken for one that had changed, for ever."""
    memory = world.put("ada")
    rows, _ = world.memories.read([memory])
    if refused:
        world.refuse_backups()
    assert world.memories.back_up({memory: (rows[memory], a_vector(1), OURS)}) == {memory}
    [row] = world.memories.read([memory])[0].values()
    assert (row.embedding is None) is refused
    assert (row.version == rows[memory].version) is refused


def test_a_vector_of_which_the_backup_is_refused_leaves_the_row_with_one_of_no_known_text(
    world: World,
) -> None:
    """The old vector is never taken for the new text's, nor for one of the application's."""
    memory = world.put("ada")
    old = Provenance("text", "model", vector_hash(a_vector(1)))
    rows, _ = world.memories.read([memory])
    world.memories.back_up({memory: (rows[memory], a_vector(1), old)})
    rows, _ = world.memories.read([memory])
    world.refuse_backups()
    new = Provenance("newer text", "model", vector_hash(a_vector(2)))
    assert world.memories.back_up({memory: (rows[memory], a_vector(2), new)}) == {memory}
    [row] = world.memories.read([memory])[0].values()
    assert row.provenance is not None
    assert row.provenance.vector_hash == old.vector_hash
    assert row.provenance.text_hash not in {old.text_hash, new.text_hash}


# ---- a table of the pipeline's own


def test_a_vector_in_the_pipelines_own_table_leaves_the_row_as_it_was(world: World) -> None:
    """It is read with its text and its model, and under every setting."""
    memory = world.put("ada")
    memories = world.with_backup("table")
    rows, _ = memories.read([memory])
    assert rows[memory].backed_up is None
    world.refuse_backups()  # which concerns the row alone
    assert memories.back_up({memory: (rows[memory], a_vector(1), OURS)}) == {memory}
    for backup in ("table", "on", "off"):
        [row] = world.with_backup(backup).read([memory])[0].values()
        assert (row.version, row.embedding) == (rows[memory].version, None)
        assert row.backed_up is not None
        assert row.backed_up.vector.tolist() == a_vector(1).tolist()
        assert (row.backed_up.text_hash, row.backed_up.model) == (OURS.text_hash, OURS.model)
        [row] = world.memories.read([memory], vectors=False)[0].values()
        assert row.backed_up is None
    assert world.pending(ADA) == 1  # that of its insert


def test_a_vector_in_the_pipelines_own_table_is_replaced_by_the_newer_texts(world: World) -> None:
    """One a memory; also where the row has a vector of its own, which is known as an older one."""
    memory = world.put("ada")
    rows, _ = world.memories.read([memory])
    old = Provenance("text", "model", vector_hash(a_vector(1)))
    world.memories.back_up({memory: (rows[memory], a_vector(1), old)})
    memories = world.with_backup("table")
    for n, text in enumerate(("newer", "newest"), 2):
        rows, _ = memories.read([memory])
        made = Provenance(text, "model", vector_hash(a_vector(n)))
        assert memories.back_up({memory: (rows[memory], a_vector(n), made)}) == {memory}
    [row] = memories.read([memory])[0].values()
    assert row.embedding is not None
    assert row.backed_up is not None
    assert row.embedding.tolist() == a_vector(1).tolist()
    assert row.backed_up.vector.tolist() == a_vector(3).tolist()
    assert row.backed_up.text_hash == "newest"
    assert row.provenance is not None
    assert row.provenance.text_hash not in {"newer", "newest"}


def test_the_pipelines_own_table_misses_a_row_that_moved(world: World) -> None:
    """The same guard as for memory_logs: what was read is what is stored for."""
    moved, still, gone = world.put("ada"), world.put("ada"), world.put("ada")
    memories = world.with_backup("table")
    rows, _ = memories.read([moved, still, gone])
    world.put("ada", '{"n": 2}', memory_id=moved)
    world.delete(gone)
    done = memories.back_up({i: (rows[i], a_vector(1), OURS) for i in rows})
    assert done == {still}
    assert memories.read([moved])[0][moved].backed_up is None


def test_a_vector_that_is_stored_in_the_row_ends_the_one_in_the_table(world: World) -> None:
    """A table that is used no longer empties by itself, and nothing is kept twice."""
    memory = world.put("ada")
    memories = world.with_backup("table")
    rows, _ = memories.read([memory])
    memories.back_up({memory: (rows[memory], a_vector(1), OURS)})
    memories = world.with_backup("on")
    memories.back_up({memory: (rows[memory], a_vector(2), OURS)})
    [row] = memories.read([memory])[0].values()
    assert row.embedding is not None
    assert row.backed_up is None


def test_acking_a_delete_forgets_the_vector_of_what_is_gone(world: World) -> None:
    """A memory that moved keeps its own."""
    gone, moved = world.put("ada"), world.put("ada")
    memories = world.with_backup("table")
    rows, _ = memories.read([gone, moved])
    memories.back_up({i: (rows[i], a_vector(1), OURS) for i in rows})
    drained(world)
    world.delete(gone)
    world.put("bob", memory_id=moved)
    lease = taken(world)
    claim = world.outbox.claim(lease)
    deleted: dict[MemoryId, ProvenanceUpdate | None] = {gone: None, moved: None}
    world.outbox.ack(lease, claim, landed=deleted, failures=(), missed=(), recheck=())
    world.put("ada", memory_id=gone)
    rows, _ = memories.read([gone, moved])
    assert rows[gone].backed_up is None
    assert rows[moved].backed_up is not None


def test_acking_a_delete_forgets_the_provenance_of_what_is_gone(world: World) -> None:
    """An id used again starts without provenance; a memory that moved keeps its own."""
    gone, moved = world.put("ada"), world.put("ada")
    drained(world)
    world.delete(gone)
    world.put("bob", memory_id=moved)
    lease = taken(world)
    claim = world.outbox.claim(lease)
    deleted: dict[MemoryId, ProvenanceUpdate | None] = {gone: None, moved: None}
    world.outbox.ack(lease, claim, landed=deleted, failures=(), missed=(), recheck=())
    world.put("ada", memory_id=gone)
    rows, _ = world.memories.read([gone, moved])
    assert rows[gone].provenance is None
    assert rows[moved].provenance == OURS


THEIRS = Provenance("newer text", "model", "newer vector")


@pytest.mark.parametrize(
    ("noting", "noted"),
    [
        (ProvenanceUpdate(THEIRS), OURS),
        (ProvenanceUpdate(THEIRS, Provenance("older", "model", "vector")), OURS),
        (ProvenanceUpdate(THEIRS, OURS), THEIRS),
    ],
)
def test_what_another_has_noted_since_stays(
    world: World, noting: ProvenanceUpdate, noted: Provenance
) -> None:
    """What broke: an ack that came late told where an older vector came from."""
    memory = world.put("ada")
    drained(world)
    world.put("ada", '{"n": 2}', memory_id=memory)
    lease = taken(world)
    claim = world.outbox.claim(lease)
    landed: dict[MemoryId, ProvenanceUpdate | None] = {memory: noting}
    world.outbox.ack(lease, claim, landed=landed, failures=(), missed=(), recheck=())
    assert world.memories.read([memory])[0][memory].provenance == noted


def test_what_was_forgotten_since_stays_forgotten(world: World) -> None:
    """The id may be another memory's by now."""
    memory = world.put("ada")
    lease = taken(world)
    claim = world.outbox.claim(lease)
    landed: dict[MemoryId, ProvenanceUpdate | None] = {memory: ProvenanceUpdate(THEIRS, OURS)}
    world.outbox.ack(lease, claim, landed=landed, failures=(), missed=(), recheck=())
    assert world.memories.read([memory])[0][memory].provenance is None


@pytest.mark.parametrize("page", [1, 2, 3, 20_000])
def test_a_tenants_memories_are_counted_and_walked_in_id_order(
    world: World, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    """Reconciliation sees every memory of the tenant and none of another's, page by page."""
    monkeypatch.setattr(postgres_memories, "PAGE", page)
    mine = [world.put("ada", memory_id=n) for n in (3, -(2**63), 0)]
    world.put("bob")
    assert world.memories.count(ADA) == 3
    assert [m.id for m in world.memories.of_tenant(ADA)] == sorted(mine)
    pages = list(world.memories.ids(ADA))
    assert [i for ids in pages for i in ids] == sorted(mine)
    assert all(0 < len(ids) <= page for ids in pages)


def test_a_walk_goes_on_after_the_id_that_it_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was cut off goes on where it was, and sees what has come meanwhile."""
    monkeypatch.setattr(postgres_memories, "PAGE", 2)
    for n in (-4, 0, 7, 9):
        world.put("ada", memory_id=n)
    walk = world.memories.ids(ADA, after=MemoryId(-4))
    assert next(walk) == [0, 7]
    world.put("ada", memory_id=8)
    assert [i for ids in walk for i in ids] == [8, 9]
    assert list(world.memories.ids(ADA, after=MemoryId(9))) == []


def test_vectors_are_read_where_they_are_asked_for(world: World) -> None:
    """They are most of a row; where a vector comes from is told all the same."""
    memory = world.put("ada")
    rows, _ = world.memories.read([memory])
    world.memories.back_up({memory: (rows[memory], a_vector(1), OURS)})
    with_vectors, _ = world.memories.read([memory], vectors=True)
    without, _ = world.memories.read([memory], vectors=False)
    assert with_vectors[memory].embedding is not None
    assert without[memory].embedding is None
    assert without[memory].provenance == OURS
    assert world.memories.get(ADA, [memory])[memory].embedding is None
    assert world.memories.get(ADA, [memory], vectors=True)[memory].embedding is not None


def test_a_row_has_another_version_whenever_it_was_written(world: World) -> None:
    """Whatever moved since it was read can be told by that alone, our own backup included."""
    same, changed, moved, backed_up, gone = (world.put("ada") for _ in range(5))
    rows, _ = world.memories.read([same, changed, moved, backed_up, gone])
    world.put("ada", '{"n": 2}', memory_id=changed)
    world.put("bob", memory_id=moved)
    world.memories.back_up({backed_up: (rows[backed_up], a_vector(1), OURS)})
    world.delete(gone)
    versions = world.memories.versions(list(rows))
    assert set(versions) == {same, changed, moved, backed_up}
    assert versions[same] == (ADA, rows[same].version)
    assert versions[moved][0] == BOB
    for memory in (changed, moved, backed_up):
        assert versions[memory][1] != rows[memory].version


def test_getting_memories_tells_the_tenants_own_however_large_they_are(world: World) -> None:
    """An id alone opens nothing, and no limit of a batch leaves anything out."""
    noise = "".join(f"{uuid4()}" for _ in range(4000))
    giants = [world.put("ada", f'{{"text": "{noise}{n}"}}') for n in range(3)]
    other, gone = world.put("bob"), world.put("ada")
    world.delete(gone)
    asked = [*reversed(giants), other, gone, MemoryId(404_404)]
    assert list(world.memories.get(ADA, asked)) == giants
    assert list(world.memories.get(BOB, asked)) == [other]
