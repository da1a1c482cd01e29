"""The pages of the documentation, and what stands in them: code blocks, links, inline code."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = tuple(
    sorted(
        [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "GUARANTEES.md", *DOCS.rglob("*.md")]
    )
)
# A fence may be indented, below a list's item or in a tab; its text is indented as far.
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[^\n]*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
INLINE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced code block."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        """Return where the block begins, as an editor opens it."""
        return f"{name_of(self.page)}:{self.line}"


@dataclass(frozen=True, slots=True)
class Link:
    """A link of a page to another file of the repository."""

    page: Path
    text: str
    target: Path
    anchor: str


def name_of(page: Path) -> str:
    """Return a page's path below the repository's root."""
    return str(page.relative_to(ROOT)) if page.is_relative_to(ROOT) else page.name


def blocks_of(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    text = page.read_text()
    for fence in FENCE.finditer(text):
        indent = fence["indent"]
        body = "".join(
            line.removeprefix(indent) for line in fence["text"].splitlines(keepends=True)
        )
        yield Block(page, text.count("\n", 0, fence.start()) + 1, fence["language"].strip(), body)


def prose_of(page: Path) -> str:
    """Return a page without its fenced blocks; every line keeps its number."""
    return FENCE.sub(lambda fence: "\n" * fence[0].count("\n"), page.read_text())


def inline_of(page: Path) -> list[str]:
    """Return the inline code of a page."""
    return INLINE.findall(prose_of(page))


def links_of(page: Path) -> Iterator[Link]:
    """Yield the links of a page that lead to files."""
    for link in LINK.finditer(prose_of(page)):
        target, _, anchor = link["target"].partition("#")
        if "://" not in target and not target.startswith("mailto:"):
            file = (page.parent / target).resolve() if target else page
            yield Link(page, link["text"], file, anchor)
