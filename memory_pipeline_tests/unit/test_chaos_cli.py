"""The command chaos: the place of its report. No fault is injected here."""

import json
import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from memory_pipeline.cli import app
from memory_pipeline.testing.chaos.figures import Figures, Options


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Options]:
    """Stand in for the run; return the options of each."""
    ran: list[Options] = []

    def run_chaos(options: Options, _progress: object) -> Figures:
        ran.append(options)
        return Figures(options)

    monkeypatch.setattr("memory_pipeline.testing.chaos.run.run_chaos", run_chaos)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return ran


@pytest.mark.parametrize("name", ["none/page.md", "page.json", "."])
def test_a_report_that_cannot_be_written_is_refused_at_once(
    name: str, runs: list[Options], tmp_path: Path
) -> None:
    """What broke: the run continued to its end, and then its page was lost."""
    done = CliRunner().invoke(app, ["chaos", "--report", str(tmp_path / name)])
    assert (done.exit_code, runs, list(tmp_path.iterdir())) == (2, [], [])
    assert "--report" in done.stderr


def test_the_page_is_printed_and_written_with_json_next_to_it(
    runs: list[Options], tmp_path: Path
) -> None:
    """Under the same name."""
    page = tmp_path / "page.md"
    done = CliRunner().invoke(app, ["chaos", "--seed", "7", "--report", str(page)])
    assert (done.exit_code, [options.seed for options in runs]) == (0, [7])
    assert page.read_text().strip() in done.stdout
    assert json.loads(page.with_suffix(".json").read_text())["changes"] == 0


def test_a_page_that_cannot_be_written_after_the_run_was_printed(
    runs: list[Options], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk may be full by then."""

    def full(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(Path, "write_text", full)
    done = CliRunner().invoke(app, ["chaos", "--report", str(tmp_path / "page.md")])
    assert isinstance(done.exception, OSError)
    assert "every promise was kept" in done.stdout
    assert len(runs) == 1
