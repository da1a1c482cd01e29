"""The pages of reference that are written from the code: settings, commands, metrics, log events.

``python -m memory_pipeline_tests.docs`` writes all of them; a test compares them with the code.
"""

import ast
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from memory_pipeline.cli import app
from memory_pipeline.settings import PREFIX, Settings
from memory_pipeline.sync.freshness import Freshness
from memory_pipeline.worker.metrics import Metrics
from memory_pipeline_tests.docs.pages import DOCS, ROOT

PROGRAM = "memory-pipeline"
WRITTEN = "This page is written from the code by `python -m memory_pipeline_tests.docs`."
LEVELS = ("debug", "info", "warning", "error", "exception", "critical")
SUFFIXES = {"counter": "_total"}


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(_cell(c) for c in line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# ---- settings


def settings_page() -> str:
    """Return the page of every setting."""
    rows = [_setting(name, field) for name, field in Settings.model_fields.items()]
    return (
        "# Settings\n\n"
        "Each setting is an environment variable. A value that is not allowed is refused at the\n"
        "start with exit code 2; the message names the variable, the value and what is allowed.\n"
        "Secrets are never printed. The few settings that matter first are explained in\n"
        f"[Use your own Postgres, Chroma and Dagster](../how-to/own-services.md).\n\n{WRITTEN}\n\n"
        + _table(("variable", "default", "meaning"), rows)
    )


def _setting(name: str, field: FieldInfo) -> tuple[str, str, str]:
    meaning = field.description or ""
    if get_origin(field.annotation) is Literal:
        meaning += " · " + ", ".join(f"`{value}`" for value in get_args(field.annotation))
    return f"`{PREFIX}{name.upper()}`", _default(field.default), meaning


def _default(default: object) -> str:
    if default is None or default == ():
        return "not set"
    return f"`{','.join(default) if isinstance(default, tuple) else default}`"


# ---- commands


def commands() -> dict[str, Any]:
    """Return every command by its words, e.g. ``dead-letters list``."""
    return dict(_commands(typer.main.get_command(app), ()))


def _commands(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    children: Mapping[str, Any] = getattr(command, "commands", {})
    if not children:
        yield " ".join(words), command
    for name, child in children.items():
        yield from _commands(child, (*words, name))


def cli_page() -> str:
    """Return the page of every command with its arguments and options."""
    found = commands()
    index = [(f"[`{n}`](#{n.replace(' ', '-')})", _first_line(c)) for n, c in found.items()]
    return (
        "# Commands\n\n"
        f"Every command of `{PROGRAM}`. A command exits with one of four [codes](exit-codes.md).\n"
        "With `--json` it prints one JSON value to standard output, and everything else goes to\n"
        f"standard error.\n\n{WRITTEN}\n\n"
        + _table(("command", "what it does"), index)
        + "".join(_command(name, command) for name, command in found.items())
    )


def _first_line(command: Any) -> str:
    return str(inspect.cleandoc(command.help or "")).split("\n\n")[0]


def _command(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    words = [PROGRAM, name, *(["[OPTIONS]"] if options else []), *map(_argument, arguments)]
    parts = [f"\n## {name}\n\n`{' '.join(words)}`\n\n{inspect.cleandoc(command.help or '')}\n"]
    rows = [(f"`{_argument(p)}`", _meaning(p)) for p in arguments]
    rows += [(_option(p), _meaning(p)) for p in options]
    if rows:
        parts.append("\n" + _table(("argument or option", "meaning"), rows))
    return "".join(parts)


def _argument(parameter: Any) -> str:
    name = parameter.name.upper() + ("..." if parameter.nargs == -1 else "")
    return name if parameter.required else f"[{name}]"


def _option(parameter: Any) -> str:
    names = ", ".join(f"`{o}`" for o in sorted(parameter.opts, key=len, reverse=True))
    return names + "".join(f" / `{o}`" for o in parameter.secondary_opts)


def _meaning(parameter: Any) -> str:
    allowed = [str(getattr(parameter, end, None)) for end in ("min", "max")]
    notes = []
    if parameter.required:
        notes.append("required")
    if allowed != ["None", "None"]:
        low, high = allowed
        notes.append(f"at least {low}" if high == "None" else f"{low} to {high}")
    if parameter.default not in {None, False, True} and parameter.default != ():
        notes.append(f"default: `{parameter.default}`")
    elif parameter.default is True:
        notes.append(f"default: `{parameter.opts[0]}`")
    return (parameter.help or "") + (f" ({'; '.join(notes)})" if notes else "")


# ---- metrics


def metrics_page() -> str:
    """Return the page of every metric that a worker serves."""
    rows = []
    collectors = Metrics(Freshness())._registry._collector_to_names
    for collector in collectors:
        known: Any = collector
        labels = ", ".join(f"`{label}`" for label in known._labelnames)
        name = f"`{known._name}{SUFFIXES.get(known._type, '')}`"
        rows.append((name, known._type, labels, known._documentation))
    return (
        "# Metrics\n\n"
        f"A worker serves these for Prometheus where `{PREFIX}METRICS_PORT` is set; see\n"
        "[Metrics and alerts](../how-to/metrics-and-alerts.md). No tenant's name is ever a label.\n"
        f"A histogram has `_bucket`, `_sum` and `_count`.\n\n{WRITTEN}\n\n"
        + _table(("metric", "type", "labels", "meaning"), sorted(rows))
    )


# ---- log events


@dataclass(frozen=True, slots=True, order=True)
class LogEvent:
    """One place that writes a log line."""

    name: str
    module: str
    level: str
    fields: tuple[str, ...]
    next: str


def log_events() -> list[LogEvent]:
    """Return every log line that the code can write, read from its syntax tree."""
    package = ROOT / "memory_pipeline"
    found: set[LogEvent] = set()
    for file in sorted(package.rglob("*.py")):
        module = str(file.relative_to(package))
        if not module.startswith("testing/"):
            found.update(_events(ast.parse(file.read_text()), module))
    return sorted(found)


def _events(tree: ast.Module, module: str) -> Iterator[LogEvent]:
    chosen = {  # tell = log.info if … else log.debug
        node.targets[0].id: " or ".join(levels)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and (levels := _levels(node.value))
    }
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and node.args):
            continue
        called = node.func
        level = chosen.get(called.id, "") if isinstance(called, ast.Name) else ""
        if isinstance(called, ast.Attribute) and called.attr in LEVELS:
            level = called.attr if _is_our_log(called.value) else ""
        for event in _constants(node.args[0]) if level else ():
            named = {k.arg: k.value for k in node.keywords if k.arg}
            more = ("…",) if any(k.arg is None for k in node.keywords) else ()
            following = named.pop("next", None)
            then = _text(following) or ("depends on the error" if following else "")
            fields = (*sorted(f"`{name}`" for name in named), *more)
            yield LogEvent(event, module, level, fields, then)


def _is_our_log(value: ast.expr) -> bool:
    """Whether this is a module's logger, and not the one that Dagster gives an op."""
    return isinstance(value, ast.Name) and value.id == "log"


def _constants(value: ast.expr) -> list[str]:
    if isinstance(value, ast.IfExp):
        return [*_constants(value.body), *_constants(value.orelse)]
    is_text = isinstance(value, ast.Constant) and isinstance(value.value, str)
    return [str(value.value)] if is_text and isinstance(value, ast.Constant) else []


def _levels(value: ast.expr) -> list[str]:
    if isinstance(value, ast.IfExp):
        return [*_levels(value.body), *_levels(value.orelse)]
    is_level = isinstance(value, ast.Attribute) and value.attr in LEVELS
    return [value.attr] if is_level and isinstance(value, ast.Attribute) else []


def _text(value: ast.expr | None) -> str:
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return value.value
    if isinstance(value, ast.JoinedStr):
        return "".join(
            _text(part) if isinstance(part, ast.Constant) else "…" for part in value.values
        )
    if isinstance(value, ast.IfExp):
        return f"{_text(value.body)}, or {_text(value.orelse)}"
    return ""


def log_events_page() -> str:
    """Return the page of every log event."""
    rows = [
        (f"`{e.name}`", e.level, ", ".join(e.fields), e.next, f"`{e.module}`") for e in log_events()
    ]
    return (
        "# Log events\n\n"
        "The pipeline writes one logfmt line for each decision: `timestamp=… level=… event=…` and\n"
        "then the fields below. A line holds no text of a memory and no secret. `exception` is\n"
        "the level *error* with a traceback. The services of `up` write to\n"
        f"`.memory_pipeline/logs`.\n\n{WRITTEN}\n\n"
        + _table(("event", "level", "fields", "what happens next", "module"), rows)
    )


GENERATED: dict[Path, Callable[[], str]] = {
    DOCS / "reference" / "settings.md": settings_page,
    DOCS / "reference" / "cli.md": cli_page,
    DOCS / "reference" / "metrics.md": metrics_page,
    DOCS / "reference" / "log-events.md": log_events_page,
}
