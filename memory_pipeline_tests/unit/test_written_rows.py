"""The rows that a rebuild has written, by version."""

from memory_pipeline.domain.types import MemoryId
from memory_pipeline.verify.written_rows import WrittenRows


def test_a_written_row_is_known_by_its_version() -> None:
    """Another version, or another memory, has to be read."""
    written_rows = WrittenRows()
    written_rows.add(MemoryId(3), "700", {"hash": "a"})
    written_rows.add(MemoryId(7), "701", {"hash": "b"})
    assert written_rows.covers(MemoryId(3), "700")
    assert not written_rows.covers(MemoryId(3), "702")
    assert not written_rows.covers(MemoryId(5), "700")
    assert written_rows.matches(MemoryId(7), {"hash": "b"})
    assert not written_rows.matches(MemoryId(7), {"hash": "a"})
    assert not written_rows.matches(MemoryId(7), {"hash": "b", "forged": 1})


def test_a_row_out_of_order_is_not_kept_and_not_mistaken() -> None:
    """It is read again, and never taken for another."""
    written_rows = WrittenRows()
    written_rows.add(MemoryId(7), "701", {"hash": "b"})
    written_rows.add(MemoryId(3), "700", {"hash": "a"})
    assert not written_rows.covers(MemoryId(3), "700")
    assert written_rows.covers(MemoryId(7), "701")
