"""What is imported from a file, whatever it is packed or written in, and what a refusal says."""

import bz2
import codecs
import gzip
import io
import json
import lzma
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from memory_pipeline.domain.outcomes import Stored
from memory_pipeline.domain.types import NewMemory
from memory_pipeline.errors import InvalidMemory, SettingsError
from memory_pipeline.transfer.importing import Reading, drafted, import_file
from memory_pipeline.transfer.mapping import ByKeys, ByMap, Drafts, Finish, parse_map, path_of
from memory_pipeline.transfer.presets import PRESETS, PresetName, recognise

LINE = '{"user_id": "ada", "raw_data": {"n": %d}}\n'
TWO = (LINE % 1 + LINE % 2).encode()


class Kept:
    """Keeps the memories of an import, all or none."""

    def __init__(self, refuses: str | None = None) -> None:
        self.memories: list[NewMemory] = []
        self._refuses = refuses

    def store(
        self,
        batches: Iterable[Sequence[NewMemory]],
        *,
        refused: Callable[[NewMemory, str], None],
        once: bool,  # noqa: ARG002 - the port's
    ) -> Stored:
        """Store them."""
        new: list[NewMemory] = []
        for memory in (memory for batch in batches for memory in batch):
            if memory.raw == self._refuses:
                refused(memory, "Postgres refuses it")
            else:
                new.append(memory)
        self.memories += new
        return Stored(imported=len(new))


def written(path: Path, content: bytes | str) -> Path:
    """Write a file."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(
    path: Path, drafts: Drafts | None = None, finish: Finish | None = None, **reading: Any
) -> list[NewMemory]:
    """Return the memories of a file."""
    return list(drafted(path, Reading(drafts or ByKeys(), finish or Finish(), **reading)))


# ---- what a file is packed and written in


@pytest.mark.parametrize(
    "content",
    [
        TWO,
        gzip.compress(TWO),
        gzip.compress(gzip.compress(TWO)),
        gzip.compress(TWO[:42]) + gzip.compress(TWO[42:]),
        bz2.compress(TWO),
        lzma.compress(TWO),
        codecs.BOM_UTF8 + TWO,
        TWO.replace(b"\n", b"\n\xef\xbb\xbf"),
        TWO.replace(b"\n", b"\r\n"),
        TWO.replace(b"\n", b"\r"),
        TWO.decode().encode("utf-16"),
        b"[" + TWO.replace(b"}}\n{", b"}},{") + b"]",
        TWO.rstrip(b"\n"),
        b"\n \n" + TWO,
    ],
    ids=(
        "plain gzip twice members bz2 xz bom boms crlf cr utf-16 array unended blank".split()  # noqa: SIM905 - short
    ),
)
@pytest.mark.parametrize("name", ["f.jsonl", "f.jsonl.GZ", "f"])
def test_a_file_is_what_its_content_says(tmp_path: Path, name: str, content: bytes) -> None:
    """What broke: a compressed file under another name was no JSON."""
    assert [m.raw for m in read(written(tmp_path / name, content))] == ['{"n": 1}', '{"n": 2}']


def test_line_ends_of_unicode_are_none(tmp_path: Path) -> None:
    """They may stand in a text."""
    path = written(tmp_path / "f", '{"user_id": "ada", "raw_data": "a\u2028b\x85c"}\n')
    assert [m.raw for m in read(path)] == ['"a\u2028b\x85c"']


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(TWO)[:-12], "cut off before its end; copy it again"),
        (gzip.compress(TWO)[:20] + b"x" * 20, "cannot be read"),
        (b"\x28\xb5\x2f\xfd...", "zstd -dc FILE | memory-pipeline import -"),
        (b"PK\x03\x04...", "unzip -p FILE conversations.json | memory-pipeline import -"),
        (b"SQLite format 3\0", "sqlite3 -json FILE"),
        (b"PGDMP\x01", "pg_restore"),
        (b"name" + b"\0" * 253 + b"ustar" + b"\0" * 300, "tar -xOf FILE NAME"),
        ('{"user_id": "ada", "raw_data": "café"}'.encode("latin-1"), "line 1: the byte 0xe9"),
        (b"[" + TWO.replace(b"}}\n{", b"}},{"), "the array does not end"),
    ],
    ids="cut damaged zstd zip sqlite pg_dump tar latin-1 array".split(),  # noqa: SIM905 - short
)
def test_a_file_of_another_kind_is_refused_with_what_to_do(
    tmp_path: Path, content: bytes, said: str
) -> None:
    """By its name."""
    path = written(tmp_path / "f", content)
    with pytest.raises(InvalidMemory) as refused:
        read(path)
    assert said in str(refused.value)
    assert str(refused.value).startswith(str(path))
    assert str(refused.value).endswith("; nothing was imported")


def test_an_encoding_can_be_named(tmp_path: Path) -> None:
    """One that does not exist is refused."""
    path = written(tmp_path / "f", '{"user_id": "ada", "raw_data": "café"}'.encode("latin-1"))
    assert [m.raw for m in read(path, encoding="latin-1")] == ['"café"']
    with pytest.raises(InvalidMemory, match="'latin-99' is no encoding"):
        read(path, encoding="latin-99")


def test_the_standard_input_is_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compressed too, though nobody can go back in it."""
    piped = io.TextIOWrapper(io.BytesIO(gzip.compress(TWO)))
    monkeypatch.setattr("sys.stdin", piped)
    assert len(read(Path("-"))) == 2


