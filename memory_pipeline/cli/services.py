"""Commands for the services of this machine: up, down, env."""

import os
import shlex
from typing import Annotated

import typer
from psycopg.conninfo import conninfo_to_dict

from memory_pipeline.cli.console import err, out
from memory_pipeline.local.daemonize import down as stop_stack
from memory_pipeline.local.daemonize import up as start_stack
from memory_pipeline.local.discovery import discover, running
from memory_pipeline.local.home import URLS, home_of, url_of
from memory_pipeline.local.processes import ServiceFailed
from memory_pipeline.settings import MOST_CHROMA_SERVERS, PREFIX, Settings

# The variables of libpq, and so of psql.
LIBPQ = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "dbname": "PGDATABASE",
    "password": "PGPASSWORD",
    "sslmode": "PGSSLMODE",
}


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (up, down, env):
        app.command()(command)


def up(
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when all services run.")
    ] = False,
    chroma_servers: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_CHROMA_SERVERS,
            help="Chroma servers to run here; a server with data always runs.",
        ),
    ] = None,
    live: Annotated[
        bool | None,
        typer.Option(
            "--live/--no-live",
            help="Run a worker that syncs at once, or leave syncing to Dagster's sensor.",
        ),
    ] = None,
) -> None:
    """Start the services that the settings do not name. Ctrl-C stops them."""
    given: dict[str, object] = {}
    if chroma_servers is not None:
        given["chroma_servers"] = chroma_servers
    if live is not None:
        given["live"] = "on" if live else "off"
    settings = Settings.load(**given)
    if running(settings) is None:
        err.print("starting …" if detach else "starting … (Ctrl-C stops everything)")
    start_stack(settings, detach=detach, print_line=_print_line)


def down() -> None:
    """Stop the services that `up` has started here."""
    stop_stack(Settings.load(), print_line=_print_line)


def env() -> None:
    """Print the addresses of the services as shell variables.

    psql, dagster and other programs use them after eval "$(memory-pipeline env)".
    """
    for name, value in exports(Settings.load()).items():
        typer.echo(f"export {name}={shlex.quote(value)}")  # rich would read :names: as emoji


def exports(settings: Settings) -> dict[str, str]:
    """Return the variables with which psql, dagster and others reach the services.

    Raises:
        ServiceFailed: nothing runs here, and the settings name no database either.

    """
    settings = discover(settings)
    urls = {name: url_of(settings, name) for name in URLS}
    database = urls["database_url"]
    if database is None:
        raise ServiceFailed(
            f"nothing runs in {home_of(settings)}: start it with `memory-pipeline up`"
        )
    parts = conninfo_to_dict(database)
    # Always a port: an older PGPORT of the shell would lead to another server.
    variables = {"PGPORT": "5432"} | {
        name: str(parts[key]) for key, name in LIBPQ.items() if parts.get(key)
    }
    variables |= {f"{PREFIX}{name.upper()}": url for name, url in urls.items() if url}
    # Always: the shell may still name servers of an earlier start.
    variables[f"{PREFIX}CHROMA_URLS"] = ",".join(settings.chroma_urls)
    variables[f"{PREFIX}HOME"] = str(home_of(settings))
    dagster_home = home_of(settings) / "dagster"
    return variables | ({"DAGSTER_HOME": str(dagster_home)} if dagster_home.exists() else {})


def name_dagster(settings: Settings) -> bool:
    """Name the Dagster of the services here in the environment; return whether there is one.

    What the environment names already stays.
    """
    named = exports(settings)
    for name in ("DAGSTER_HOME", f"{PREFIX}DAGSTER_DATABASE_URL"):
        if name in named:
            os.environ.setdefault(name, named[name])
    return "DAGSTER_HOME" in os.environ


def _print_line(line: str) -> None:
    out.print(line, markup=False)
