"""The settings: values that are refused, the message, and that no secret is shown."""

import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from psycopg.conninfo import conninfo_to_dict
from typer.testing import CliRunner

from memory_pipeline.cli import app
from memory_pipeline.embedding import sentence
from memory_pipeline.errors import (
    EXIT_USAGE,
    EmbedderUnavailable,
    PostgresUnavailable,
    SettingsError,
    exit_code,
)
from memory_pipeline.local.environment import settings_environment
from memory_pipeline.postgres.database import Database
from memory_pipeline.redact import without_password
from memory_pipeline.settings import Settings

FIRST, SECOND, THIRD = "http://a:1", "http://b:2", "https://c"


def test_further_chroma_servers_are_a_list_in_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blanks and closing slashes are ignored."""
    monkeypatch.setenv("MEMORY_PIPELINE_CHROMA_URLS", f" {SECOND}/ , {THIRD}")
    assert Settings.load().chroma_addresses() == (SECOND, THIRD)
    assert Settings.load(chroma_url=FIRST).chroma_addresses() == (FIRST, SECOND, THIRD)


def test_no_chroma_server_at_all_is_no_address() -> None:
    """An empty variable names no server."""
    assert Settings.load(chroma_urls="").chroma_addresses() == ()


@pytest.mark.parametrize(
    ("urls", "says"),
    [
        (f"{SECOND},{SECOND}/", "different addresses"),
        (f"{SECOND},{FIRST}", "repeats the server of MEMORY_PIPELINE_CHROMA_URL"),
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
    [
        ("chroma_servers", 0),
        ("chroma_servers", 65),
        ("retire_seconds", -1),
        ("on_server_loss", "panic"),
        ("home", ""),
        ("home", "~no-such-user/home"),
        ("model_dir", "~no-such-user/model"),
    ],
)
def test_a_value_out_of_its_bounds_is_refused(name: str, value: object) -> None:
    """The message names the variable."""
    with pytest.raises(SettingsError, match=f"MEMORY_PIPELINE_{name.upper()}="):
        Settings.load(**{name: value})


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:10", "cuda:127", "mps"])
def test_a_device_of_torch_is_taken(device: str) -> None:
    """Whether this machine has it is found when the model is loaded."""
    assert Settings.load(device=device).device == device


@pytest.mark.parametrize(
    "device",
    ["", "gpu", "CUDA", "cuda:", "cuda:01", "cuda:128", "cuda:-1", " cpu", "cpu:0", "cuda\n"],
)
def test_what_is_no_device_is_a_wrong_setting(device: str) -> None:
    """What broke: a typo was taken for an outage of the model, and waited for."""
    with pytest.raises(SettingsError) as refused:
        Settings.load(device=device)
    assert str(refused.value) == (
        f"MEMORY_PIPELINE_DEVICE={device!r}: "
        "allowed are auto, cpu, cuda, cuda:0, cuda:1 and so on, and mps"
    )


def test_a_command_with_a_wrong_device_ends_with_2_and_one_line() -> None:
    """Exit code 3 would have a script wait for it."""
    done = CliRunner().invoke(app, ["status"], env={"MEMORY_PIPELINE_DEVICE": "gpu"})
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("device", "built", "seen", "says"),
    [
        ("cuda", False, 0, "the installed torch is built without cuda"),
        ("cuda:1", False, 0, "the installed torch is built without cuda"),
        ("cuda:2", True, 2, "torch sees 2 CUDA devices; allowed are cuda:0 to cuda:1"),
    ],
)
def test_a_device_that_torch_cannot_use_is_a_wrong_setting(
    device: str, built: object, seen: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No waiting brings it."""
    torch_with(monkeypatch, built=bool(built), seen=seen)
    with pytest.raises(
        SettingsError, match=f"MEMORY_PIPELINE_DEVICE='{device}': {says}"
    ) as refused:
        sentence._open(Path("nowhere"), device, "f32")
    assert exit_code(refused.value) == EXIT_USAGE
    assert isinstance(refused.value, EmbedderUnavailable)  # a worker goes on without the model


