"""The environment variables of the services: every setting of the stack, and its mark."""

import os
from pathlib import Path

from pydantic import SecretStr

from memory_pipeline.local.home import home_of
from memory_pipeline.local.processes import MARK
from memory_pipeline.proxies import bypassing_loopback
from memory_pipeline.settings import PREFIX, Settings


def settings_environment(settings: Settings) -> dict[str, str]:
    """Return variables from which ``Settings.load()`` reads these settings again."""
    values = {name: getattr(settings, name) for name in type(settings).model_fields}
    values["home"] = home_of(settings)
    return {
        f"{PREFIX}{name.upper()}": _text(value)
        for name, value in values.items()
        if value is not None
    }


def base_environment(settings: Settings) -> dict[str, str]:
    """Return this process's environment with these settings in place of its own.

    Its proxies are for other machines: Dagster's processes reach one another without them.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
    return inherited | bypassing_loopback(inherited) | settings_environment(settings)


def child_environment(settings: Settings) -> dict[str, str]:
    """Return the environment of a service of the stack."""
    home = home_of(settings)
    return base_environment(settings) | {
        "DAGSTER_HOME": str(home / "dagster"),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        "PYTHONUNBUFFERED": "1",
        MARK: str(home),
    }


def _text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Path):
        return str(value.absolute())
    return ",".join(value) if isinstance(value, tuple) else str(value)