# ---- what a line is


def test_a_line_is_stored_as_it_is_written(tmp_path: Path) -> None:
    """What it does not say is left to Postgres; a number as user_id is the text that it is."""
    raw = '{"b":1.10,"a":12345678901234567890.125,"c":1e400,"a":100000000000000000000001 }'
    path = written(
        tmp_path / "f",
        f'{{"user_id": 42, "raw_data": {raw}}}\n'
        '{"user_id": "bob", "project_id": "p", "created_at": 1700000000, "raw_data": null}',
    )
    finish = Finish()
    first, second = read(path, finish=finish)
    assert (first.user_id, first.project_id, first.created_at, first.raw) == ("42", None, None, raw)
    assert (second.user_id, second.project_id, second.raw) == ("bob", "p", "null")
    assert second.created_at == "2023-11-14T22:13:20+00:00"
    assert finish.notes == {"created_at read as seconds since 1970": 1}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[1]", "element 1: no JSON object"),
        ("1", "line 1: no JSON object"),
        ("{", "line 1: no JSON"),
        ('{"raw_data": 1}', "--user-id NAME"),
        ('{"user_id": "ada"}', "--map raw_data=."),
        ('{"user_id": "ada", "content": 1}', "--map raw_data=content"),
        ('{"user_id": "ada", "raw_data": 1, "id": 2, "x": 3}', "--ignore id,x leaves it out"),
        ('{"user_id": 4.2, "raw_data": 1}', "user_id has to be a text"),
        ('{"user_id": true, "raw_data": 1}', "user_id has to be a text"),
        ('{"user_id": "ada", "project_id": [], "raw_data": 1}', "project_id has to be a text"),
        ('{"user_id": "a\\u0000", "raw_data": 1}', "user_id has a NUL"),
        ('{"user_id": "a\\ud800", "raw_data": 1}', "user_id has a lone surrogate"),
        ('{"user_id": "ada", "raw_data": "\\u0000"}', "raw_data has a NUL"),
        ('{"user_id": "ada", "raw_data": {"\\ud83d": 1}}', "raw_data has a lone surrogate"),
        ('{"user_id": "ada", "raw_data": NaN}', "NaN is no JSON; write null"),
        ('{"user_id": "ada", "created_at": "x", "raw_data": 1}', "created_at is no time"),
        ('{"mapping": {}, "current_node": 1}', "--preset chatgpt --user-id NAME"),
        ('{"memory": "x", "hash": 1, "user_id": "a"}', "--preset mem0"),
        ('{"results": []}', "--preset mem0"),
        ('{"agents": [], "blocks": []}', "--preset letta --user-id NAME"),
        ('{"text": "x", "embedding": null}', "--preset letta --user-id NAME"),
        ('{"type": "entity", "entityType": "x"}', "--preset mcp --user-id NAME"),
        ('{"haystack_sessions": []}', "--preset longmemeval"),
    ],
)
def test_a_refusal_says_what_to_do(tmp_path: Path, line: str, said: str) -> None:
    """It names the option that helps; otherwise the others can be imported."""
    with pytest.raises(InvalidMemory) as refused:
        read(written(tmp_path / "f", line), ByKeys(recognise=recognise))
    assert said in str(refused.value)
    assert " --" in str(refused.value)


