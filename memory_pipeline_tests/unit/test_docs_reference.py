"""The pages of reference say what the code says: ``python -m memory_pipeline_tests.docs``.

What broke: a third of the settings could be found in the code alone, and a renamed option stayed in
a page for months.
"""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from memory_pipeline.content.document import METADATA_CHARACTERS, describe, recipe_from
from memory_pipeline.domain.types import Memory, MemoryId, TenantId, document_id
from memory_pipeline.settings import Settings
from memory_pipeline_tests.docs.generated import GENERATED, commands, log_events
from memory_pipeline_tests.docs.pages import DOCS, ROOT, name_of


@pytest.mark.parametrize("path", GENERATED, ids=name_of)
def test_a_generated_page_is_up_to_date(path: Path) -> None:
    """Write it again by the one command, and commit it with the change."""
    assert path.read_text() == GENERATED[path](), "run: python -m memory_pipeline_tests.docs"


def test_every_command_and_option_has_a_help() -> None:
    """A name alone explains nothing."""
    found = commands()
    assert len(found) > 20
    assert [name for name, command in found.items() if not command.help] == []
    silent = [
        f"{name} {parameter.name}"
        for name, command in found.items()
        for parameter in command.params
        if not parameter.help
    ]
    assert silent == []


def test_the_log_events_are_found() -> None:
    """The page is read from the syntax tree: a change of style must not empty it."""
    events = {call.event for call in log_events()}
    assert len(events) > 20
    # What broke: a second parser of the same calls left out the one whose level is chosen.
    assert "synced" in events


def test_every_exit_code_is_explained() -> None:
    """No command ends with another code."""
    page = (DOCS / "reference" / "exit-codes.md").read_text()
    explained = set(re.findall(r"^\| (\d) \|", page, re.MULTILINE))
    errors = (ROOT / "memory_pipeline" / "errors.py").read_text()
    used = set(re.findall(r"^EXIT_\w+ = (\d)$", errors, re.MULTILINE))
    assert explained == used | {"0"}


def test_every_key_of_a_document_is_explained() -> None:
    """The page names the keys that a document has with the default settings, and no other."""
    page = (DOCS / "reference" / "documents.md").read_text()
    rows = re.findall(r"^\| (`.+?`) \|", page.partition("## Metadata")[2], re.MULTILINE)
    named = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    now = datetime(2026, 1, 1, tzinfo=UTC)
    memory = Memory(MemoryId(7), TenantId("ada"), "ada", None, "{}", None, now, now, "1")
    assert named == set(describe(memory, recipe_from(Settings.load())))
    assert document_id(memory.id) == "memory_log_7"
    assert f"{METADATA_CHARACTERS}\ncharacters" in page
