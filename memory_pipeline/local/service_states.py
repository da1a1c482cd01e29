"""Probe every service of a home, for `status`. Starts and stops nothing."""

from concurrent.futures import ThreadPoolExecutor

import psutil

from memory_pipeline.local.discovery import DATABASE_URLS, discover
from memory_pipeline.local.home import (
    ListedService,
    Stack,
    chroma_name,
    chroma_names,
    home_of,
    own_chromas,
    own_urls,
    read_stack,
    url_of,
)
from memory_pipeline.local.probes import (
    probe_chroma,
    probe_code_server,
    probe_daemon,
    probe_postgres,
    probe_webserver,
    probe_worker,
)
from memory_pipeline.settings import Settings

DAGSTER = ("code-server", "daemon", "webserver")


def service_states(settings: Settings) -> dict[str, str]:
    """Return ``up``, ``down`` or ``hangs`` for each service; ``external …``: it is not ours.

    Each probe takes about 2 seconds at most.
    """
    home = home_of(settings)
    stack, own, settings = read_stack(home), own_urls(home), discover(settings)
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
        states["live"] = probe_worker(service.port if service and service.alive() else None)
    return states


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
    name: str, service: ListedService | None, stack: Stack | None, database: str | None
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
        return probe_webserver(stack.ui_url)
    return probe_daemon(database or "")
