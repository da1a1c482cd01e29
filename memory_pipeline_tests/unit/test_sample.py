"""The memories of the demo are believable."""

import json
import re
from collections import Counter
from datetime import datetime
from importlib.resources import files

import pytest

from memory_pipeline.content.document import parse, recipe_from, searchable_text
from memory_pipeline.settings import Settings

MEMORIES = [
    json.loads(line)
    for line in (files("memory_pipeline") / "local" / "sample.jsonl")
    .read_text(encoding="utf-8")
    .splitlines()
]
QUESTIONS = [
    ("ben", "What made the battery run flat?", "Background location drained phones overnight"),
    (
        "chloe",
        "Why do two departments disagree about how many clients exist?",
        "Marketing and finance reported different numbers of customers",
    ),
    ("elif", "How do we shut out employees who quit?", "Leavers lose access within a minute"),
    (
        "ada",
        "Why was anybody charged double?",
        "Retried gateway timeouts produced duplicate invoices",
    ),
]


def test_each_line_has_the_shape_of_a_memory() -> None:
    """The sample loads into memory_logs as it stands."""
    for memory in MEMORIES:
        assert set(memory) == {"user_id", "project_id", "created_at", "raw_data"}
        raw = memory["raw_data"]
        assert set(raw) == {"date", "task", "component", "summary", "details"}
        assert all(isinstance(value, str) and value.strip() for value in raw.values())
        created = datetime.fromisoformat(memory["created_at"])
        assert created.tzinfo is not None
        assert created.date().isoformat() == raw["date"]


def test_five_tenants_have_a_believable_number_of_memories() -> None:
    """There is enough to search for every tenant."""
    counts = Counter(memory["user_id"] for memory in MEMORIES)
    assert set(counts) == {"ada", "ben", "chloe", "dmitri", "elif"}
    assert all(25 <= count <= 35 for count in counts.values())
    assert len({memory["project_id"] for memory in MEMORIES}) == 6


def test_no_memory_is_there_twice() -> None:
    """Every memory is different."""
    recipe = recipe_from(Settings())
    texts = {searchable_text(parse(json.dumps(m["raw_data"])), recipe) for m in MEMORIES}
    assert len(texts) == len(MEMORIES)
    assert len({m["raw_data"]["summary"] for m in MEMORIES}) == len(MEMORIES)


@pytest.mark.parametrize(("tenant", "question", "summary"), QUESTIONS)
def test_the_questions_of_the_demo_share_no_word_with_their_answers(
    tenant: str, question: str, summary: str
) -> None:
    """Only meaning leads from the question to its answer."""
    [answer] = [m for m in MEMORIES if m["raw_data"]["summary"] == summary]
    assert answer["user_id"] == tenant
    words = {w for w in re.findall(r"[a-z]+", question.lower()) if len(w) > 3}
    texts = " ".join(answer["raw_data"].values()).lower()
    assert not words & set(re.findall(r"[a-z]+", texts))
