"""Check the code blocks of the documentation without running them.

Each block has to be of a kind that is checked here; a block of another kind is a problem by itself,
so that nothing stands in a page unchecked. What is checked:

- ``console``, ``bash``: each command has a checker of its own. ``memory-pipeline`` is parsed by the
  real command line (command, options, required arguments, ranges), its filters by the grammar
- ``python``: it compiles, its imports exist, and so does each attribute of what they name
- ``json``: a filter, by the grammar. ``text``: the output of a page that a test runs
- ``mermaid``: it is drawn. ``yaml``: it is read
"""

import ast
import importlib
import inspect
import json
import re
import shlex
import tempfile
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import mermaidx
import typer
import yaml

from memory_pipeline.cli import app
from memory_pipeline.content.document import recipe_from
from memory_pipeline.errors import PipelineError
from memory_pipeline.search.filters import parse_filter
from memory_pipeline.settings import PREFIX, Settings
from memory_pipeline_tests.docs.pages import ROOT, Block

PROGRAM = "memory-pipeline"
# Pages whose console and text blocks an acceptance test runs and compares, from first to last.
RUN_PAGES = ("docs/tutorial/first-steps.md",)
# Files that commands of the pages name and that a reader has.
READERS_FILES = ("memories.jsonl",)
SEPARATORS = frozenset({"|", "&&", "||", ";", "&"})
REDIRECTIONS = frozenset({">", ">>", "<", "2>"})


def problems(block: Block, *, is_run: bool) -> list[str]:
    """Return what is wrong with a block, one line each; nothing where it is right.

    ``is_run``: a test runs the page and compares its output.
    """
    if block.language == "text" and is_run:
        return []
    check = CHECKS.get(block.language)
    if check is None:
        return [f"a block of {block.language or 'no language'} is checked by nothing"]
    return check(block)


def _refusals(check: Callable[[], object]) -> list[str]:
    try:
        check()
    except (PipelineError, LookupError, ValueError, RuntimeError, yaml.YAMLError) as error:
        return [str(error)]
    return []


# ---- commands


def commands_of(block: Block) -> list[str]:
    """Return the command lines of a block, continued lines joined; without comments."""
    lines = block.text.replace("\\\n", " ").splitlines()
    if block.language == "console":
        said = [line for line in lines if line.strip() and not line.startswith(("$ ", "# "))]
        if said:
            return [f"unchecked-output {shlex.quote(said[0])}"]
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def command_problems(line: str) -> list[str]:
    """Return what is wrong with a command line as a shell would run it."""
    plain, inner = _substituted(line)
    found = [problem for command in inner for problem in command_problems(command)]
    try:
        words = _words(plain)
    except ValueError as error:
        return [f"{line}: {error}"]
    for command in _split(words):
        try:
            _check_command(command)
        except (LookupError, ValueError, PipelineError) as error:
            found.append(f"{line}: {error}")
    return found


def _substituted(line: str) -> tuple[str, list[str]]:
    """Return a line with a word in place of each ``$(…)``, and what stood in those."""
    inner: list[str] = []
    while (begin := line.find("$(")) >= 0:
        depth, end = 1, begin + 2
        while depth and end < len(line):
            depth += {"(": 1, ")": -1}.get(line[end], 0)
            end += 1
        inner.append(line[begin + 2 : end - 1])
        line = f"{line[:begin]}substituted{line[end:]}"
    return line, inner


def _words(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    return list(lexer)


def _split(words: Sequence[str]) -> Iterator[list[str]]:
    command: list[str] = []
    skip = False
    for word in words:
        if word in SEPARATORS:
            yield command
            command = []
        elif word in REDIRECTIONS:
            skip = True
        elif not skip:
            command.append(word)
        else:
            skip = False
    yield command


def _check_command(words: list[str]) -> None:
    """Check one simple command. Raises LookupError, ValueError or PipelineError."""
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0], re.DOTALL):
        _check_variable(words.pop(0))
    if not words:
        return
    program = words[0].removeprefix(".venv/bin/")
    checker = CHECKERS.get(program)
    if checker is None:
        raise LookupError(f"nothing checks the command {program!r}")
    checker(words[1:])


def _check_variable(assignment: str) -> None:
    name, _, value = assignment.partition("=")
    if not name.startswith(PREFIX):
        return
    field = name.removeprefix(PREFIX).lower()
    if field not in Settings.model_fields:
        raise LookupError(f"{name} is no setting")
    if value and "$" not in value and "substituted" not in value:
        Settings.load(**{field: value})


def _check_pipeline(words: Sequence[str]) -> None:
    parse_command(words)
    for option, value in pairwise(words):
        if option == "--where":
            check_filter(value)


