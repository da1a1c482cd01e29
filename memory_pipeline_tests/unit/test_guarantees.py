"""GUARANTEES.md names tests and files; this fails when one of them is gone."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "GUARANTEES.md").read_text()
TESTS = {file.name: file for file in (ROOT / "memory_pipeline_tests").rglob("test_*.py")}


def test_every_named_test_exists() -> None:
    """A promise without its test is only a sentence."""
    named = re.findall(r"`(?:[\w/]*/)?(test_\w+\.py)(?:::(\w+))?`", TEXT)
    assert len(named) > 5
    for file, function in named:
        assert file in TESTS, file
        assert f"def {function}" in TESTS[file].read_text() or not function, function


def test_every_named_piece_of_code_exists() -> None:
    """And so is one whose code has moved away."""
    named = [n for n in re.findall(r"`([\w/]+\.(?:py|sql))`", TEXT) if "test_" not in n]
    assert len(named) > 5
    for file in named:
        assert (ROOT / "memory_pipeline" / file).exists(), file