@pytest.mark.parametrize(("device", "seen"), [("cuda", 0), ("cuda:1", 0), ("cuda:1", 2)])
def test_a_device_whose_driver_may_come_later_is_an_outage(
    device: str, seen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails while the model is loaded may be gone at the next attempt: it is waited for."""
    torch_with(monkeypatch, built=True, seen=seen)
    with pytest.raises(EmbedderUnavailable, match="cannot be loaded"):
        sentence._open(Path("nowhere"), device, "f32")


def torch_with(monkeypatch: pytest.MonkeyPatch, *, built: bool, seen: int) -> None:
    """Stand in for torch, which takes seconds to import: with CUDA or not, and so many devices."""

    def load(*_: object, **__: object) -> None:
        raise RuntimeError("No CUDA GPUs are available")

    cuda = SimpleNamespace(device_count=lambda: seen)
    backend = SimpleNamespace(is_built=lambda: built)
    torch = SimpleNamespace(cuda=cuda, backends=SimpleNamespace(cuda=backend, mps=backend))
    monkeypatch.setitem(sys.modules, "torch", torch)
    library = SimpleNamespace(SentenceTransformer=load)
    monkeypatch.setitem(sys.modules, "sentence_transformers", library)
    monkeypatch.setattr(sentence, "_without_chatter", nullcontext)


@pytest.mark.parametrize("urls", [(), (SECOND,), (SECOND, THIRD)])
def test_a_service_reads_the_settings_that_up_was_given(
    urls: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through its environment: every address, and how many servers run here."""
    given = Settings.load(
        chroma_url=FIRST, chroma_urls=urls, chroma_servers=3, on_server_loss="rebuild"
    )
    for name, value in settings_environment(given).items():
        monkeypatch.setenv(name, value)
    read = Settings.load()
    assert read.chroma_addresses() == (FIRST, *urls)
    assert (read.chroma_servers, read.on_server_loss) == (3, "rebuild")


@pytest.mark.parametrize("name", ["database_url", "dagster_database_url"])
@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:sec%zzret@127.0.0.1:1/db",
        "postgresql://u:sec/ret@127.0.0.1:1/db",
        "postgresql://u:7/ret@127.0.0.1:1/db",
        "postgresql://u:sec@ret@127.0.0.1:1/db",
        "postgresql://u:sec?r@et@127.0.0.1:1/db",
        "postgresql://u:sec\udcffret@127.0.0.1:1/db",
        "postgresql://u:secret@127.0.0.1:1/db?nonsense=1",
        "postgresql://u:secret@127.0.0.1:port/db",
        "mysql://u:secret@127.0.0.1/db",
        "host=127.0.0.1 password=secret",
    ],
)
def test_an_address_that_libpq_does_not_read_as_it_is_meant_is_refused(name: str, url: str) -> None:
    """What broke: libpq's error was shown, and it quotes the password or takes it for a host."""
    with pytest.raises(SettingsError, match=rf"{name.upper()}=\(hidden\)") as refused:
        Settings.load(**{name: url})
    assert refused.value.__suppress_context__
    for piece in ("sec", "ret", "7"):
        assert piece not in str(refused.value)


def test_a_command_with_a_bad_address_ends_with_2_and_one_line() -> None:
    """What broke: a traceback that ended with the password."""
    url = "postgresql://u:sec%zzret@127.0.0.1:1/db"
    done = CliRunner().invoke(app, ["status"], env={"MEMORY_PIPELINE_DATABASE_URL": url})
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "zzret" not in done.output


