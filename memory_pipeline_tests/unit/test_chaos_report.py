"""docs/chaos.md is what the report prints from docs/chaos.json. Run as a program, this prints it.

What broke: the page was printed by an older report, whose sentences no code had any more.
"""

import json
from pathlib import Path

from memory_pipeline.testing.chaos.figures import Figures, Options
from memory_pipeline.testing.chaos.report import as_json, as_page

PAGE = Path(__file__).parents[2] / "docs" / "chaos.md"


def page() -> str:
    """Return the page that the report prints from the stored figures."""
    return as_page(json.loads(PAGE.with_suffix(".json").read_text()))


def test_the_page_is_what_the_report_prints_from_its_json() -> None:
    """The figures are measured once; the words are today's."""
    assert PAGE.read_text() == page()


def test_the_stored_figures_have_the_fields_of_a_report() -> None:
    """No more and no fewer: a field under another name would be missing from the page."""
    stored = json.loads(PAGE.with_suffix(".json").read_text())
    assert sorted(stored) == sorted(as_json(Figures(Options(10, 2, 3, 4.0, seed=77))))


if __name__ == "__main__":
    PAGE.write_text(page())
