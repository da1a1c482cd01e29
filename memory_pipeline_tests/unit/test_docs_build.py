"""The documentation builds as a site, strictly, and the site needs no internet."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import memory_pipeline
from memory_pipeline_tests.docs.pages import ROOT

MERMAID_BYTES = 1_000_000


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as `make docs` does; a warning fails it."""
    place = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(place)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return place


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    """No script, style, font or picture: it is read on a plane, and tells nobody who reads it."""
    loads = re.compile(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"']?(?:https?:)?//[^>]+")
    found = [m[0] for page in site.rglob("*.html") for m in loads.finditer(page.read_text())]
    assert found == []


def test_diagrams_are_drawn_by_a_script_of_the_site(site: Path) -> None:
    """The theme would fetch it from elsewhere if it were not there."""
    assert (site / "assets" / "mermaid.min.js").stat().st_size > MERMAID_BYTES
    protocol = (site / "explanation" / "protocol.html").read_text()
    assert protocol.count('class="mermaid"') == 4
    assert 'src="../assets/mermaid.min.js"' in protocol


def test_links_into_the_code_lead_to_the_line(site: Path) -> None:
    """A name in the protocol is a click away from its definition."""
    protocol = (site / "explanation" / "protocol.html").read_text()
    linked = re.findall(r'href="\.\./(code/[^"#]+)#(__codelineno-0-\d+)"', protocol)
    assert len(linked) > 30
    for page, anchor in linked:
        assert f'id="{anchor}"' in (site / page).read_text(), page


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    """The page of Python is made from the docstrings of what is public."""
    page = (site / "reference" / "python.html").read_text()
    missing = [n for n in memory_pipeline.__all__ if f'id="memory_pipeline.{n}"' not in page]
    assert missing == []