def parse_command(words: Sequence[str]) -> None:
    """Parse a command line of the product. Raises ValueError."""
    command: Any = typer.main.get_command(app)
    named: list[str] = []
    left = list(words)
    while getattr(command, "commands", None):
        if left == ["--help"]:
            return
        if not left or left[0] not in command.commands:
            raise ValueError(f"{PROGRAM} {' '.join([*named, *left[:1]])}: no such command")
        named.append(left[0])
        command = command.commands[left.pop(0)]
    if left == ["--help"]:
        return
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        for file in READERS_FILES:
            Path(file).touch()
        try:
            command.make_context(" ".join(named), left)
        except typer.Abort:
            raise
        except Exception as refusal:
            if not hasattr(refusal, "format_message"):
                raise
            raise ValueError(
                f"{PROGRAM} {' '.join(words)}: {refusal.format_message()}"
            ) from refusal


def check_filter(text: str) -> None:
    """Check a filter in JSON. Raises ValueError or PipelineError."""
    parse_filter(json.loads(text), recipe_from(Settings.load()))


def _check_make(words: Sequence[str]) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for word in words:
        if "=" not in word and word not in targets:
            raise LookupError(f"the Makefile has no target {word!r}")
        if "=" in word and f"{word.partition('=')[0]} ?=" not in (ROOT / "Makefile").read_text():
            raise LookupError(f"the Makefile knows no {word!r}")


def _check_export(words: Sequence[str]) -> None:
    for word in words:
        _check_variable(word)


def _check_copy(words: Sequence[str]) -> None:
    if not (ROOT / words[0]).exists():
        raise LookupError(f"{words[0]} does not exist")


def _check_compose(words: Sequence[str]) -> None:
    if list(words[:2]) != ["compose", "-f"]:
        raise LookupError("docker is used with compose -f")
    file = yaml.safe_load((ROOT / words[2]).read_text())
    left = list(words[3:])
    while left and left[0] == "--profile":
        profiles = {p for s in file["services"].values() for p in s.get("profiles", ())}
        if left[1] not in profiles:
            raise LookupError(f"{words[2]} has no profile {left[1]!r}")
        del left[:2]
    action, *rest = left
    if action not in {"up", "down", "exec", "run", "logs", "ps"}:
        raise LookupError(f"docker compose {action}")
    if action in {"exec", "run"}:
        service, *inner = [w for w in rest if not w.startswith("-")] if action == "run" else rest
        if service not in file["services"]:
            raise LookupError(f"{words[2]} has no service {service!r}")
        if inner:
            _check_command(list(inner))
    for word in rest:
        if "=" in word and word.partition("=")[0] not in file["services"] and action == "up":
            raise LookupError(f"{words[2]} has no service for {word!r}")


def _check_python(words: Sequence[str]) -> None:
    if words[0] == "-m":
        if words[1] != "pytest":
            importlib.import_module(words[1])
    elif words[0] == "-c":
        found = python_problems(words[1])
        if found:
            raise ValueError("; ".join(found))
    elif not (ROOT / words[0]).exists():
        raise LookupError(f"{words[0]} does not exist")


def _check_nothing(_words: Sequence[str]) -> None:
    """Accept a program of the system, whose arguments are its own."""


def _check_output(words: Sequence[str]) -> None:
    raise LookupError(f"output in a console block: {words[0]!r}; a block of text has it")


CHECKERS: Mapping[str, Callable[[list[str]], None]] = {
    PROGRAM: _check_pipeline,
    "make": _check_make,
    "export": _check_export,
    "cp": _check_copy,
    "docker": _check_compose,
    "python": _check_python,
    "unchecked-output": _check_output,
    **dict.fromkeys(
        [
            "cd",
            "curl",
            "dagster-webserver",
            "eval",
            "git",
            "kill",
            "pg_dump",
            "pg_upgrade",
            "psql",
            "unzip",
            "zstd",
        ],
        _check_nothing,
    ),
}


# ---- inline code


def inline_problems(code: str) -> list[str]:
    """Return what is wrong with inline code that is a command or a setting; an ellipsis is open."""
    found: list[str] = []
    for assignment in re.findall(rf"{PREFIX}[A-Z_]+(?:=[^\s…]+)?", code):
        found += _refusals(partial(_check_variable, assignment))
    if code.removeprefix(".venv/bin/").startswith(f"{PROGRAM} "):
        found += _inline_command(code)
    if code.startswith("make ") and re.fullmatch(r"make [a-z ]+", code):
        found += command_problems(code)
    return found


def _inline_command(code: str) -> list[str]:
    words = [w for w in _words(code)[1:] if w != "…"]
    command: Any = typer.main.get_command(app)
    while getattr(command, "commands", None) and words:
        name = words.pop(0)
        if name not in command.commands:
            return [f"{code}: no such command"]
        command = command.commands[name]
    options = {o for p in getattr(command, "params", ()) for o in (*p.opts, *p.secondary_opts)}
    unknown = [w for w in words if re.match(r"--?[a-z]", w) and w not in options | {"--help"}]
    return [f"{code}: no option {word}" for word in unknown]


