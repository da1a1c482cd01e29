"""Find the addresses of the services that run in a home. Starts, stops and probes nothing."""

from typing import Any

from pydantic import SecretStr

from memory_pipeline.local.home import (
    Stack,
    home_of,
    own_chromas,
    own_urls,
    read_stack,
    url_of,
)
from memory_pipeline.settings import Settings

DATABASE_URLS = ("database_url", "dagster_database_url")


def running(settings: Settings) -> Stack | None:
    """Return the stack of the settings' home; None before all is healthy, and after its end."""
    stack = read_stack(home_of(settings))
    return stack if stack is not None and stack.supervisor.alive() else None


def discover(settings: Settings) -> Settings:
    """Fill in the addresses that are not set from the services that run in the home.

    Also after the supervisor was killed, for the services that survived it. An address that is set
    is kept, unless this home's own services had it at an earlier start.
    """
    stack = read_stack(home_of(settings))
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
    """Return the addresses of Chroma; further servers that are set are kept next to our own."""
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
    """Return the address of the Dagster UI; empty when no stack runs."""
    stack = running(settings)
    return "" if stack is None else stack.ui_url