def test_an_escaped_backslash_is_no_nul(tmp_path: Path) -> None:
    r"""The text \u0000 is six characters, and stored."""
    line = r'{"user_id": "ada", "raw_data": "\\u0000 \ud83d\ude00"}'
    assert [m.raw for m in read(written(tmp_path / "f", line))] == [r'"\\u0000 \ud83d\ude00"']


def test_a_name_that_is_never_indexed_is_told(tmp_path: Path) -> None:
    """It is stored: Postgres is the truth."""
    finish = Finish()
    path = written(tmp_path / "f", json.dumps({"user_id": "x" * 1001, "raw_data": 1}))
    assert len(read(path, finish=finish)) == 1
    assert any("never indexed" in note for note in finish.notes)


def test_an_empty_name_is_one_and_is_told(tmp_path: Path) -> None:
    """An application may have it; mostly it is a mistake."""
    finish = Finish("ada", "p")
    path = written(tmp_path / "f", '{"user_id": "", "project_id": "", "raw_data": 1}')
    [memory] = read(path, finish=finish)
    assert (memory.user_id, memory.project_id) == ("", "")
    assert finish.notes == {"user_id is the empty text": 1}


# ---- keys of other names


@pytest.mark.parametrize(
    ("mapped", "line", "raw"),
    [
        (["raw_data=content"], '{"user_id": "u", "content": "x"}', '"x"'),
        (["user_id=o.id,raw_data=."], '{"o": {"id": "u"}, "n": 1}', '{"o": {"id": "u"}, "n": 1}'),
        (["user_id=o.0", "raw_data=/a.b/c~1d"], '{"o": ["u"], "a.b": {"c/d": 1.10}}', "1.10"),
        (
            ["raw_data.text=body", "raw_data.title=head", "raw_data.x=absent"],
            '{"user_id": "u", "head": "h", "body": ["b"]}',
            '{"text": ["b"], "title": "h"}',
        ),
    ],
)
def test_a_map_names_where_a_column_comes_from(
    tmp_path: Path, mapped: list[str], line: str, raw: str
) -> None:
    """As it is written there."""
    [memory] = read(written(tmp_path / "f", line), ByMap(parse_map(mapped)))
    assert (memory.user_id, memory.raw) == ("u", raw)


def test_what_a_map_leaves_out_is_told(tmp_path: Path) -> None:
    """Each key once, with how often."""
    path = written(tmp_path / "f", '{"user_id": "u", "content": 1, "hash": 2}\n' * 3)
    finish = Finish()
    read(path, ByMap(parse_map(["raw_data=content"])), finish)
    assert finish.notes == {"key 'hash' left out": 3}


@pytest.mark.parametrize("entry", ["content", "text=content", "raw_data=", "=x", "user_id.x"])
def test_a_map_that_is_none_is_refused(entry: str) -> None:
    """Before anything is read."""
    with pytest.raises(SettingsError, match="--map"):
        parse_map([entry])


