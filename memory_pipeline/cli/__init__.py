"""The command line. Each command is a few lines over the core.

Exit codes: 0 done · 1 findings · 2 wrong usage, input or settings · 3 a service is unavailable.
"""

import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from memory_pipeline.cli import (
    bench,
    chaos,
    dead_letters,
    demo,
    detach,
    forget,
    live,
    memories,
    rebuild,
    replay,
    services,
    setup,
    status,
    sync,
    transfer,
    verify,
)
from memory_pipeline.cli.console import fail
from memory_pipeline.errors import EXIT_USAGE, PipelineError, SettingsError, exit_code
from memory_pipeline.logs import TenantNames, configure_logging
from memory_pipeline.proxies import bypassing_loopback
from memory_pipeline.settings import Settings
from memory_pipeline.terminal import spell_what_is_lacking, utf8


class _Commands(TyperGroup):
    """Prints foreseeable errors as one line with an exit code; any other error is a bug."""

    def invoke(self, ctx: Any) -> Any:
        configure_logging(quiet=True, tenants=_log_tenants())
        try:
            return super().invoke(ctx)
        except PipelineError as error:
            fail(str(error), code=exit_code(error))


def _log_tenants() -> TenantNames:
    try:
        return Settings.load().log_tenants
    except SettingsError:  # the command reports it; until then no line shows a name
        return "key"


app = typer.Typer(
    cls=_Commands,
    name="memory-pipeline",
    help="Keeps one ChromaDB collection per tenant true to the memories in Postgres.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for module in (
    services,
    setup,
    memories,
    transfer,
    sync,
    live,
    rebuild,
    verify,
    dead_letters,
    replay,
    status,
    demo,
    detach,
    forget,
    chaos,
):
    module.register(app)
app.add_typer(bench.app, name="bench")


def main() -> None:
    """Run the command line; what it starts reaches this machine's loopback without a proxy."""
    spell_what_is_lacking()
    os.environ.update(bypassing_loopback(os.environ))
    try:
        sys.argv[1:] = map(utf8, sys.argv[1:])
    except UnicodeDecodeError as error:
        fail(f"an argument is not UTF-8: {error.object!r}", code=EXIT_USAGE)
    app()
