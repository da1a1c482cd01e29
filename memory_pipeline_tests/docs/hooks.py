"""What the site has beyond the pages of docs/: three things that MkDocs calls for by name.

1. mermaid's script comes from an installed package, so that the built site needs no internet. It is
   ``mermaid.min.js`` 11.16.0 as npm has it, byte for byte
2. GUARANTEES.md and CONTRIBUTING.md, which stay in the root, are pages as well
3. a link to a file of the repository leads to a page with that file. Where its text is a name of
   that file in code quotes, it leads to the line on which the name is defined
"""

import ast
import os
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from memory_pipeline_tests.docs.pages import DOCS, LINK, ROOT, links_of

MERMAID = "assets/mermaid.min.js"
ROOT_PAGES = {
    "GUARANTEES.md": "explanation/guarantees.md",
    "CONTRIBUTING.md": "explanation/contributing.md",
}
LANGUAGES = {".py": "python", ".sql": "sql", ".yaml": "yaml", ".toml": "toml", ".json": "json"}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add what does not lie in docs/."""
    files.append(File.generated(config, MERMAID, abs_src_path=str(_mermaid())))
    sources = [ROOT / name for name in ROOT_PAGES]
    for source, place in zip(sources, ROOT_PAGES.values(), strict=True):
        files.append(File.generated(config, place, content=source.read_text()))
    pages = [*DOCS.rglob("*.md"), *sources]
    linked = {link.target for page in pages for link in links_of(page)}
    for file in sorted(linked):
        if _is_code(file):
            files.append(File.generated(config, _code_page(file), content=_listing(file)))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Turn links to files of the repository into links of the site."""
    place = page.file.src_uri
    of_root = {v: k for k, v in ROOT_PAGES.items()}
    source = ROOT / of_root[place] if place in of_root else DOCS / place

    def turned(link: re.Match[str]) -> str:
        target, _, anchor = link["target"].partition("#")
        if "://" in target or not target:
            return link[0]
        file = (source.parent / target).resolve()
        to = _page_of(file)
        if to is None:
            return link[0]
        where = os.path.relpath(to, Path(place).parent)
        line = line_of(file, link["text"].strip("`")) if _is_code(file) else None
        to_line = f"{{ data-line={line} }}" if line else ""
        return f"[{link['text']}]({where}{'#' if anchor else ''}{anchor}){to_line}"

    return LINK.sub(turned, markdown)


def on_page_content(html: str, **_: object) -> str:
    """Lead links to their lines: MkDocs knows no anchors of lines, and would call them missing."""
    return re.sub(r'<a data-line="(\d+)" href="([^"]+)"', r'<a href="\2#__codelineno-0-\1"', html)


def _page_of(file: Path) -> str | None:
    if file.is_relative_to(DOCS):
        return str(file.relative_to(DOCS))
    if file == ROOT / "README.md":
        return "index.md"
    name = str(file.relative_to(ROOT)) if file.is_relative_to(ROOT) else ""
    return ROOT_PAGES.get(name) or (_code_page(file) if _is_code(file) else None)


def _is_code(file: Path) -> bool:
    inside = file.is_relative_to(ROOT) and not file.is_relative_to(DOCS)
    return inside and file.is_file() and file.suffix != ".md"


def _code_page(file: Path) -> str:
    return f"code/{file.relative_to(ROOT)}.md"


def _listing(file: Path) -> str:
    language = LANGUAGES.get(file.suffix, "text")
    name = file.relative_to(ROOT)
    head = "---\nhide: [navigation, toc]\nsearch: {exclude: true}\n---\n\n"
    return f'{head}# {name}\n\n````{language} linenums="1"\n{file.read_text()}````\n'


def _mermaid() -> Path:
    found = find_spec("mermaidx")  # it is not imported: it would start a JavaScript engine
    if found is None or found.origin is None:
        raise ModuleNotFoundError("mermaidx, which carries mermaid's script")
    return Path(found.origin).parent / "assets" / "mermaid.js"


def line_of(file: Path, name: str) -> int | None:
    """Return the line on which a file defines a name; None where it defines none of that name.

    In Python: a function, class, method (``Class.method``), constant or field. In SQL: a named
    query, a table, a function or a trigger.
    """
    return dict(_names(file)).get(name.removesuffix("()"))


@cache
def _names(file: Path) -> tuple[tuple[str, int], ...]:
    text = file.read_text()
    if file.suffix == ".py":
        return tuple(_python_names(ast.parse(text).body, ""))
    if file.suffix == ".sql":
        named = re.compile(
            r"^-- name: (\w+)|^CREATE (?:OR REPLACE )?(?:CONSTRAINT )?"
            r"(?:TABLE|FUNCTION|TRIGGER|UNIQUE INDEX) (?:\w+\.)?(\w+)",
            re.MULTILINE,
        )
        return tuple(
            (match[1] or match[2], text.count("\n", 0, match.start()) + 1)
            for match in named.finditer(text)
        )
    return ()


def _python_names(body: list[ast.stmt], owner: str) -> Iterator[tuple[str, int]]:
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield owner + node.name, node.lineno
        if isinstance(node, ast.ClassDef):
            yield from _python_names(node.body, f"{owner}{node.name}.")
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    yield owner + target.id, node.lineno
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield owner + node.target.id, node.lineno
