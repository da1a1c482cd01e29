"""The Chroma servers of a home: which run there, and at which addresses. Nothing is started."""

import json
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from memory_pipeline.cli import app
from memory_pipeline.local.discovery import discover
from memory_pipeline.local.home import (
    ListedService,
    Stack,
    chroma_names,
    own_chromas,
    read_stack,
    usual_port,
    without_own,
)
from memory_pipeline.local.loopback import free_port
from memory_pipeline.local.process_identity import own_identity
from memory_pipeline.local.service_states import service_states
from memory_pipeline.settings import Settings

FIRST, SECOND, THIRD = (f"http://127.0.0.1:{port}" for port in (9101, 9102, 9103))
ELSEWHERE, FAR = "http://chroma.example:1", "http://chroma.example:2"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return settings that name nothing but a home."""
    return Settings.load(home=tmp_path)


def a_stack(**services: int) -> Stack:
    """Return a stack that this very process supervises, with its services by port."""
    me = own_identity()
    named = {name.replace("_", "-"): ListedService(me, port) for name, port in services.items()}
    return Stack(me, "http://ui", "postgresql:///m", FIRST, "postgresql:///d", services=named)


@pytest.fixture
def two(settings: Settings) -> Stack:
    """Record a stack with two Chroma servers."""
    stack = replace(
        a_stack(chroma=9101, chroma_2=9102, postgres=5432), chroma_urls=(SECOND, ELSEWHERE)
    )
    stack.write(settings.home)
    return stack


def test_as_many_servers_run_as_are_set(settings: Settings) -> None:
    """The first one keeps its plain name, and so its data."""
    assert chroma_names(settings) == ["chroma"]
    three = settings.model_copy(update={"chroma_servers": 3})
    assert chroma_names(three) == ["chroma", "chroma-2", "chroma-3"]


def test_a_server_that_has_data_runs_whatever_is_set(settings: Settings) -> None:
    """Otherwise its tenants could not be searched, and the server would be missing."""
    for folder in ("chroma", "chroma-3", "chroma-x", "chroma-1", "chroma-2000"):
        (settings.home / folder).mkdir()
    (settings.home / "chroma-7.yaml").touch()
    (settings.home / "chroma-8").touch()
    assert chroma_names(settings) == ["chroma", "chroma-2", "chroma-3"]


def test_what_is_written_is_read_again(settings: Settings, two: Stack) -> None:
    """Further addresses, the own ones among them, survive the file."""
    assert read_stack(settings.home) == two
    assert own_chromas(settings.home) == (FIRST, SECOND)


def test_files_of_an_older_version_are_read(settings: Settings, two: Stack) -> None:
    """A stack that was started before there were several servers is still found."""
    for name in ("services.json", "addresses.json"):
        content = json.loads((settings.home / name).read_text())
        del content["chroma_urls"]
        (settings.home / name).write_text(json.dumps(content))
    assert read_stack(settings.home) == replace(two, chroma_urls=())
    assert own_chromas(settings.home) == (FIRST,)


def test_all_servers_that_run_are_found(settings: Settings, two: Stack) -> None:
    """The servers of the home first, then the addresses that the stack was started with."""
    assert discover(settings).chroma_addresses() == (FIRST, SECOND, ELSEWHERE)


def test_further_servers_that_are_set_are_kept_next_to_our_own(
    settings: Settings, two: Stack
) -> None:
    """Also in a shell that has evaluated what `env` printed."""
    named = settings.model_copy(update={"chroma_urls": (FAR,)})
    assert discover(named).chroma_addresses() == (FIRST, SECOND, FAR)
    evaluated = settings.model_copy(update={"chroma_url": FIRST, "chroma_urls": (SECOND, FAR)})
    assert discover(evaluated) == discover(named)


def test_a_server_of_the_users_own_is_not_mixed_with_those_that_run_here(
    settings: Settings, two: Stack
) -> None:
    """An address of the first server names another Chroma altogether."""
    named = settings.model_copy(update={"chroma_url": FAR})
    assert discover(named).chroma_addresses() == (FAR,)


def test_our_own_addresses_are_not_taken_for_the_users(settings: Settings, two: Stack) -> None:
    """A later `up` in a shell that has evaluated `env` starts our servers, and keeps the others."""
    evaluated = settings.model_copy(update={"chroma_url": FIRST, "chroma_urls": (SECOND, FAR)})
    assert without_own(evaluated).chroma_addresses() == (FAR,)
    assert without_own(evaluated).chroma_url is None


def test_every_chroma_server_has_its_state(settings: Settings, two: Stack) -> None:
    """The servers of the home have the names of their folders and logs."""
    stranger = f"http://127.0.0.1:{free_port()}"
    states = service_states(settings.model_copy(update={"chroma_urls": (stranger,)}))
    assert [states[name] for name in ("chroma", "chroma-2", "chroma-3")] == [
        "down",
        "down",
        "external down",
    ]


def test_two_services_do_not_get_one_port(settings: Settings) -> None:
    """Not even if both had the same one last time."""
    port = free_port()
    ports = {"chroma": port, "chroma-2": port}
    (settings.home / "addresses.json").write_text(json.dumps({"ports": ports}))
    assert usual_port(settings.home, "chroma") == port
    assert usual_port(settings.home, "chroma-2", but={port}) != port


@pytest.mark.parametrize(
    ("words", "count"),
    [((), 2), (("--chroma-servers", "3"), 3), (("--chroma-servers", "65"), None)],
)
def test_an_option_of_up_sets_how_many_servers_run(
    words: tuple[str, ...], count: int | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The option overrides the variable."""
    started: list[Settings] = []
    monkeypatch.setattr(
        "memory_pipeline.cli.services.start_stack", lambda settings, **_: started.append(settings)
    )
    monkeypatch.setenv("MEMORY_PIPELINE_CHROMA_SERVERS", "2")
    monkeypatch.setenv("MEMORY_PIPELINE_HOME", str(tmp_path))
    done = CliRunner().invoke(app, ["up", *words])
    assert (done.exit_code == 0) == (count is not None)
    assert [s.chroma_servers for s in started] == [count] * (count is not None)


@pytest.mark.parametrize("words", [("up",), ("up", "--detach"), ("down",)])
@pytest.mark.parametrize("home", ["/proc", "/proc/sys"])
def test_a_home_that_cannot_be_written_is_named_in_one_line(
    words: tuple[str, ...], home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What broke: a traceback, or a message about another `up` when there was none."""
    for start in ("Supervisor", "_start_daemon", "stop_marked", "stop_postgres"):
        monkeypatch.setattr(f"memory_pipeline.local.daemonize.{start}", None)
    monkeypatch.setenv("MEMORY_PIPELINE_HOME", home)
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 2
    assert f"MEMORY_PIPELINE_HOME='{home}': " in done.stderr
    assert "allowed is " in done.stderr


def test_a_home_of_an_earlier_version_is_read(settings: Settings) -> None:
    """What would break: the services that it left running could not be stopped."""
    me = own_identity()
    a_stack(chroma=9101).write(settings.home)
    file = settings.home / "services.json"
    content = json.loads(file.read_text())
    for fields in (content["supervisor"], content["services"]["chroma"]):
        del fields["started"], fields["boot"]
        fields["created"] = psutil.Process().create_time()
    file.write_text(json.dumps(content))
    stack = read_stack(settings.home)
    assert stack is not None
    assert stack.supervisor == me
    assert stack.services["chroma"].alive()
    assert stack.services["chroma"].port == 9101