# ---- Python


def python_problems(code: str) -> list[str]:
    """Return what is wrong with an example in Python: syntax, imports, attributes, arguments."""
    try:
        tree = ast.parse(code)
    except SyntaxError as error:
        return [f"line {error.lineno}: {error.msg}"]
    return _Example().check(tree)


class _Example:
    """Follows an example as far as its names say what they are."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}  # names of imports
        self._types: dict[str, Any] = {}  # names of instances
        self._problems: list[str] = []

    def check(self, tree: ast.Module) -> list[str]:
        for node in ast.walk(tree):  # breadth first: a statement before what it holds
            if isinstance(node, ast.Import | ast.ImportFrom):
                self._import_names(node)
            else:
                self._bind_names(node)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                self._attribute(node)
            if isinstance(node, ast.Call):
                self._call(node)
        return self._problems

    def _import_names(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            if isinstance(node, ast.Import):
                self._import(alias.name, alias.asname)
            else:
                self._import_from(str(node.module), alias)

    def _bind_names(self, node: ast.AST) -> None:
        match node:
            case ast.With(items=items):
                for item in items:
                    self._bind(item.optional_vars, self._type_of(item.context_expr))
            case ast.Assign(targets=[target], value=value):
                self._bind(target, self._type_of(value))
            case ast.For(target=target, iter=iterated):
                self._bind(target, next(iter(typing.get_args(self._type_of(iterated))), None))

    def _import(self, name: str, as_name: str | None) -> None:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            self._problems.append(str(error))
            return
        self._values[as_name or name.partition(".")[0]] = (
            module if as_name else importlib.import_module(name.partition(".")[0])
        )

    def _import_from(self, module: str, alias: ast.alias) -> None:
        try:
            self._values[alias.asname or alias.name] = getattr(
                importlib.import_module(module), alias.name
            )
        except (ImportError, AttributeError) as error:
            self._problems.append(f"from {module} import {alias.name}: {error}")

    def _bind(self, target: ast.expr | None, type_: Any) -> None:
        if isinstance(target, ast.Name) and type_ is not None:
            self._types[target.id] = type_

    def _value_of(self, node: ast.expr) -> Any:
        """Return what an expression names: an import, or a member of one, or of an instance."""
        if isinstance(node, ast.Name):
            return self._values.get(node.id)
        if isinstance(node, ast.Attribute):
            owner = self._value_of(node.value) or self._type_of(node.value)
            return inspect.getattr_static(owner, node.attr, None) if owner else None
        return None

    def _type_of(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Name):
            return self._types.get(node.id)
        if isinstance(node, ast.Call):
            called = self._value_of(node.func)
            called = called.__func__ if isinstance(called, classmethod) else called
            if inspect.isclass(called):
                return called
            if callable(called):
                return typing.get_type_hints(called).get("return")
        return None

    def _attribute(self, node: ast.Attribute) -> None:
        owner = self._value_of(node.value) or self._type_of(node.value)
        if owner is None or typing.get_origin(owner) is not None:
            return
        fields = {**getattr(owner, "__annotations__", {}), **getattr(owner, "model_fields", {})}
        if not hasattr(owner, node.attr) and node.attr not in fields:
            self._problems.append(f"{ast.unparse(node)}: there is no {node.attr}")

    def _call(self, node: ast.Call) -> None:
        called = self._value_of(node.func)
        if called is None or any(isinstance(a, ast.Starred) for a in node.args):
            return
        own = []  # self, or the class
        if isinstance(called, classmethod) or (
            isinstance(node.func, ast.Attribute)
            and inspect.isfunction(called)
            and inspect.isclass(self._type_of(node.func.value))
        ):
            own = [None]
        called = called.__func__ if isinstance(called, classmethod) else called
        named = {k.arg: None for k in node.keywords if k.arg}
        try:
            inspect.signature(called).bind(*own, *(None for _ in node.args), **named)
        except TypeError as error:
            self._problems.append(f"{ast.unparse(node)}: {error}")
        except ValueError:  # it has no signature
            return


# ---- what a language is checked by


def _command_block(block: Block) -> list[str]:
    return [problem for command in commands_of(block) for problem in command_problems(command)]


CHECKS: Mapping[str, Callable[[Block], list[str]]] = {
    "console": _command_block,
    "bash": _command_block,
    "python": lambda block: python_problems(block.text),
    "json": lambda block: _refusals(lambda: check_filter(block.text)),
    "yaml": lambda block: _refusals(lambda: yaml.safe_load(block.text)),
    "mermaid": lambda block: _refusals(lambda: mermaidx.render(block.text).svg()),
}
