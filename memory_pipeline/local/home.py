"""The files of a home that name what runs in it: services.json and addresses.json.

services.json is written when everything is healthy and removed at the end. addresses.json stays:
from it the next start takes the same ports again, and recognises an address that a shell still has
from ``memory-pipeline env`` as our own. Neither holds a password.
"""

import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from memory_pipeline.local.loopback import free_port, is_port_free, loopback_url
from memory_pipeline.local.process_identity import Identity, read_identity
from memory_pipeline.settings import Settings

URLS = ("database_url", "chroma_url", "dagster_database_url")
# The first one has the plain name that it had when there was only one.
CHROMA = "chroma"
FURTHER_CHROMA = re.compile(r"chroma-([2-9]|[1-9][0-9])")


@dataclass(frozen=True, slots=True)
class ListedService:
    """One service in services.json: its process, its port (None: no TCP port), its log."""

    process: Identity
    port: int | None = None
    log: str = ""

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self.process.pid

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return self.process.alive()

    def as_json(self) -> dict[str, Any]:
        """Return the fields as they are written to a file."""
        return {**self.process.as_json(), "port": self.port, "log": self.log}


@dataclass(frozen=True, slots=True)
class Stack:
    """The content of services.json: the supervisor, the services, where they answer.

    ``note`` is a line that a person has to read; empty: none.
    """

    supervisor: Identity
    ui_url: str
    database_url: str
    chroma_url: str
    dagster_database_url: str
    chroma_urls: tuple[str, ...] = ()
    services: dict[str, ListedService] = field(default_factory=dict)
    note: str = ""

    def url(self, name: str) -> str:
        """Return one of the three addresses by the name of its setting."""
        return str(getattr(self, name))

    def write(self, home: Path) -> None:
        """Write services.json, and to addresses.json the part that outlives the stack."""
        services = {name: service.as_json() for name, service in self.services.items()}
        write_json(home / "services.json", {**asdict(self), "services": services})
        own = {
            name: self.url(name)
            for name, service in zip(URLS, ("postgres", CHROMA, "postgres"), strict=True)
            if service in self.services
        }
        further = [url for url in self.own_chromas() if url != self.chroma_url]
        ports = {name: service.port for name, service in self.services.items() if service.port}
        write_json(home / "addresses.json", {"urls": own, "chroma_urls": further, "ports": ports})

    def chromas(self) -> list[ListedService]:
        """Return the Chroma servers that were started here, in the order of their numbers."""
        return [service for name, service in self.services.items() if is_chroma(name)]

    def own_chromas(self) -> list[str]:
        """Return the addresses of the Chroma servers that were started here."""
        return [loopback_url(service.port) for service in self.chromas()]


def read_stack(home: Path) -> Stack | None:
    """Read services.json; its processes may have ended. None where there is no such file."""
    content = read_json(home / "services.json")
    try:
        services = {name: _listed(fields) for name, fields in content.pop("services").items()}
        return Stack(
            **content
            | {
                "supervisor": read_identity(content["supervisor"]),
                "chroma_urls": tuple(content.get("chroma_urls", ())),
                "services": services,
            }
        )
    except (TypeError, KeyError, AttributeError, ValueError):
        return None


def _listed(fields: Mapping[str, Any]) -> ListedService:
    return ListedService(read_identity(fields), fields.get("port"), fields.get("log", ""))


def own_urls(home: Path) -> dict[str, str]:
    """Return the addresses that services of this home had when they last were healthy."""
    return {str(k): str(v) for k, v in read_json(home / "addresses.json").get("urls", {}).items()}


def own_chromas(home: Path) -> tuple[str, ...]:
    """Return the addresses that Chroma servers of this home had when they last were healthy."""
    content = read_json(home / "addresses.json")
    first = content.get("urls", {}).get("chroma_url")
    return (*(() if first is None else (str(first),)), *map(str, content.get("chroma_urls", ())))


def without_own(settings: Settings) -> Settings:
    """Return the settings without addresses of this home's own services, which `up` starts."""
    own, chromas = own_urls(home_of(settings)), own_chromas(home_of(settings))
    left: dict[str, Any] = {
        name: None for name in URLS if url_of(settings, name) in {own.get(name), *chromas} - {None}
    }
    left["chroma_urls"] = tuple(url for url in settings.chroma_urls if url not in chromas)
    return settings.model_copy(update=left)


def is_chroma(name: str) -> bool:
    """Whether a service, or a folder of a home, has the name of a Chroma server."""
    return name == CHROMA or FURTHER_CHROMA.fullmatch(name) is not None


def chroma_names(settings: Settings) -> list[str]:
    """Return the names of this home's Chroma servers: as many as are set, and all with data."""
    home = home_of(settings)
    folders = [FURTHER_CHROMA.fullmatch(folder.name) for folder in home.glob(f"{CHROMA}-*/")]
    count = max([settings.chroma_servers, *(int(found[1]) for found in folders if found)])
    return [chroma_name(number) for number in range(1, count + 1)]


def chroma_name(number: int) -> str:
    """Return the name of a home's Chroma server; numbers begin at 1."""
    return CHROMA if number == 1 else f"{CHROMA}-{number}"


def usual_port(home: Path, name: str, *, but: Collection[int | None] = ()) -> int:
    """Return the port that the service had last time, else a free one; none of ``but``."""
    port: object = read_json(home / "addresses.json").get("ports", {}).get(name)
    if isinstance(port, int) and port not in but and is_port_free(port):
        return port
    return free_port(but=but)


def url_of(settings: Settings, name: str) -> str | None:
    """Return one of the settings' addresses as plain text."""
    value = getattr(settings, name)
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def home_of(settings: Settings) -> Path:
    """Return the home as an absolute path without symbolic links."""
    return settings.home.expanduser().resolve()


def private_folder(folder: Path) -> None:
    """Make a folder that its owner alone may enter; close one that exists."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object; an absent or broken file is an empty one."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all, readable for its owner alone."""
    unfinished = file.with_name(f"{file.name}.part")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        json.dump(content, opened, indent=2)
        opened.write("\n")
    unfinished.replace(file)
