"""What runs in a home and whether it is well: addresses and probes. Starts and stops nothing."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import psycopg
from pydantic import SecretStr

from memory_pipeline.local.chroma import PROBE_SECONDS, probe_chroma, probe_http
from memory_pipeline.local.dagster_services import probe_code_server, probe_daemon
from memory_pipeline.local.home import (
    Listed,
    Stack,
    chroma_name,
    chroma_names,
    home_of,
    listed,
    own_chromas,
    own_urls,
    url_of,
)
from memory_pipeline.local.worker_service import probe_live
from memory_pipeline.settings import Settings

DAGSTER = ("code-server", "daemon", "webserver")
DATABASE_URLS = ("database_url", "dagster_database_url")


def running(settings: Settings) -> Stack | None:
    """Return the stack of the settings' home while its supervisor runs and all was healthy."""
    stack = listed(home_of(settings))
    return stack if stack is not None and stack.supervisor.alive() else None


def discover(settings: Settings) -> Settings:
    """Fill in the addresses that are not set from what runs in the home.

    Also when the supervisor was killed, for the services that survived it. An address that is set
    stays, but for one that the home's own services had in a former life.
    """
    stack = listed(home_of(settings))
    if stack is None:
        return settings
    own = own_urls(home_of(settings))
    found = _chroma_addresses(settings, stack)
    for name in DATABASE_URLS:
        service = stack.services.get("postgres")
        lives = stack.supervisor.alive() or (service is not None and service.alive())
        if lives and url_of(settings, name) in {None, own.get(name)}:
            found[name] = SecretStr(stack.url(name))
    return settings.model_copy(update=found)


def _chroma_addresses(settings: Settings, stack: Stack) -> dict[str, Any]:
    """Fill in where Chroma is; further servers that are set stay beside those that run here."""
    own = own_chromas(home_of(settings))
    lives = stack.supervisor.alive() or any(chroma.alive() for chroma in stack.chromas())
    if not lives or settings.chroma_url not in {None, *own}:
        return {}
    ours = stack.own_chromas()
    known = {*own, *ours, stack.chroma_url}
    others = [url for url in settings.chroma_urls or stack.chroma_urls if url not in known]
    further = [url for url in ours if url != stack.chroma_url]
    return {"chroma_url": stack.chroma_url, "chroma_urls": (*further, *others)}


def ui_url(settings: Settings) -> str:
    """Return the address of the Dagster UI; empty where no stack runs."""
    stack = running(settings)
    return "" if stack is None else stack.ui_url


def service_states(settings: Settings) -> dict[str, str]:
    """Probe every service: ``up``, ``down`` or ``hangs``; ``external`` before it: not ours.

    Each probe takes some 2 seconds at most.
    """
    home = home_of(settings)
    stack, own, settings = listed(home), own_urls(home), discover(settings)
    database, dagster = (url_of(settings, name) for name in DATABASE_URLS)
    states = {
        "postgres": _state(
            probe_postgres(database) if database else "",
            external=database is not None and database != own.get("database_url"),
        ),
        **_chroma_states(settings),
    }
    for name in DAGSTER:
        service = None if stack is None else stack.services.get(name)
        states[name] = _dagster_state(name, service, stack, dagster)
    if settings.live == "on" if stack is None else "live" in stack.services:
        service = None if stack is None else stack.services["live"]
        states["live"] = probe_live(service.port if service and service.alive() else None)
    return states


def probe_postgres(url: str) -> str:
    """Connect and ask for nothing: ``up``, ``down`` or ``hangs``."""
    seconds = int(PROBE_SECONDS)
    try:
        with psycopg.connect(url, connect_timeout=seconds, autocommit=True) as connection:
            connection.execute("SELECT 1")
    except psycopg.errors.ConnectionTimeout:
        return "hangs"
    except psycopg.Error:
        return "down"
    return "up"


def _chroma_states(settings: Settings) -> dict[str, str]:
    """Probe all Chroma servers at once, those of this home first."""
    own = own_chromas(home_of(settings))
    addresses = [*([""] * len(chroma_names(settings))), *settings.chroma_urls]
    if settings.chroma_url is not None:
        addresses = list(settings.chroma_addresses())
    with ThreadPoolExecutor(len(addresses)) as threads:
        probed = threads.map(lambda url: probe_chroma(url) if url else "", addresses)
        return {
            chroma_name(number): _state(state, external=bool(url) and url not in own)
            for number, (url, state) in enumerate(zip(addresses, probed, strict=True), start=1)
        }


def _state(probed: str, *, external: bool) -> str:
    return f"external {probed}" if external else probed or "down"


def _dagster_state(
    name: str, service: Listed | None, stack: Stack | None, database: str | None
) -> str:
    if stack is None or service is None or not service.alive():
        return "down"
    try:
        if psutil.Process(service.pid).status() == psutil.STATUS_STOPPED:
            return "hangs"
    except psutil.Error:
        return "down"
    if name == "code-server":
        return probe_code_server(service.port)
    if name == "webserver":
        return probe_http(f"{stack.ui_url}/server_info")
    return probe_daemon(database or "")