def test_what_a_line_lacks_is_given_for_all(tmp_path: Path) -> None:
    """What a line has counts; with tenants by project, the project is needed."""
    path = written(tmp_path / "f", '{"raw_data": 1}\n{"user_id": "eve", "raw_data": 2}')
    memories = read(path, finish=Finish("ada", "p"))
    assert [(m.user_id, m.project_id) for m in memories] == [("ada", "p"), ("eve", "p")]
    with pytest.raises(InvalidMemory, match="--project-id NAME"):
        read(path, finish=Finish(tenant_by="project_id"))


def test_an_external_id_is_a_key_of_the_line(tmp_path: Path) -> None:
    """A number is the text that it is; without it a line is refused."""
    path = written(tmp_path / "f", '{"id": 7, "user_id": "u", "raw_data": 1}')
    [memory] = read(path, ByKeys(external_id=path_of("id")), Finish(once=True))
    assert memory.external_id == "7"
    with pytest.raises(InvalidMemory, match="the external id is missing"):
        read(written(path, LINE % 1), ByKeys(external_id=path_of("id")), Finish(once=True))


# ---- exports of other programs

CHATGPT = """[{"id": "c1", "title": "Trip", "create_time": 1700000000.5, "mapping": {
 "n1": {"message": null, "children": ["n2"]},
 "n2": {"message": {"id": "m1", "create_time": null, "content": {"parts": [""]}}},
 "n3": {"message": {"id": "m2", "create_time": 1.7e9, "content": {"parts": ["From Lyon"]}}},
 "n4": {"message": {"id": "m3", "create_time": null, "content": {"text": "print()"}}}}}]"""
LETTA = """{"agents": [{"id": "agent-0", "name": "a", "messages": [
  {"role": "system", "content": "be kind"},
  {"role": "user", "content": "hi", "created_at": "2025-10-31T22:56:56Z"}]}],
 "blocks": [{"label": "human", "value": "Likes sailing", "limit": 20000}], "files": [1]}"""
MEM0 = """{"results": [{"id": "x1", "memory": "Likes oat milk", "hash": "ab", "user_id": "u1",
 "agent_id": null, "metadata": {"category": "food"}, "created_at": "2023-11-07T05:31:56-07:00"}],
 "relations": [{"source": "u1"}]}"""
MCP = """{"type": "entity", "name": "D3", "entityType": "t", "observations": ["v7"]}
{"type": "relation", "from": "a", "to": "D3", "relationType": "uses"}"""
LONGMEMEVAL = """[{"question_id": "q1", "haystack_dates": ["2023/04/10 (Mon) 17:50"],
 "haystack_session_ids": ["s1"], "haystack_sessions": [[{"role": "user", "content": "hello"}]]}]"""


