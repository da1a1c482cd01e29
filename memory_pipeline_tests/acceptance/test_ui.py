"""What a person sees in Dagster, in a real browser; skipped if none is installed."""

import json
import shutil
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from memory_pipeline_tests.acceptance.conftest import Cli

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync")


@pytest.fixture
def page() -> Iterator[Page]:
    """Open a browser window."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser here: install one of {', '.join(BROWSERS)} to run the UI test")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(FLAGS))
        yield browser.new_page(viewport={"width": 1400, "height": 900})
        browser.close()


@pytest.mark.browser
def test_the_ui_shows_every_tenant_as_materialized_with_its_figures(
    stack: Cli, page: Page, wait_until: Callable[..., None]
) -> None:
    """A person finds the tenant as materialized, with the number of documents written."""
    stack("remember", "--user", "seen-in-the-ui", "a memory to look at")
    wait_until(lambda: stack.json("status")["pending_changes"] == 0, within=120)
    ui = json.loads((stack.home / "services.json").read_text())["ui_url"]

    page.goto(f"{ui}/assets/memory_index?view=partitions&partition=seen-in-the-ui")

    expect(page.get_by_text("documents written")).to_be_visible(timeout=30_000)
    expect(page.get_by_text("dagster/row_count")).to_be_visible()
    expect(page.get_by_text("Missing (0)")).to_be_visible()
    expect(page.get_by_text("Failed (0)")).to_be_visible()
