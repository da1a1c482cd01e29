"""Hostile memories, tenants, filters and model answers, over a real Postgres and a real Chroma.

What goes wrong elsewhere: one memory that cannot be written stops its whole batch for ever, or is
dropped in silence, or its text ends up in a log. Here each either lands exactly or becomes a dead
letter with a reason, its neighbours of the same batch land, and no other tenant is touched.
"""

import json
import logging
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from typer.testing import CliRunner

from memory_pipeline.cli import app
from memory_pipeline.content.document import compose
from memory_pipeline.domain.partition_keys import SAFE_KEY
from memory_pipeline.domain.types import MemoryId, TenantId
from memory_pipeline.embedding.cache import CachedEmbedder
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.embedding.sentence import SentenceEmbedder
from memory_pipeline.errors import InvalidFilter, InvalidMemory
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.settings import Settings
from memory_pipeline.store import MemoryStore
from memory_pipeline_tests.words import drained, live, remember

ADA, EVE = TenantId("ada"), TenantId("eve")
SECONDS = 10.0
# Stands in every hostile memory, and nowhere else: no log may have it.
SECRET = "xyzzy-plugh"

Reopen = Callable[..., Pipeline]


@pytest.fixture
def reopened(settings: Settings, unmarked_chroma: None) -> Iterator[Reopen]:
    """Return a function that opens another pipeline on the same database."""
    with ExitStack() as stack:

        def reopen(embedder: Any = None, **changes: object) -> Pipeline:
            changed = Settings.load(**{**settings.model_dump(), **changes})
            return stack.enter_context(opened(changed, embedder=embedder or HashingEmbedder()))

        yield reopen


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Log all that is ever logged, and look through it: a document's text is in none of it."""
    caplog.set_level(logging.DEBUG)
    yield
    for record in [*caplog.get_records("setup"), *caplog.get_records("call")]:
        said = f"{record.getMessage()} {record.exc_text or ''}"
        assert SECRET not in said, f"{record.name} has logged a document's text"


def insert(db: psycopg.Connection, tenant: str, raw: str) -> MemoryId:
    """Insert raw_data as it stands; return the memory's id."""
    row = db.execute(
        "INSERT INTO memory_logs (user_id, raw_data) VALUES (%s, %s::jsonb) RETURNING id",
        (tenant, raw),
    ).fetchone()
    assert row is not None
    return MemoryId(row[0])


def drained_to_the_end(pipeline: Pipeline) -> None:
    """Drain, pauses or not, until nothing is pending."""
    for _ in range(10):
        drained(pipeline)
        if pipeline.status.totals().pending_changes == 0:
            return
        with pipeline.database.transaction() as connection:
            connection.execute("UPDATE memory_pipeline.change SET not_before = NULL")
    pytest.fail("it does not come to an end")


def documents(pipeline: Pipeline, tenant: TenantId) -> dict[int, tuple[str, dict[str, Any]]]:
    """Read a tenant's collection: text and metadata of each memory."""
    generation = live(pipeline, tenant)
    with pipeline.servers.client(generation.server).collection(generation, SECONDS) as collection:
        held: Any = collection.get(include=["documents", "metadatas"])
    return {
        int(name.removeprefix("memory_log_")): (text, metadata)
        for name, text, metadata in zip(
            held["ids"], held["documents"], held["metadatas"], strict=True
        )
    }


def assert_landed(pipeline: Pipeline, tenant: TenantId, ids: Sequence[MemoryId]) -> None:
    """Each landed exactly: its text as Postgres prints it, its metadata, found by its vector."""
    rows, left_out = pipeline.memories.read(ids)
    while left_out:
        more, left_out = pipeline.memories.read(left_out)
        rows |= more
    held = documents(pipeline, tenant)
    assert (
        set(held)
        == {m.id for m in pipeline.memories.of_tenant(tenant)} - buried(pipeline, tenant).keys()
    )
    for id_ in ids:
        text, metadata = held[id_]
        assert text == rows[id_].raw
        assert metadata == compose(rows[id_], pipeline.recipe).metadata
    vectors = {i: row.embedding for i, row in rows.items() if row.embedding is not None}
    assert len(vectors) == len(ids)
    assert not pipeline.index.unreachable_by_vector(
        live(pipeline, tenant), vectors, seconds=SECONDS
    )


