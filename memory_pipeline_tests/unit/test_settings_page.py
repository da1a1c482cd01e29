"""The page of settings names every one. ``python -m memory_pipeline_tests.docs`` writes it."""

from memory_pipeline.settings import PREFIX, Settings
from memory_pipeline_tests.docs.generated import settings_page
from memory_pipeline_tests.docs.pages import DOCS, ROOT


def test_the_page_has_every_setting() -> None:
    """What broke: a third of the settings could be found in the code alone."""
    page = (DOCS / "reference" / "settings.md").read_text()
    assert page == settings_page()
    assert [n for n in Settings.model_fields if f"`{PREFIX}{n.upper()}`" not in page] == []


def test_every_setting_says_what_it_means() -> None:
    """A name and a default alone explain nothing."""
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_the_readme_leads_there() -> None:
    """One click from the first page."""
    assert "(docs/reference/settings.md)" in (ROOT / "README.md").read_text()
