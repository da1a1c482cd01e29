"""What a rebuild knows of what it wrote."""

from memory_pipeline.domain.types import MemoryId
from memory_pipeline.verify.written_rows import Known


def test_what_was_noted_is_known_by_its_version() -> None:
    """Another version, or another memory, has to be read."""
    known = Known()
    known.note(MemoryId(3), "700", {"hash": "a"})
    known.note(MemoryId(7), "701", {"hash": "b"})
    assert known.covers(MemoryId(3), "700")
    assert not known.covers(MemoryId(3), "702")
    assert not known.covers(MemoryId(5), "700")
    assert known.agrees(MemoryId(7), {"hash": "b"})
    assert not known.agrees(MemoryId(7), {"hash": "a"})
    assert not known.agrees(MemoryId(7), {"hash": "b", "forged": 1})


def test_what_comes_out_of_order_is_forgotten_and_not_mistaken() -> None:
    """It is read again: never taken for something else."""
    known = Known()
    known.note(MemoryId(7), "701", {"hash": "b"})
    known.note(MemoryId(3), "700", {"hash": "a"})
    assert not known.covers(MemoryId(3), "700")
    assert known.covers(MemoryId(7), "701")