@pytest.mark.parametrize(
    ("preset", "content", "memories", "notes"),
    [
        (
            "chatgpt",
            CHATGPT,
            [
                (
                    "me",
                    "2023-11-14T22:13:20+00:00",
                    (
                        '{"title": "Trip", "id": "m2", "create_time": 1.7e9, '
                        '"content": {"parts": ["From Lyon"]}}'
                    ),
                    "m2",
                ),
                (
                    "me",
                    "2023-11-14T22:13:20.500000+00:00",
                    (
                        '{"title": "Trip", "id": "m3", "create_time": null, '
                        '"content": {"text": "print()"}}'
                    ),
                    "m3",
                ),
            ],
            {"messages without a text left out": 1, "created_at read as seconds since 1970": 2},
        ),
        (
            "letta",
            LETTA,
            [
                (
                    "agent-0",
                    "2025-10-31T22:56:56+00:00",
                    '{"role": "user", "content": "hi", "created_at": "2025-10-31T22:56:56Z"}',
                    r'message ["\"agent-0\"", "1"]',
                ),
                (
                    "agent-0",
                    None,
                    '{"label": "human", "value": "Likes sailing"}',
                    r'block ["\"agent-0\"", "\"human\""]',
                ),
            ],
            {
                "messages of the system and of tools left out": 1,
                "files of the agents left out": 1,
            },
        ),
        (
            "letta",
            '{"id": "passage-1", "text": "x", "embedding": [0.5], "metadata": {}}',
            [("me", None, '{"text": "x", "metadata": {}}', "passage-1")],
            {},
        ),
        (
            "mem0",
            MEM0,
            [
                (
                    "u1",
                    "2023-11-07T12:31:56+00:00",
                    '{"memory": "Likes oat milk", "metadata": {"category": "food"}}',
                    "x1",
                )
            ],
            {"relations of the graph left out": 1},
        ),
        (
            "mcp",
            MCP,
            [
                ("me", None, MCP.splitlines()[0], r'entity ["\"D3\""]'),
                (
                    "me",
                    None,
                    MCP.splitlines()[1],
                    r'relation ["\"a\"", "\"uses\"", "\"D3\""]',
                ),
            ],
            {},
        ),
        (
            "longmemeval",
            LONGMEMEVAL,
            [
                (
                    "q1",
                    "2023-04-10T17:50:00+00:00",
                    '{"role": "user", "content": "hello"}',
                    r'turn ["\"s1\"", "0", "0"]',
                )
            ],
            {"created_at read as people write times, as UTC, having no time zone": 1},
        ),
    ],
)
def test_a_preset_knows_the_memories_of_an_export(
    tmp_path: Path,
    preset: PresetName,
    content: str,
    memories: list[tuple[str | None, str | None, str, str]],
    notes: dict[str, int],
) -> None:
    """Who, when, what, and by which name the next export knows it."""
    by_itself = preset in {"mem0", "longmemeval"} or content == LETTA
    finish = Finish(None if by_itself else "me", once=True)
    found = read(written(tmp_path / "f", content), PRESETS[preset].drafts, finish)
    assert [(m.user_id, m.created_at, m.raw, m.external_id) for m in found] == memories
    assert dict(finish.notes) == notes


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("content", ['{"a": 1}', "[[1]]", "7", '{"mapping": 1, "results": 1}'])
def test_a_file_of_another_kind_than_the_preset_is_refused(
    tmp_path: Path, preset: PresetName, content: str
) -> None:
    """With its line."""
    with pytest.raises(InvalidMemory, match="line 1"):
        read(written(tmp_path / "f", content), PRESETS[preset].drafts, Finish("me", once=True))


# ---- tables


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_rows_of_a_csv_file_are_memories(tmp_path: Path, delimiter: str) -> None:
    """A cell is a text, an object in raw_data an object; a row knows its line."""
    rows = 'user_id,raw_data,n\nada,"{""a"": 1.10}",\nbob,"two\nlines",7\n42,[x,1\n'
    path = written(tmp_path / "f.csv", codecs.BOM_UTF8 + rows.replace(",", delimiter).encode())
    memories = read(path, ByKeys(frozenset({"n"})))
    assert [(m.user_id, m.raw, m.origin.line) for m in memories] == [
        ("ada", '{"a": 1.10}', 2),
        ("bob", '"two\\nlines"', 3),
        ("42", '"[x"', 5),
    ]


def test_a_row_of_another_length_is_refused_by_its_line(tmp_path: Path) -> None:
    """Its cells would be those of other columns."""
    path = written(tmp_path / "f", "user_id,raw_data\nada,x\nbob,a,b\n")
    with pytest.raises(InvalidMemory, match="line 3: it has 3 cells, and the first line 2"):
        read(path, format="csv")


@pytest.mark.parametrize("content", ["", "a,a\n1,2\n"])
def test_a_csv_file_names_its_columns(tmp_path: Path, content: str) -> None:
    """Each once."""
    with pytest.raises(InvalidMemory, match="has to name its columns"):
        read(written(tmp_path / "f.csv", content))


