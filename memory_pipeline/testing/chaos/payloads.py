"""The contents of memories in a run: one character to 64 KB, in many scripts. Seeded."""

import hashlib
import json
import random
from typing import Any

# fmt: off
WORDS = [
    "deploy", "rollback", "index", "tenant", "memory", "vector", "garden", "coffee",
    "invoice", "meeting", "latency", "outage", "café", "naïve", "Zürich", "straße",
    "привет", "мир", "данные", "記憶", "検索", "東京", "서울", "기억", "ذاكرة", "بحث", "שלום",
    "ελληνικά", "🚀", "🌱", "👩🏽‍💻", "résumé", "quartz", "zebra", "harbour", "lantern",
    "copper", "thunder", "orchard", "velvet", "compass",
]
# fmt: on
LONGEST_BYTES = 64_000
TINY_SHARE, LARGE_SHARE = 0.03, 0.004
# Random marks keep texts apart: long texts of few words are all near each other.
MARK_BITS = 48
# The model refuses a text with the first mark, Chroma a request with the second (by the proxy).
POISON = "qvxpoisonembed"
REFUSED = "qvxpoisonindex"


def content(chance: random.Random) -> Any:
    """Return the content of a memory: 3 % are tiny, 0.4 % large."""
    kind = chance.random()
    if kind < TINY_SHARE:
        return chance.choice(["x", "é", "🌱", chance.randrange(10), [], {"text": "y"}])
    words = [*chance.choices(WORDS, k=chance.randint(3, 25)), *_marks(chance, 4)]
    chance.shuffle(words)
    value = {"summary": " ".join(words), "component": chance.choice(["auth", "billing", "search"])}
    if chance.random() < 0.3:  # noqa: PLR2004 - a share with more fields
        value["date"] = f"2026-{chance.randint(1, 12):02d}-{chance.randint(1, 28):02d}"
        value["title"] = " ".join(chance.choices(WORDS, k=3))
    if kind > 1 - LARGE_SHARE:
        value["details"] = " ".join(_marks(chance, chance.randint(100, LONGEST_BYTES // 13)))
    return value


def poison(chance: random.Random, mark: str) -> Any:
    """Return content that cannot be indexed: the model or Chroma refuses ``mark``."""
    return {"summary": " ".join([mark, *_marks(chance, 3)])}


def question(chance: random.Random) -> str:
    """Return the text of a search."""
    return " ".join(chance.choices(WORDS, k=3))


def digest(value: Any) -> str:
    """Return a hash of a content that does not depend on how Postgres prints it."""
    printed = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(printed.encode(), digest_size=12).hexdigest()


def _marks(chance: random.Random, count: int) -> list[str]:
    return [f"{chance.getrandbits(MARK_BITS):012x}" for _ in range(count)]