def buried(pipeline: Pipeline, tenant: TenantId) -> dict[int, str]:
    """Return the dead letters of a tenant with their reasons."""
    with pipeline.database.transaction() as connection:
        rows = connection.execute(
            "SELECT memory_id, last_error FROM memory_pipeline.failure"
            " WHERE tenant = %s AND buried_at IS NOT NULL",
            (tenant,),
        ).fetchall()
    return dict(rows)


def kept_by_the_pipeline(db: psycopg.Connection) -> str:
    """Return all texts that the pipeline's own tables hold."""
    tables = [
        row[0]
        for row in db.execute(
            "SELECT table_name FROM information_schema.tables"
            " WHERE table_schema = 'memory_pipeline'"
        )
    ]
    return "\n".join(
        str(row) for name in tables for row in db.execute(f"SELECT * FROM memory_pipeline.{name}")
    )


# ---- raw_data


def deep(depth: int, *, objects: bool = False) -> str:
    """Nest a text so deep."""
    opening, closing = ('{"k": ', "}") if objects else ("[", "]")
    return opening * depth + f'"{SECRET} at the bottom"' + closing * depth


SHAPES = [
    "null", "true", "false", "0", "-0.0", "1e400", "-1e-400", "9" * 5000, str(2**63), str(-(2**63)),
    "123456789012345678901234567890.12345678901234567890", '""', '" "', '"\\t\\n\\r"', "[]", "{}",
    "[[], {}, [[]], null]", '{"": ""}', '{"": {"": [null]}}', '"NaN"', '"Infinity"', '"null"',
    '{"summary": "NaN", "task": "-Infinity"}', '{"date": "9999-99-99", "task": {"$eq": 1}}',
    f'{{"$and": [{{"$or": "{SECRET}"}}], "$where": "1=1", "$set": null}}',
    f'{{"#document": "{SECRET}", "chroma:document": "x", "_id": 1, "hash": "h", "ts": -1}}',
    f'{{"document": "{SECRET}", "embedding": [1], "metadata": {{}}, "id": "memory_log_1"}}',
    f'"\\u202e{SECRET} right to left \\u202c سلام שלום"',
    f'"👩‍👩‍👧‍👦 🏳️‍🌈 {SECRET} 🇩🇪 \\ud83d\\ude00"',
    '"\\u0001\\u001f\\u007f\\u0085\\u2028\\u2029\\ufeff\\ufffe\\uffff"', '"\\\\u0000 is no NUL"',
    f'"{SECRET}\\u00a0\\u3000\\u200b"', '"İıﬃẞ"', '"e\\u0301 é"', '"\\"quoted\\" \\\\ \\/ back"',
    f"\"'; DROP TABLE memory_logs; -- {SECRET}\"",
    f'"<script>{SECRET}</script> {{{{7*7}}}} %s %(x)s"',
    '"漢字かな" ', f'"{"漢" * 5000}"', f'"{"a" * 9000}"', f'{{"{"k" * 5000}": "{SECRET}"}}',
    json.dumps({f"key {n}": n for n in range(2000)}), json.dumps([SECRET] * 3000),
    deep(100), deep(1000), deep(1000, objects=True), deep(3000), deep(2000, objects=True),
]  # fmt: skip


