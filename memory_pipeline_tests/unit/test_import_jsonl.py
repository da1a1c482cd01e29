"""An import: what is handed to Postgres, and what a refusal says."""

import gzip
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from memory_pipeline.admin.import_jsonl import import_file
from memory_pipeline.domain.types import NewMemory
from memory_pipeline.errors import InvalidMemory

LINE = '{"user_id": "ada", "raw_data": {"n": %d}}\n'


class Stored:
    """Keeps the memories of one COPY, all or none."""

    def __init__(self, refuses: int | None = None) -> None:
        self.memories: list[NewMemory] = []
        self._refuses = refuses

    def copy_in(self, memories: Iterable[NewMemory]) -> int:
        """Store them."""
        new = []
        for number, memory in enumerate(memories, 1):
            if number == self._refuses:
                raise InvalidMemory(f"line {number}: Postgres refuses it: no")
            new.append(memory)
        self.memories += new
        return len(new)


def written(path: Path, *lines: str) -> Path:
    """Write a file, packed where its name says so."""
    content = "".join(lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["some.jsonl", "some.jsonl.gz"])
def test_a_file_is_imported_in_one_go(tmp_path: Path, name: str) -> None:
    """Packed or not; what a line does not say is the time of the import, and no project."""
    path = written(
        tmp_path / name,
        LINE % 1,
        "\n",
        '{"user_id": "bob", "project_id": "p", "created_at": "2026-01-31", "raw_data": "é"}\n',
    )
    stored = Stored()
    assert import_file(stored, path) == 2
    first, second = stored.memories
    assert (first.user_id, first.project_id, first.raw) == ("ada", None, '{"n": 1}')
    assert second == NewMemory("bob", "p", datetime(2026, 1, 31, tzinfo=UTC), '"é"')


def test_a_limit_ends_the_import_and_progress_tells_how_far_it_is(tmp_path: Path) -> None:
    """Lines after the limit are not read: a bad one there is no error."""
    path = written(tmp_path / "f.jsonl", *(LINE % n for n in range(1001)), "no JSON\n")
    told: list[int] = []
    assert import_file(Stored(), path, progress=lambda done, _: told.append(done), limit=1001)
    assert told == [500, 1000, 1001]


def test_a_bad_line_is_named_and_nothing_is_imported(tmp_path: Path) -> None:
    """By the file and the number of the line."""
    stored, path = Stored(), written(tmp_path / "f.jsonl", LINE % 1, "\n", "{}\n")
    with pytest.raises(InvalidMemory) as refused:
        import_file(stored, path)
    assert str(refused.value).startswith(f"{path}, line 3: user_id")
    assert str(refused.value).endswith("; nothing was imported")
    assert stored.memories == []


def test_a_memory_that_postgres_refuses_is_named(tmp_path: Path) -> None:
    """The adapter knows the line, the import the file."""
    path = written(tmp_path / "f.jsonl", LINE % 1, LINE % 2)
    with pytest.raises(InvalidMemory, match="line 2: Postgres refuses it: no; nothing was") as said:
        import_file(Stored(refuses=2), path)
    assert str(said.value).startswith(str(path))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """It is named like .gz, and is no such file."""
    path = tmp_path / "f.gz"
    path.write_text(LINE % 1)
    with pytest.raises(InvalidMemory, match="cannot be read"):
        import_file(Stored(), path)
