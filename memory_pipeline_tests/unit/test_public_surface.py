"""What an application may import: every public name, and every error that a public call raises."""

import builtins
import importlib
import inspect
import pkgutil
import re
import rlcompleter
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import memory_pipeline
from memory_pipeline.errors import PipelineError
from memory_pipeline.search.query import Search

ROOT = Path(__file__).parents[2]
# No call of the public surface raises these.
INTERNAL = {
    "Fenced": "ends a batch or a rebuild, whose worker handles it",
    "StillInUse": "of `detach` alone",
    "ServiceFailed": "of `up` alone",
    "AnotherUp": "of `up` and `down` alone",
    "BackupRefused": "costs the backup of a vector, and is recorded",
    "BackupRaced": "leaves a change pending for a moment",
    "ReportFailed": "of a worker, which shows it in `status` and reports again",
    "DeviceUnusable": "a caller catches SettingsError; a worker goes on as without a model",
}
# A Dagster tick, or a script that catches an error, does without these.
HEAVY = ("chromadb", "torch", "dagster", "psycopg", "pydantic", "numpy", "sentence_transformers")


def raised(text: str | None) -> set[str]:
    """Return the names in the Raises section of a docstring."""
    section = re.search(r"^Raises:\n((?:(?: .*)?\n?)*)", inspect.cleandoc(text or ""), re.MULTILINE)
    return set(re.findall(r"^    (\w+): ", section[1], re.MULTILINE)) if section else set()


def public_calls() -> Iterator[tuple[str, Callable[..., object]]]:
    """Return every public class and every public method of it that is ours."""
    for name in memory_pipeline.__all__:
        public = getattr(memory_pipeline, name)
        yield name, public
        for method, function in vars(public).items():
            called = getattr(function, "__func__", function)
            if not method.startswith("_") and inspect.isfunction(called):
                yield f"{name}.{method}", called


def errors(base: type[PipelineError] = PipelineError) -> Iterator[type[PipelineError]]:
    """Return every subclass of an error that any module of the product defines."""
    for error in base.__subclasses__():
        if error.__module__.startswith("memory_pipeline."):
            yield error
            yield from errors(error)


def test_every_public_name_can_be_imported() -> None:
    """And the list, the table of modules and what a completion sees are one."""
    assert memory_pipeline.__all__ == sorted(memory_pipeline._MODULES)
    for name in memory_pipeline.__all__:
        assert getattr(memory_pipeline, name).__name__ == name
    assert set(memory_pipeline.__all__) <= set(dir(memory_pipeline))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = memory_pipeline.Nothing


def test_a_shell_completes_the_public_names() -> None:
    """What broke: dir() had none of them, so no completion did."""
    shell = rlcompleter.Completer({"memory_pipeline": memory_pipeline})
    assert shell.complete("memory_pipeline.MemoryS", 0) == "memory_pipeline.MemoryStore("
    assert shell.complete("memory_pipeline.InvalidF", 0) == "memory_pipeline.InvalidFilter("


def test_an_error_that_a_docstring_names_can_be_imported() -> None:
    """What broke: six errors of public calls had to be imported from modules that may change."""
    for call, function in public_calls():
        for name in raised(function.__doc__):
            exported = name in memory_pipeline.__all__ or hasattr(builtins, name)
            assert exported, f"{call} raises {name}, which memory_pipeline does not export"


def test_every_error_is_public_or_said_to_be_internal() -> None:
    """A new class of error is put on one of the two lists."""
    for module in pkgutil.walk_packages(memory_pipeline.__path__, "memory_pipeline."):
        if not module.name.startswith(("memory_pipeline.testing", "memory_pipeline.postgres.migr")):
            importlib.import_module(module.name)
    found = {error.__name__ for error in errors()}
    assert found == set(memory_pipeline.__all__) & found | set(INTERNAL)
    assert not set(INTERNAL) & set(memory_pipeline.__all__)


def test_every_public_method_says_what_it_raises() -> None:
    """All of them go to Postgres; a search to Chroma and the model as well."""
    store = memory_pipeline.MemoryStore
    for method in ("remember", "update", "forget", "get", "search"):
        said = raised(getattr(store, method).__doc__)
        assert said >= {"PostgresUnavailable", "ContractError"}, method
        assert method == "get" or "InvalidMemory" in said, method
    assert raised(store.search.__doc__) >= raised(Search.search.__doc__)
    assert raised(store.search.__doc__) >= {"ModelMissing", "EmbedderUnavailable", "Poison"}
    assert raised(store.__doc__) == {"SettingsError", "PostgresUnavailable"}
    assert raised(memory_pipeline.Settings.load.__doc__) == {"SettingsError"}


def test_importing_the_package_is_cheap() -> None:
    """Neither the import, nor dir(), the version or an error load a library."""
    code = (
        "import sys, memory_pipeline as m; dir(m); m.PipelineError; m.__version__;"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_version_is_written_once() -> None:
    """In pyproject.toml; the package reads it from what is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert memory_pipeline.__version__ == project["version"]
    assert project["version"] not in (ROOT / "memory_pipeline" / "__init__.py").read_text()
