"""docs/settings.md names every setting. Run as a program, this writes it anew."""

from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from memory_pipeline.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "settings.md"
HEAD = """\
# Settings

Each is a variable of the environment. A value that is not allowed is refused at the start, with
what is allowed. This page is written from the code:
`python -m memory_pipeline_tests.unit.test_settings_page`.

| variable | default | meaning |
|---|---|---|
"""


def page() -> str:
    """Return the page as it has to be."""
    return HEAD + "".join(_row(name, field) for name, field in Settings.model_fields.items())


def _row(name: str, field: FieldInfo) -> str:
    meaning = field.description or ""
    if get_origin(field.annotation) is Literal:
        meaning += " · " + ", ".join(f"`{value}`" for value in get_args(field.annotation))
    return f"| `{PREFIX}{name.upper()}` | {_shown(field.default)} | {meaning} |\n"


def _shown(default: object) -> str:
    if default is None or default == ():
        return "not set"
    return f"`{','.join(default) if isinstance(default, tuple) else default}`"


def test_the_page_has_every_setting() -> None:
    """What broke: a third of the settings could be found in the code alone."""
    assert PAGE.read_text() == page()


def test_every_setting_says_what_it_means() -> None:
    """A name and a default alone explain nothing."""
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_the_readme_leads_there() -> None:
    """And every variable that it names is one."""
    readme = (ROOT / "README.md").read_text()
    assert "(docs/settings.md)" in readme
    named = {word.strip("`…,.") for word in readme.split() if word.startswith(f"`{PREFIX}")}
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    assert {name.partition("=")[0].strip("`") for name in named} <= known


if __name__ == "__main__":
    PAGE.write_text(page())