@pytest.mark.parametrize("packed", [False, True])
def test_the_rows_of_a_parquet_file_are_memories(tmp_path: Path, packed: bool) -> None:  # noqa: FBT001
    """With their types: a time is one, a list is one, and a decimal keeps its digits."""
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    row = {
        "user_id": 42,
        "created_at": datetime(2024, 1, 2, tzinfo=UTC),
        "raw_data": {"tags": ["a"], "price": Decimal("1.10"), "at": datetime(2024, 1, 2)},  # noqa: DTZ001
    }
    out = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist([row]), out)
    content = gzip.compress(out.getvalue()) if packed else out.getvalue()
    [memory] = read(written(tmp_path / "f", content))
    assert (memory.user_id, memory.created_at) == ("42", "2024-01-02T00:00:00+00:00")
    raw = '{"tags": ["a"], "price": 1.10, "at": "2024-01-02T00:00:00"}'
    assert memory.raw == raw
    with pytest.raises(InvalidMemory, match="no whole Parquet file"):
        read(written(tmp_path / "f", out.getvalue()[:-40]))


# ---- the whole import


def test_a_limit_ends_the_import_and_progress_tells_how_far_it_is(tmp_path: Path) -> None:
    """What stands after the limit is not looked at: a bad line there is no error."""
    path = written(tmp_path / "f.jsonl", LINE % 1 + LINE % 2 + "no JSON\n")
    told: list[int] = []
    kept = Kept()
    reading = Reading(ByKeys(), Finish(), limit=2)
    assert import_file(kept, path, reading, progress=told.append).stored.imported == 2
    assert told == [path.stat().st_size]


def test_a_bad_line_is_named_and_nothing_is_imported(tmp_path: Path) -> None:
    """By the file and the number of the line."""
    kept, path = Kept(), written(tmp_path / "f.jsonl", LINE % 1 + "\n{}\n")
    with pytest.raises(InvalidMemory) as refused:
        import_file(kept, path, Reading(ByKeys(), Finish()))
    assert str(refused.value).startswith(f"{path}: line 3: raw_data is missing")
    assert str(refused.value).endswith("; nothing was imported")
    assert kept.memories == []


def test_what_is_refused_is_written_down_and_the_rest_imported(tmp_path: Path) -> None:
    """Line, reason and text: by the file, by a missing key, and by Postgres."""
    bad = b'{"user_id": "ada", "raw_data": "caf\xe9"}\n'
    content = (LINE % 1).encode() + b"no JSON\n{}\n" + bad + (LINE % 2 + LINE % 3).encode()
    kept, path = Kept(refuses='{"n": 2}'), written(tmp_path / "f.jsonl", content)
    done = import_file(kept, path, Reading(ByKeys(), Finish()), skip_bad=tmp_path / "bad.jsonl")
    assert (done.stored.imported, done.skipped) == (2, 4)
    lines = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert [line["line"] for line in lines] == [2, 3, 4, 5]
    assert [line["text"] for line in lines] == [
        "no JSON",
        "{}",
        '{"user_id": "ada", "raw_data": "caf\\xe9"}',
        LINE.strip() % 2,
    ]
    assert all(line["reason"] for line in lines)
    assert (tmp_path / "bad.jsonl").stat().st_mode & 0o077 == 0


def test_the_refused_do_not_overwrite_the_file(tmp_path: Path) -> None:
    """Nor do they go where nothing can be written."""
    path = written(tmp_path / "f.jsonl", LINE % 1)
    for target, said in ((path, "would overwrite"), (tmp_path / "no" / "b", "cannot be written")):
        with pytest.raises(InvalidMemory, match=said):
            import_file(Kept(), path, Reading(ByKeys(), Finish()), skip_bad=target)
    assert path.read_text() == LINE % 1
