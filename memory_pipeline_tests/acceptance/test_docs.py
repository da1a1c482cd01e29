"""The documentation, run word for word: the tutorial on a stack of its own, every Python example.

What broke: a page that only looks right teaches a new user what does not work.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from memory_pipeline_tests.acceptance.conftest import Cli
from memory_pipeline_tests.docs.pages import DOCS, Block, blocks_of
from memory_pipeline_tests.docs.snippets import commands_of

TUTORIAL = DOCS / "tutorial" / "first-steps.md"
# It installs, which has been done, and stays in the foreground.
NOT_RUN = "make up"
# A tutorial says "within seconds": what only reads is run again until its output is the page's.
READS = re.compile(r"memory-pipeline (?:search|status|verify)\b")
PATIENCE_SECONDS = 90.0
PAUSE_SECONDS = 1.0
EXAMPLES = [b for page in DOCS.rglob("*.md") for b in blocks_of(page) if b.language == "python"]


@pytest.fixture
def clone() -> Iterator[Path]:
    """Return a folder with a .venv, as one has it after `make`; whatever runs there is stopped."""
    # Open for all to enter, as pytest's own folders are not: else root's data would go elsewhere.
    place = Path(tempfile.mkdtemp(prefix="memory-pipeline-tutorial-"))
    place.chmod(0o755)
    (place / ".venv").symlink_to(Path(sys.executable).parent.parent)
    try:
        yield place
    finally:
        _run(".venv/bin/memory-pipeline down", place)
        shutil.rmtree(place)


@pytest.mark.timeout(600)
def test_the_tutorial_works(clone: Path) -> None:
    """Each command ends well, and prints what the page shows; … stands for anything."""
    command = ""
    for block in blocks_of(TUTORIAL):
        if block.language == "text":
            _wait_for(block, command, clone)
            command = ""
        for line in commands_of(block) if block.language == "console" else ():
            if command:
                _succeed(command, clone)
            command = "" if line == NOT_RUN else line
    assert command.endswith("memory-pipeline down")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda block: block.place)
def test_every_example_in_python_works(stack: Cli, example: Block) -> None:
    """Each is a program."""
    done = subprocess.run(
        [sys.executable, "-c", example.text],
        env=stack.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def _wait_for(expected: Block, command: str, place: Path) -> None:
    """Run a command until it prints what stands in the page; only once where it writes."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        printed = _succeed(command, place)
        missing = _missing(expected.text, printed)
        if not missing:
            return
        in_time = READS.search(command) and time.monotonic() < until
        assert in_time, f"{expected.place}: {command}: no line {missing!r} in\n{printed}"
        threading.Event().wait(PAUSE_SECONDS)


def _missing(expected: str, printed: str) -> str:
    """Return the first expected line that is not printed, in order; nothing where all are."""
    lines = iter(" ".join(line.split()) for line in printed.splitlines())
    for line in expected.splitlines():
        pattern = re.compile(".*".join(map(re.escape, re.split(r" ?… ?", " ".join(line.split())))))
        if not any(pattern.fullmatch(printed_line) for printed_line in lines):
            return line
    return ""


def _succeed(command: str, place: Path) -> str:
    done = _run(command, place)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def _run(command: str, place: Path) -> subprocess.CompletedProcess[str]:
    settings = {"MEMORY_PIPELINE_EMBEDDER": "hashing"}
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MEMORY_PIPELINE_")}
    return subprocess.run(
        ["bash", "-c", command],
        cwd=place,
        env=kept | settings,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
