"""The README's quickstart, run word for word against the running stack."""

import re
import subprocess
import sys

from memory_pipeline_tests.acceptance.conftest import COMMAND, ROOT, Cli


def blocks(language: str) -> list[str]:
    """Return the README's code blocks of a language."""
    text = (ROOT / "README.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_quickstarts_commands_work(stack: Cli) -> None:
    """What a new user types first does what it says; `down` is left to the end of the session."""
    (quickstart,) = [b for b in blocks("console") if "remember --user" in b]
    lines = [line.removeprefix("$ ") for line in quickstart.splitlines()]
    assert lines[-1] == ".venv/bin/memory-pipeline down"
    for line in lines[:-1]:
        done = subprocess.run(
            ["bash", "-c", line.replace(".venv/bin/memory-pipeline", str(COMMAND))],
            env=stack.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


def test_the_quickstarts_python_works(stack: Cli) -> None:
    """The store's example is a program."""
    (example,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", example],
        env=stack.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
