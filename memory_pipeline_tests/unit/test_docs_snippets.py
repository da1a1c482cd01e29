"""The check of code blocks can fail: each kind of mistake is planted once, and found."""

from pathlib import Path

import pytest

from memory_pipeline_tests.docs.pages import Block
from memory_pipeline_tests.docs.snippets import inline_problems, problems

PAGE = Path("page.md")
STORE = "from memory_pipeline import MemoryStore\nwith MemoryStore() as store:\n"


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("console", "$ memory-pipeline serach --tenant ada words\n"),
        ("console", "$ memory-pipeline search words\n"),
        ("console", "$ memory-pipeline search --tenant ada words --limit 5\n"),
        ("console", "$ memory-pipeline search --tenant ada words -k 0\n"),
        ("console", """$ memory-pipeline search -t ada words --where '{"colour": "red"}'\n"""),
        ("console", """$ memory-pipeline search -t ada words --where '{"ts": '\n"""),
        ("console", "$ memory-pipeline dead-letters waive --id 1\n"),
        ("console", "$ make tests\n"),
        ("console", "$ MEMORY_PIPELINE_ON_LOSS=rebuild make up\n"),
        ("console", "$ export MEMORY_PIPELINE_DEAD_LETTER_SEARCH=older\n"),
        ("console", '$ eval "$(memory-pipeline environment)"\n'),
        ("console", "$ docker compose -f docker/compose.yaml exec lively memory-pipeline status\n"),
        ("console", "$ docker compose -f docker/compose.yaml exec live memory-pipeline stats\n"),
        ("console", "$ cp docker/.env.sample docker/.env\n"),
        ("console", "$ frobnicate\n"),
        ("console", "$ memory-pipeline status\nmemories 1\n"),
        ("bash", "memory-pipeline status && memory-pipeline nothing\n"),
        ("python", "from memory_pipeline import MemoryShop\n"),
        ("python", "import memory_pipeline\nmemory_pipeline.MemoryShop()\n"),
        ("python", "from memory_pipeline import MemoryStore\nMemoryStore().recall('ada')\n"),
        (
            "python",
            f"{STORE}    for hit in store.search('ada', 'words'):\n        print(hit.score)\n",
        ),
        (
            "python",
            f"{STORE}    store.search('ada', 'words', limit=3)\n",
        ),
        ("python", "for\n"),
        ("json", '{"component": {"$like": "a"}}'),
        ("json", "{"),
        ("yaml", "a: [1\n"),
        ("mermaid", "flowchart LR\n    a --> [b\n"),
        ("text", "the output of something\n"),
        ("", "anything\n"),
        ("perl", "print 1\n"),
    ],
)
def test_a_broken_block_is_found(language: str, text: str) -> None:
    """What broke: nothing noticed what had drifted."""
    assert problems(Block(PAGE, 1, language, text), is_run=False) != []


@pytest.mark.parametrize(
    "code",
    [
        "memory-pipeline serach",
        "memory-pipeline verify --fix",
        "MEMORY_PIPELINE_ON_LOSS",
        "MEMORY_PIPELINE_BACKUP=never",
        "make tests",
    ],
)
def test_broken_code_in_a_line_is_found(code: str) -> None:
    """In tables and sentences too."""
    assert inline_problems(code) != []


@pytest.mark.parametrize(
    "code",
    ["memory-pipeline remember …", "MEMORY_PIPELINE_BACKUP=off", "memory_logs", "make docs"],
)
def test_right_code_in_a_line_passes(code: str) -> None:
    """An ellipsis is open, and most code is neither a command nor a setting."""
    assert inline_problems(code) == []
