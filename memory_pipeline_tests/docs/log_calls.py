"""Every call of a logger in the product, read from its syntax trees.

The reference page of the log events is written from these, and a test checks each of them.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from memory_pipeline_tests.docs.pages import ROOT

PRODUCT = ROOT / "memory_pipeline"
METHODS = {"debug", "info", "warning", "error", "exception", "critical", "log"}


@dataclass(frozen=True, slots=True)
class LogCall:
    """A call of ``log``, the logger of a module.

    ``event``: None where it is no literal. ``fields``: the names of the keywords. ``more``: whether
    there are others, which are computed. ``next``: what happens next, with … for what is computed.
    """

    file: str
    number: int
    method: str
    event: str | None
    fields: frozenset[str]
    more: bool
    next: str


def sources() -> Iterator[tuple[str, str]]:
    """Yield every module of the product, with its source."""
    for path in sorted(PRODUCT.rglob("*.py")):
        yield str(path.relative_to(PRODUCT)), path.read_text()


def log_calls(source: str, file: str = "planted.py") -> Iterator[LogCall]:
    """Parse the calls of ``log`` in a module."""
    tree = ast.parse(source)
    constants = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and is_log_method(node.func)):
            continue
        assert isinstance(node.func, ast.Attribute)
        method = node.func.attr
        events = node.args[1:] if method == "log" else node.args  # log.log(level, event)
        literal = events[0] if len(events) == 1 else None
        event = literal.value if isinstance(literal, ast.Constant) else None
        keywords = {k.arg: k.value for k in node.keywords if k.arg}
        yield LogCall(
            file,
            node.lineno,
            method,
            event if isinstance(event, str) else None,
            frozenset(keywords),
            more=any(k.arg is None for k in node.keywords),
            next=_text(keywords["next"], constants) if "next" in keywords else "",
        )


def is_log_method(node: ast.AST) -> bool:
    """Whether this is a method of a module's logger; the one that Dagster gives an op is none."""
    return (
        isinstance(node, ast.Attribute)
        and node.attr in METHODS
        and isinstance(node.value, ast.Name)
        and node.value.id == "log"
    )


def _text(value: ast.expr, constants: Mapping[str, ast.expr]) -> str:
    match value:
        case ast.Constant(value=str(text)):
            return text
        case ast.Name(id=name) if name in constants:
            return _text(constants[name], constants)
        case ast.JoinedStr(values=parts):
            return "".join(_text(part, constants) for part in parts)
        case ast.IfExp(body=body, orelse=orelse):
            return f"{_text(body, constants)}, or {_text(orelse, constants)}"
        case _:
            return "…"
