"""The pages of reference that are written from the code: settings, commands, metrics, log events.

``python -m memory_pipeline_tests.docs`` writes all of them; a test compares them with the code.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from memory_pipeline.cli import app
from memory_pipeline.settings import PREFIX, Settings
from memory_pipeline.sync.freshness import Freshness
from memory_pipeline.worker.metrics import Metrics
from memory_pipeline_tests.docs.log_calls import LogCall, log_calls, sources
from memory_pipeline_tests.docs.pages import DOCS

PROGRAM = "memory-pipeline"
WRITTEN = "This page is written from the code by `python -m memory_pipeline_tests.docs`."
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


def log_events() -> list[LogCall]:
    """Return every log line that the services can write."""
    return [
        call
        for file, source in sources()
        if not file.startswith("testing/")
        for call in log_calls(source, file)
    ]


def _log_event(call: LogCall) -> tuple[str, str, str, str, str]:
    level = "debug or info" if call.method == "log" else call.method  # by what happened
    fields = sorted(f"`{name}`" for name in call.fields - {"next"})
    named = ", ".join([*fields, "…"] if call.more else fields)
    then = "depends on the error" if call.next == "…" else call.next
    return f"`{call.event}`", level, named, then, f"`{call.file}`"


def log_events_page() -> str:
    """Return the page of every log event."""
    rows = sorted({_log_event(call) for call in log_events()})
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