@pytest.mark.parametrize("password", ["pw?wp", "pw#wp", "pw%40wp", "pw:wp", "pw?x=wp"])
@pytest.mark.parametrize("options", ["", "?sslpassword=pw&password=wp&connect_timeout=3"])
def test_no_piece_of_a_password_is_shown(password: str, options: str) -> None:
    """What broke: half of a password that has a ? was shown as if it were the place."""
    url = f"postgresql://u:{password}@127.0.0.1:1/db{options}"
    settings = Settings.load(database_url=url, dagster_database_url=url)
    database = Database(url)
    with pytest.raises(PostgresUnavailable) as refused, database.transaction():
        pass
    database.close()
    shown = settings.shown()
    for said in (shown["database_url"], shown["dagster_database_url"], refused.value):
        assert "127.0.0.1:1" in str(said)
        assert "pw" not in str(said)
        assert "wp" not in str(said)


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("postgresql://u:pa?ss@127.0.0.1:1/db", "postgresql://u@127.0.0.1:1/db"),
        (
            "postgresql://ada:se%40cret@db.example:5433/memories?sslmode=require&password=x",
            "postgresql://ada@db.example:5433/memories?sslmode=require",
        ),
        ("postgresql://postgres@/a%20b?host=/tmp/a%20b", None),
        ("postgresql:///m", None),
        ("postgresql://:5433/m", None),
        ("postgresql://a%40b%2Fc@h/%3Fd%20%23", None),
        ("postgresql://u@/d?host=::1&port=5", None),
        ("postgresql://u@[::1]:5/d", "postgresql://u@/d?host=::1&port=5"),
        ("postgres://u:x@a:1,b/d", "postgresql://u@/d?host=a,b&port=1,"),
        ("postgresql://u@h/d?options=-c%20geqo%3Doff&application_name=a%2Bb%26c", None),
    ],
)
def test_an_address_without_its_password_still_works(url: str, kept: str | None) -> None:
    """What broke: services.json had half a password for a place. What libpq reads is the same."""
    assert without_password(url) == (kept or url)
    read = conninfo_to_dict(url)
    read.pop("password", None)
    assert conninfo_to_dict(without_password(url)) == read


@pytest.mark.parametrize(
    "url",
    [
        "http://h:abc",
        "http://h:99999",
        "http://h:0",
        "http://h:1?x=1",
        "http://h:1#x",
        "http://[::1",
    ],
)
def test_an_address_of_chroma_that_no_client_reads_is_refused(url: str) -> None:
    """What broke: a traceback of `status`, or an address that is cut in the middle."""
    for name in ("chroma_url", "chroma_urls"):
        with pytest.raises(SettingsError) as refused:
            Settings.load(**{name: url})
        said = f"MEMORY_PIPELINE_{name.upper()}=(hidden): allowed is http://host:port or "
        assert str(refused.value).startswith(said)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("metadata_fields", "date,ts", "='date,ts': 'ts' is taken; names may not be "),
        ("text_fields", "a,a", "='a,a': allowed is a list of different names, separated by comma"),
        ("alert_url", "http://[x", "=(hidden): allowed is http://host/path or https://host/path"),
        ("batch_size", "0", "='0': Input should be greater than or equal to 1"),
    ],
)
def test_a_refusal_is_a_sentence(name: str, value: str, said: str) -> None:
    """What broke: "allowed is" stood before what is not allowed."""
    with pytest.raises(SettingsError) as refused:
        Settings.load(**{name: value})
    assert str(refused.value).startswith(f"MEMORY_PIPELINE_{name.upper()}{said}")


def test_a_field_that_is_made_from_a_date_is_taken() -> None:
    """What broke: what the memory says of date_ts stood where the seconds of its date belong."""
    for fields in ("date,date_ts", "seen_at_ts,seen_at"):
        with pytest.raises(SettingsError, match="_ts' is taken; it is made from"):
            Settings.load(metadata_fields=fields)
    for fields in ("date_ts", "note,note_ts", "date,seen_at"):
        assert Settings.load(metadata_fields=fields).metadata_fields == tuple(fields.split(","))
