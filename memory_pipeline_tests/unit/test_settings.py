"""The settings of Chroma servers: which addresses there are, and how they are refused."""

import pytest

from memory_pipeline.errors import SettingsError
from memory_pipeline.local.environment import settings_environment
from memory_pipeline.settings import Settings

FIRST, SECOND, THIRD = "http://a:1", "http://b:2", "https://c"


def test_further_chroma_servers_are_a_list_in_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blanks and closing slashes do not count."""
    monkeypatch.setenv("MEMORY_PIPELINE_CHROMA_URLS", f" {SECOND}/ , {THIRD}")
    assert Settings.load().chroma_addresses() == (SECOND, THIRD)
    assert Settings.load(chroma_url=FIRST).chroma_addresses() == (FIRST, SECOND, THIRD)


def test_no_chroma_server_at_all_is_no_address() -> None:
    """An empty variable names none."""
    assert Settings.load(chroma_urls="").chroma_addresses() == ()


@pytest.mark.parametrize(
    ("urls", "says"),
    [
        (f"{SECOND},{SECOND}/", "different addresses"),
        (f"{SECOND},{FIRST}", "MEMORY_PIPELINE_CHROMA_URL again"),
        (f"{SECOND},ftp://x", "http://host:port"),
        (f"{SECOND},http://ada:secret@x:1", "MEMORY_PIPELINE_CHROMA_TOKEN"),
        (f"{SECOND},http://x:1/path", "http://host:port"),
    ],
)
def test_a_bad_list_of_chroma_servers_is_refused(urls: str, says: str) -> None:
    """Each address is checked as the first one is, and named once; no secret is in the message."""
    with pytest.raises(SettingsError, match="MEMORY_PIPELINE_CHROMA_URLS") as refused:
        Settings.load(chroma_url=FIRST, chroma_urls=urls)
    assert says in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("chroma_servers", 0), ("chroma_servers", 65), ("retire_seconds", -1), ("on_loss", "panic")],
)
def test_a_value_out_of_its_bounds_is_refused(name: str, value: object) -> None:
    """The message names the variable."""
    with pytest.raises(SettingsError, match=f"MEMORY_PIPELINE_{name.upper()}="):
        Settings.load(**{name: value})


@pytest.mark.parametrize("urls", [(), (SECOND,), (SECOND, THIRD)])
def test_a_service_reads_the_settings_that_up_was_given(
    urls: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through its environment: every address, and how many servers run here."""
    given = Settings.load(chroma_url=FIRST, chroma_urls=urls, chroma_servers=3, on_loss="rebuild")
    for name, value in settings_environment(given).items():
        monkeypatch.setenv(name, value)
    read = Settings.load()
    assert read.chroma_addresses() == (FIRST, *urls)
    assert (read.chroma_servers, read.on_loss) == (3, "rebuild")