def test_every_shape_lands_exactly(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """Document, metadata and vector are right for each, twins included, in one batch."""
    other = remember(db, "eve", "an untouched memory")
    drained_to_the_end(pipeline)
    before = documents(pipeline, EVE)
    ids = [insert(db, "ada", raw) for raw in SHAPES]
    twins = [insert(db, "ada", raw) for raw in SHAPES[10:20]]
    drained_to_the_end(pipeline)
    assert_landed(pipeline, ADA, [*ids, *twins])
    assert documents(pipeline, EVE) == before
    assert set(before) == {other}
    assert not buried(pipeline, ADA)
    assert SECRET not in kept_by_the_pipeline(db)
    assert not pipeline.verify().run(ADA, sample=None).findings


def test_every_shape_survives_a_rebuild(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """The other way into a collection holds the same."""
    ids = [insert(db, "ada", raw) for raw in SHAPES]
    drained_to_the_end(pipeline)
    assert pipeline.rebuild_alone(ADA).verdict == "done"
    assert_landed(pipeline, ADA, ids)


def test_as_deep_as_postgres_allows(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """The deepest memory that Postgres takes lands; what it refuses is refused at once."""
    ids: list[MemoryId] = []
    refused = 0
    for depth in (4000, 6000, 8000, 12000, 20000, 50000):
        try:
            ids.append(insert(db, "ada", deep(depth)))
        except psycopg.errors.StatementTooComplex:
            refused += 1
    assert ids
    assert refused
    drained_to_the_end(pipeline)
    assert_landed(pipeline, ADA, ids)


@pytest.mark.parametrize("size", [1, 1_000, 100_000, 1_000_000, 5_000_000])
def test_memories_of_any_size_land(reopened: Reopen, db: psycopg.Connection, size: int) -> None:
    """From one character to five megabytes, of words, of signs that are escaped, and of emoji."""
    pipeline = reopened(request_seconds=60.0, lease_seconds=80.0)  # the largest take seconds
    words = f"{SECRET} and other words "
    texts = [(words * (size // len(words) + 1))[:size], '"\\' * (size // 2), "😀" * (size // 4)]
    ids = [insert(db, "ada", json.dumps(text, ensure_ascii=False)) for text in texts]
    ids.append(MemoryId(remember(db, "ada", "a small neighbour")))
    drained_to_the_end(pipeline)
    assert_landed(pipeline, ADA, ids)


def test_a_memory_too_large_for_chroma_is_a_dead_letter(
    reopened: Reopen, db: psycopg.Connection
) -> None:
    """Chroma takes 40 MiB a request; whoever is larger is buried, and its neighbours land."""
    pipeline = reopened(max_attempts=2, document="full")
    small = [remember(db, "ada", f"a small neighbour {n}") for n in range(5)]
    large = insert(db, "ada", json.dumps(f"{SECRET}" + '"' * 11_000_000))
    small += [remember(db, "ada", f"another neighbour {n}") for n in range(5)]
    drained_to_the_end(pipeline)
    assert set(buried(pipeline, ADA)) == {large}
    assert "Payload too large" in buried(pipeline, ADA)[large]
    assert_landed(pipeline, ADA, [MemoryId(i) for i in small])
    assert SECRET not in kept_by_the_pipeline(db)


# ---- what is refused before it is stored


@pytest.fixture
def store(settings: Settings, unmarked_chroma: None) -> Iterator[MemoryStore]:
    """Return what an application calls."""
    with MemoryStore(settings) as opened_store:
        yield opened_store


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (f"a NUL \0 beside {SECRET}", "NUL"),
        ({"a NUL \0 in a key": SECRET}, "NUL"),
        (f"a lone surrogate \ud800 beside {SECRET}", "surrogate"),
        ({"\udfff": SECRET}, "surrogate"),
        (math.nan, "JSON"),
        ([math.inf], "JSON"),
        ({"far": 10**200_000}, "range"),
        ({"far": Decimal("1E+999999")}, "range"),
    ],
)
def test_what_no_jsonb_can_hold_is_said_by_its_name(
    store: MemoryStore, raw: object, said: str
) -> None:
    """The caller learns what is wrong, and the message does not repeat the memory."""
    with pytest.raises(InvalidMemory, match=said) as refusal:
        store.remember("ada", raw)
    assert SECRET not in str(refusal.value)


def test_a_memory_that_is_too_deep_is_invalid_and_no_outage(
    store: MemoryStore, pipeline: Pipeline
) -> None:
    """Postgres says that its stack is too small, which no retry makes any better."""
    with pytest.raises(InvalidMemory):
        pipeline.memories.insert(user_id="ada", project_id=None, raw=deep(50_000), created_at=None)
    nested: object = SECRET
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(InvalidMemory):
        store.remember("ada", nested)


@pytest.mark.parametrize("tenant", ["ada\0", "ada\ud800", "\0"])
def test_a_tenant_that_no_text_can_hold_has_nothing(store: MemoryStore, tenant: str) -> None:
    """It is said in the pipeline's own words, never with an error of the driver."""
    calls: list[Callable[[], object]] = [
        lambda: store.remember(tenant, {}),
        lambda: store.update(tenant, 1, {}),
        lambda: store.forget(tenant, 1),
        lambda: store.search(tenant, "anything"),
    ]
    for call in calls:
        with pytest.raises(InvalidMemory):
            call()
    assert store.get(tenant, 1) is None


@pytest.mark.parametrize("id_", [2**63, -(2**63) - 1, 10**30])
def test_an_id_that_no_memory_can_have_is_no_memorys(store: MemoryStore, id_: int) -> None:
    """It is answered like any other id that is not there."""
    assert store.get("ada", id_) is None
    assert not store.update("ada", id_, {})
    assert not store.forget("ada", id_)


# ---- fields to filter by


VALUES: dict[str, object] = {
    "list": [1, "two", None],
    "object": {"$gt": ""},
    "null": None,
    "bool": True,
    "int": 7,
    "largest": 2**63 - 1,
    "beyond": 2**63,
    "fraction": 0.5,
    "long": f"{SECRET} " * 1000,
    "text": "bugfix",
    "operator": "$ne",
    "empty": "",
    "emoji": "👩‍👩‍👧",
}


def test_hostile_values_of_filter_fields(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """What can be filtered by is found by it; what cannot is the empty text, never a near value."""
    ids = {name: remember(db, "ada", name, task=value) for name, value in VALUES.items()}
    drained_to_the_end(pipeline)
    assert_landed(pipeline, ADA, [MemoryId(i) for i in ids.values()])

    def found(value: object) -> set[str]:
        hits = pipeline.search.search(ADA, "anything", k=50, where={"task": value})
        return {name for name, id_ in ids.items() if id_ in {hit.memory_id for hit in hits}}

    assert found("") == {"object", "null", "beyond", "empty"}
    assert found(value=True) == {"bool"}
    assert found(7) == {"int"}
    assert found(2**63 - 1) == {"largest"}
    assert found(0.5) == {"fraction"}
    assert found("$ne") == {"operator"}
    assert found("👩‍👩‍👧") == {"emoji"}
    assert found((f"{SECRET} " * 1000)[:256]) == {"long"}
    assert found({"$nin": ["bugfix", "$ne"]}) == VALUES.keys() - {"text", "operator"}


def test_filter_fields_may_have_any_name_that_chroma_takes(
    reopened: Reopen, db: psycopg.Connection
) -> None:
    """Keys with dots, quotes, spaces, emoji and of operators' likes are plain keys."""
    names = ("a.b", "it's", 'say "so"', "with space", "👩‍👩‍👧", "eq", "date_ts", "_id", "x" * 200)
    pipeline = reopened(metadata_fields=names)
    memory = remember(db, "ada", "a memory", **{name: f"of {name}" for name in names})
    remember(db, "ada", "another")
    drained_to_the_end(pipeline)
    for name in names:
        hits = pipeline.search.search(ADA, "anything", where={name: f"of {name}"})
        assert [hit.memory_id for hit in hits] == [memory]


# ---- tenants


TENANTS = [
    "", " ", "  ", "a b", "a,b", "a/b", "a\\b", "../../etc", "..", ".", "...", "/etc/passwd",
    "a\nb", "a\tb", "a'b", 'a"b', "a'; DROP TABLE memory_logs; --", "%", "_", "a%", "$and", "{}",
    '["a", "b"]', "null", "None", "ada@example.com", "Ada", "ADA", "ada ", " ada", "ada-", "-ada",
    "ä", "a\u0308", "İ", "i̇", "ß", "SS", "ﬀ", "ff", "\U0001d538da",
    "👩‍👩‍👧", "\u202eada", "a\u200bda", "[red]x[/]",
    "[/red]", "\\[x", "\x1b[31mred", "x" * 100, "x" * 101, "y" * 500, "y" * 499 + "z",
    "memories-1", "memory-pipeline-marker", "a...b", "é" * 500,
]  # fmt: skip


def test_every_tenant_has_its_own_and_nothing_else(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P3: names that look alike to people, file systems, SQL or slugs are different tenants."""
    ids = {tenant: remember(db, tenant, "the same words") for tenant in TENANTS}
    drained_to_the_end(pipeline)
    keys = pipeline.registry.keys()
    assert set(keys) == set(TENANTS)
    assert len(set(keys.values())) == len(TENANTS)
    assert len({key.lower() for key in keys.values()}) >= len(TENANTS) - 2  # Ada, ADA
    for key in keys.values():
        assert SAFE_KEY.fullmatch(key)
        assert ".." not in key
    assert len({live(pipeline, TenantId(t)).collection_id for t in TENANTS}) == len(TENANTS)
    for tenant, id_ in ids.items():
        hits = pipeline.search.search(TenantId(tenant), "the same words", k=50)
        assert [hit.memory_id for hit in hits] == [id_]
        assert not pipeline.verify().run(TenantId(tenant), sample=None).findings


def test_a_tenant_too_long_to_be_one_breaks_nothing(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """More than 1,000 bytes: stored, counted, not indexed; the others are."""
    remember(db, "z" * 1001, "of nobody")
    longest = "é" * 500
    remember(db, longest, "of somebody")
    drained_to_the_end(pipeline)
    assert pipeline.search.search(TenantId("z" * 1001), "of nobody") == []
    assert len(pipeline.search.search(TenantId(longest), "of somebody")) == 1
    assert pipeline.status.totals().memories_without_tenant == 1


# ---- filters


@pytest.mark.parametrize(
    "where",
    [
        {"user_id": "eve"},
        {"tenant": "eve"},
        {"$or": [{"task": "a"}, {"user_id": "eve"}]},
        {"$where": "1 == 1"},
        {"$not": [{"task": "a"}]},
        {"task": {"$contains": ["a"]}},
        {"task": {"$contains": {"$ne": ""}}},
        {"#document": {"$contains": SECRET}},
        {"chroma:document": SECRET},
        {"$contains": SECRET},
        {"$regex": ".*"},
        {"task": {"$regex": ".*"}},
        {"task": {"$eq": {"$ne": ""}}},
        {"task": {"$in": [{"$ne": ""}]}},
        {"task": {"$eq": "a", "$where": "1"}},
        {"$or": [{"$and": [{"$or": [{"task": {"$like": "%"}}]}]}]},
        {"task": [{"$ne": ""}]},
        {"ts": {"$gt": "0 OR 1=1"}},
    ],
)
def test_no_filter_reaches_beyond_its_tenant_or_the_grammar(
    pipeline: Pipeline, db: psycopg.Connection, where: dict[str, Any]
) -> None:
    """P3: an operator, a key or another tenant that is smuggled in is refused, not passed on."""
    remember(db, "ada", "the same words", task="a")
    remember(db, "eve", "the same words", task="a")
    drained_to_the_end(pipeline)
    with pytest.raises(InvalidFilter):
        pipeline.search.search(ADA, "the same words", where=where)


# ---- what a model may answer


class Model:
    """A model that answers normally, but for texts that name what it shall answer."""

    answers: dict[str, Callable[[], Any]] = {  # noqa: RUF012 - nobody changes it
        "nan": lambda: np.full(768, np.nan),
        "one nan": lambda: np.r_[np.nan, np.ones(767)],
        "infinite": lambda: np.full(768, np.inf),
        "zero": lambda: np.zeros(768),
        "minus zero": lambda: np.full(768, -0.0),
    }
    odd: dict[str, Callable[[], Any]] = {  # noqa: RUF012
        "huge": lambda: np.full(768, 1e38),
        "tiny": lambda: np.full(768, 1e-38),
        "wide": lambda: np.linspace(-1, 1, 768).astype(np.float64),
    }

    def encode(self, texts: list[str], **_: object) -> Any:
        """Answer."""
        made = self.answers | self.odd
        ordinary = HashingEmbedder().embed(texts)
        rows = [
            next((make() for word, make in made.items() if text.endswith(f" {word}.")), vector)
            for text, vector in zip(texts, ordinary, strict=True)
        ]
        return np.stack([np.asarray(row, dtype=np.float64) for row in rows])


def embedder_of(model: Any) -> CachedEmbedder:
    """Return the real embedder around a model, as the settings would."""
    inner = SentenceEmbedder(Path("nowhere"))
    inner._encoder = model
    return CachedEmbedder(inner)


def test_vectors_without_a_direction_are_dead_letters(
    reopened: Reopen, db: psycopg.Connection
) -> None:
    """NaN, infinity and zero are buried with a reason; odd but usable answers land."""
    pipeline = reopened(embedder_of(Model()), max_attempts=2)
    bad = [remember(db, "ada", f"{SECRET} {word}.") for word in Model.answers]
    good = [remember(db, "ada", f"{SECRET} {word}.") for word in Model.odd]
    good += [remember(db, "ada", f"an ordinary memory {n}") for n in range(20)]
    drained_to_the_end(pipeline)
    reasons = buried(pipeline, ADA)
    assert sorted(reasons) == sorted(bad)
    for reason in reasons.values():
        assert "no usable vector" in reason
    assert_landed(pipeline, ADA, [MemoryId(i) for i in good])
    assert SECRET not in kept_by_the_pipeline(db)


@pytest.mark.parametrize(
    "shape",
    [(0, 768), (1, 768), (1000, 768), (None, 767), (None, 769), (None, 1), (768,), ()],
    ids=str,
)
def test_a_model_that_answers_in_another_shape_is_an_outage(
    reopened: Reopen, db: psycopg.Connection, shape: tuple[int | None, ...]
) -> None:
    """It is broken for all texts alike: everything waits, nobody is charged, it heals by itself."""

    class Broken(Model):
        def encode(self, texts: list[str], **_: object) -> Any:
            return np.ones([len(texts) if size is None else size for size in shape])

    ids = [remember(db, "ada", f"memory {n}") for n in range(3)]
    broken = reopened(embedder_of(Broken()))
    outcomes = list(broken.drain().run(paused=True))
    assert [o.verdict for o in outcomes] == ["postponed"]
    assert broken.status.totals().dead_letters == broken.status.totals().retrying == 0
    healed = reopened(embedder_of(Model()))
    drained_to_the_end(healed)
    assert_landed(healed, ADA, [MemoryId(i) for i in ids])


# ---- documents that strangers put into a collection


@pytest.mark.parametrize(
    "name",
    ["memory_log_9999999999999999999", "memory_log_007", "memory_log_-0", "memory_log_x", "x"],
)
def test_a_strangers_document_is_a_finding_and_no_crash(
    pipeline: Pipeline, db: psycopg.Connection, name: str
) -> None:
    """It is neither shown nor taken for a memory; verify finds it, and repair gets rid of it."""
    memory = remember(db, "ada", "a memory")
    insert(db, "ada", '{"summary": "zero"}')
    db.execute("UPDATE memory_logs SET id = 0 WHERE id <> %s", (memory,))
    drained_to_the_end(pipeline)
    generation = live(pipeline, ADA)
    [vector] = HashingEmbedder().embed(["a memory"])
    with pipeline.servers.client(generation.server).collection(generation, SECONDS) as collection:
        collection.add(
            ids=[name], embeddings=np.stack([vector]), metadatas=[{"hash": "h"}], documents=["d"]
        )
    hits = pipeline.search.search(ADA, "a memory", k=10)
    assert {hit.memory_id for hit in hits} == {memory, 0}
    assert [f.kind for f in pipeline.verify().run(ADA).findings] == ["foreign"]
    last = pipeline.repair().run(ADA).after
    assert not last.findings


# ---- the command line


@pytest.fixture
def cli(
    settings: Settings, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str]]:
    """Return a function that runs a command; an error that is no exit code fails the test."""
    assert settings.database_url is not None
    for name, value in {
        "HOME": str(settings.home),
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "CHROMA_URL": str(settings.chroma_url),
        "EMBEDDER": "hashing",
    }.items():
        monkeypatch.setenv(f"MEMORY_PIPELINE_{name}", value)

    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, list(arguments))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output

    return run


@pytest.mark.parametrize(
    "arguments",
    [
        ("remember", "-u", "ada", "[" * 100_000),
        ("remember", "-u", "ada", "9" * 5000),
        ("remember", "-u", "ada", "NaN"),
        ("remember", "-u", "ada", '"\\u0000"'),
        ("remember", "-u", "ada", '"\\ud800"'),
        ("remember", "-u", "\udcff", "text"),
        ("remember", "-u", "ada", "\udcff"),
        ("search", "anything", "-t", "ada", "--where", "[" * 100_000),
        ("search", "anything", "-t", "ada", "--where", '{"ts": %s}' % ("9" * 5000)),
        ("search", "anything", "-t", "ada", "--where", '{"ts": NaN}'),
        ("search", "anything", "-t", "\udcff"),
        ("search", "\udcff", "-t", "ada"),
        ("forget", "99999999999999999999", "-t", "ada"),
        ("forget", "1", "-t", "[/red]"),
        ("verify", "-t", "\udcff"),
        ("rebuild", "-t", "\udcff"),
        ("sync", "-t", "\udcff"),
    ],
    ids=lambda arguments: re.sub(r"\W+", "-", " ".join(arguments))[:40],
)
def test_no_command_ends_in_a_traceback(
    cli: Callable[..., tuple[int, str]], arguments: tuple[str, ...]
) -> None:
    """What a person or a script passes is answered in a line."""
    code, said = cli(*arguments)
    assert code in {0, 1, 2, 3}
    assert "Traceback" not in said


def test_hostile_memories_and_tenants_are_shown(
    cli: Callable[..., tuple[int, str]], pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """Tables and JSON show what there is, whatever it looks like, and run no escape of it."""
    names = ["[red]x[/]", "[/red]", "\\[/x]", "a\nb", "\x1b[31mred"]
    for tenant in names:
        for raw in (deep(3000), deep(2000, objects=True), f'{{"summary": {deep(2000)}}}'):
            insert(db, tenant, raw)
        for text in ("[/red] markup", "\\[/red] markup", "\\", "[bold", "\x1b]0;title\x07"):
            remember(db, tenant, text)
    drained_to_the_end(pipeline)
    for command in (("tenants",), ("status",), ("verify",)):
        assert cli(*command)[0] == 0
        assert cli(*command, "--json")[0] == 0
    for tenant in names:
        code, shown = cli("search", "markup", "-t", tenant, "-k", "20")
        assert code == 0
        assert "[/red] markup" in shown
        assert "\x1b" not in shown
        code, printed = cli("search", "markup", "-t", tenant, "-k", "20", "--json")
        assert code == 0
        assert printed.count('"memory_id"') == 8
