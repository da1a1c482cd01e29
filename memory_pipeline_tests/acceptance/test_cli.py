"""The command line without services: its messages and its exit codes."""

import re
import subprocess
import zipfile
from pathlib import Path

import pytest

from memory_pipeline_tests.acceptance.conftest import ROOT, Cli

COMMANDS = [
    "up",
    "down",
    "env",
    "demo",
    "migrate",
    "import",
    "export",
    "remember",
    "forget",
    "sync",
    "search",
    "dead-letters",
    "replay",
    "status",
    "tenants",
    "chaos",
    "detach",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_is_in_the_readme(lonely: Cli, command: str) -> None:
    """A user finds each command without reading the code."""
    assert lonely(command, "--help").stdout.strip()
    assert re.search(rf"`[^`]*\b{command}\b", (ROOT / "README.md").read_text())


def test_every_command_of_the_readme_exists(lonely: Cli) -> None:
    """The README names no command that does not exist."""
    named = set(re.findall(r"memory-pipeline ([a-z]+)", (ROOT / "README.md").read_text()))
    listed = lonely("--help").stdout
    assert {name for name in named if not re.search(rf"\b{name}\b", listed)} == set()


@pytest.mark.parametrize(
    "words",
    [
        ("remember", "--user", "ada", "a memory"),
        ("search", "--tenant", "ada", "words"),
        ("sync",),
        ("tenants",),
        ("env",),
        ("migrate",),
    ],
)
def test_with_nothing_running_a_command_ends_with_3_and_names_the_remedy(
    lonely: Cli, words: tuple[str, ...]
) -> None:
    """One clear line, no traceback."""
    printed = lonely(*words, code=3).stderr.strip()
    assert "memory-pipeline up" in printed
    assert len(printed.splitlines()) == 1


def test_postgres_down_is_one_clear_line_and_3(lonely: Cli) -> None:
    """The password of the address is not in it."""
    dead = lonely.with_settings(DATABASE_URL="postgresql://ada:secret@127.0.0.1:9/app")
    printed = dead("remember", "--user", "ada", "a memory", code=3).stderr.strip()
    assert "Postgres" in printed
    assert "127.0.0.1:9" in printed
    assert "secret" not in printed
    assert len(printed.splitlines()) == 1


def test_status_without_services_names_what_is_down(lonely: Cli) -> None:
    """A program sees it in the exit code, a person in the output."""
    printed = lonely("status", code=3)
    assert "down" in printed.stdout


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("BATCH_SIZE", "many", "MEMORY_PIPELINE_BATCH_SIZE='many'"),
        ("TENANT_BY", "nobody", "'user_id', 'project_id' or 'both'"),
        ("CHROMA_URL", "ftp://x", "MEMORY_PIPELINE_CHROMA_URL"),
        ("DATABASE_URL", "mysql://u:secret@h/d", "postgresql://"),
        ("METADATA_FIELDS", "date,hash", "'hash' is taken"),
        ("REQUEST_SECONDS", "30", "MEMORY_PIPELINE_LEASE_SECONDS"),
        ("DEVICE", "gpu", "auto, cpu, cuda, cuda:0"),
    ],
)
def test_a_bad_setting_names_variable_value_and_what_is_allowed(
    lonely: Cli, name: str, value: str, expected: str
) -> None:
    """Exit 2, and no secret in the message."""
    printed = lonely.with_settings(**{name: value})("status", code=2).stderr
    assert expected in printed
    assert "secret" not in printed


def test_a_benchmark_of_an_absent_model_names_the_command_that_gets_it(
    lonely: Cli, tmp_path: Path
) -> None:
    """In one line, before any service is started."""
    without = lonely.with_settings(MODEL_DIR=str(tmp_path / "none"))
    printed = without("bench", "freshness", "--model", "real", code=2).stderr
    assert "memory-pipeline model pull" in printed
    assert "File " not in printed


def test_migrate_prints_sql_for_a_dba(lonely: Cli) -> None:
    """No database is needed."""
    printed = lonely("migrate", "--sql").stdout
    for expected in (
        "CREATE TABLE memory_pipeline.change",
        "memory_pipeline_capture",
        "ENABLE ALWAYS",
    ):
        assert expected in printed


def test_a_built_wheel_holds_all_that_is_needed(tmp_path: Path) -> None:
    """SQL, templates and the sample are installed with the code."""
    subprocess.run(
        ["python", "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    for file in (ROOT / "memory_pipeline").rglob("*"):
        if file.suffix in {".py", ".sql", ".yaml", ".jsonl", ".typed"}:
            assert str(file.relative_to(ROOT)) in held
    assert not any(name.startswith("memory_pipeline_tests") for name in held)
