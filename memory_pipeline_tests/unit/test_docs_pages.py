"""The pages of the documentation: each code block is checked, each link leads somewhere.

What broke: a page named a value that a setting no longer has, and a command as it once was. A block
that nothing checks fails here, so that none can be added unchecked.
"""

import re
from pathlib import Path

import pytest

from memory_pipeline_tests.docs import snippets
from memory_pipeline_tests.docs.hooks import line_of
from memory_pipeline_tests.docs.pages import (
    PAGES,
    ROOT,
    Block,
    Link,
    blocks_of,
    inline_of,
    links_of,
    name_of,
    prose_of,
)

README = ROOT / "README.md"
README_LINES = 180
README_COLUMNS = 120
BLOCKS = [block for page in PAGES for block in blocks_of(page)]
LINKS = [link for page in PAGES for link in links_of(page)]
NAME = re.compile(r"`[\w.]+(?:\(\))?`")


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_every_code_block_is_checked(block: Block) -> None:
    """It is run by a test, or parsed by what it is for; of another kind there is none."""
    is_run = name_of(block.page) in snippets.RUN_PAGES
    assert snippets.problems(block, is_run=is_run) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_and_setting_in_a_line_exists(page: Path) -> None:
    """In tables and sentences too."""
    assert [p for code in inline_of(page) for p in snippets.inline_problems(code)] == []


@pytest.mark.parametrize("link", LINKS, ids=lambda link: f"{name_of(link.page)}→{link.text}")
def test_every_link_leads_somewhere(link: Link) -> None:
    """To a file, and to a heading of it; a name in code quotes is defined in that file."""
    assert link.target.exists(), link.target
    if link.target.suffix == ".md":
        assert not link.anchor or link.anchor in _anchors(link.target), link.anchor
    elif NAME.fullmatch(link.text):
        assert line_of(link.target, link.text.strip("`")), f"{link.text} in {link.target}"


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in headings}


def test_the_readme_is_short() -> None:
    """A stranger reads one page before deciding; a long line is read by nobody."""
    lines = README.read_text().splitlines()
    assert len(lines) <= README_LINES
    assert [n for n in lines if len(n) > README_COLUMNS and not n.startswith("|")] == []


def test_the_readme_begins_with_its_contents() -> None:
    """Every heading is named there."""
    text = prose_of(README)
    contents, _, rest = text.partition("\n## ")
    headings = re.findall(r"^## (.+)$", f"## {rest}", re.MULTILINE)
    named = re.findall(r"\]\(#([^)]+)\)", contents)
    assert named == [h.lower().replace(" ", "-") for h in headings]


def test_the_readme_has_the_test_command() -> None:
    """CI runs it as it stands there."""
    (command,) = re.findall(r"## Tests\n\n```console\n\$ (.+)\n```", README.read_text())
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_every_page_is_reached_from_the_readme() -> None:
    """A page that nothing leads to is not found."""
    reached, left = {README}, [README]
    while left:
        for link in links_of(left.pop()):
            if link.target.suffix == ".md" and link.target not in reached:
                reached.add(link.target)
                left.append(link.target)
    front = ROOT / "docs" / "index.md"  # the site's own first page
    assert set(PAGES) - reached - {front} == set()


def test_every_state_of_a_diagram_is_explained() -> None:
    """In the protocol each lettered arrow has its paragraph, and each paragraph its arrow."""
    text = (ROOT / "docs" / "explanation" / "protocol.md").read_text()
    diagrams = re.findall(
        r"```mermaid\nstateDiagram-v2\n(.*?)```\n(.*?)(?=\n## |\n### |\Z)", text, re.DOTALL
    )
    assert len(diagrams) == 3
    for diagram, below in diagrams:
        arrows = set(re.findall(r"--> \S+: ([A-Z])$", diagram, re.MULTILINE))
        assert arrows == set(re.findall(r"^- \*\*([A-Z]): ", below, re.MULTILINE))
