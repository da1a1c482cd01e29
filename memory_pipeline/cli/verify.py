"""``memory-pipeline verify``: compare the index with Postgres, and repair it."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table

from memory_pipeline.cli.console import AsJson, err, out, plain, print_json, progress_bar
from memory_pipeline.cli.tenants import (
    Tenants,
    check_known,
    known_tenants,
    named,
    print_retired,
)
from memory_pipeline.domain.types import TenantId
from memory_pipeline.errors import EXIT_FINDINGS, EXIT_UNAVAILABLE
from memory_pipeline.local.discovery import discover
from memory_pipeline.pipeline import Pipeline, migrate, opened
from memory_pipeline.settings import Settings
from memory_pipeline.verify.installation import (
    Installation,
    VerifyProgress,
    VerifyReport,
    verify_installation,
)
from memory_pipeline.verify.tenant import SAMPLE

MOST_PRINTED = 50
# Digits; Python refuses to convert thousands of them.
LONGEST_NUMBER = 18


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(verify)


def verify(
    tenant: Tenants = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Repair the findings, and verify again.")
    ] = False,
    sample: Annotated[
        str,
        typer.Option(
            help="Documents a tenant that are compared in full and searched by their own vector: "
            "a number, 0, or 'all'."
        ),
    ] = str(SAMPLE),
    as_json: AsJson = False,
) -> None:
    """Compare the index with Postgres while it serves.

    Exit code 1: there are differences that nothing is about to repair.
    """
    documents = _sample(sample)
    with opened(discover(Settings.load())) as pipeline, progress_bar("tenants") as bar:
        tenants = named(pipeline, tenant)
        check_known(pipeline, tenants)
        task = bar.add_task("verifying", total=None)
        report = verify_installation(
            _installation(pipeline, tenants),
            sample=documents,
            repair=repair,
            progress=VerifyProgress(
                print_retired, lambda done, total: bar.update(task, completed=done, total=total)
            ),
        )
    _print(report, as_json=as_json)
    if report.left:
        raise typer.Exit(EXIT_FINDINGS)
    if report.skipped:
        raise typer.Exit(EXIT_UNAVAILABLE)


def _sample(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isascii() or not text.isdigit() or len(text) > LONGEST_NUMBER:
        raise typer.BadParameter(f"--sample {text!r}: allowed are a number, 0, and all")
    return int(text)


def _installation(pipeline: Pipeline, tenants: list[TenantId]) -> Installation:
    """Return the installation, with the given tenants or, where none is given, with all."""

    def repair_capture() -> None:
        migrate(pipeline.settings)

    return Installation(
        status=pipeline.status,
        servers=pipeline.servers,
        epochs=pipeline.epochs,
        verify=pipeline.verify,
        repair=pipeline.repair,
        repair_capture=repair_capture,
        tenants=lambda: tenants or known_tenants(pipeline),
    )


def _figures(report: VerifyReport) -> dict[str, Any]:
    return {
        "tenants": len(report.verdicts),
        "memories": sum(v.memories for v in report.verdicts),
        "documents": report.documents,
        "pending": sum(v.pending for v in report.verdicts),
        "dead_letters": sum(v.buried for v in report.verdicts),
        "waived": sum(v.waived for v in report.verdicts),
        "unread_dates": sum(v.unread_dates for v in report.verdicts),
        "sampled": sum(v.sampled for v in report.verdicts),
        "seconds": round(report.seconds, 3),
        "documents_per_second": round(report.documents_per_second, 1),
        "found": len(report.found),
        "repaired": report.repaired,
    }


def _print(report: VerifyReport, *, as_json: bool) -> None:
    figures = _figures(report)
    if as_json:
        findings = [asdict(finding) for finding in report.left]
        print_json({**figures, "findings": findings, "skipped": dict(report.skipped)})
        return
    if report.left:
        out.print(_table(report))
    if len(report.left) > MOST_PRINTED:
        err.print(f"… and {len(report.left) - MOST_PRINTED} more; --json names all of them")
    for tenant, reason in report.skipped.items():
        err.print(plain(f"! {tenant} could not be verified: {reason}"))
    err.print(_counted(figures))


def _table(report: VerifyReport) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("finding", "tenant", "memory", ""):
        table.add_column(name, no_wrap=name != "")
    for finding in report.left[:MOST_PRINTED]:
        memory = "" if finding.memory_id is None else str(finding.memory_id)
        table.add_row(finding.kind, plain(finding.tenant or ""), memory, plain(finding.detail))
    return table


def _counted(figures: Mapping[str, Any]) -> str:
    counted = ("tenants", "memories", "documents", "pending", "dead_letters", "waived")
    # A date that cannot be read is no difference, and stays as it is: said where there is one.
    dates = ("unread_dates",) if figures["unread_dates"] else ()
    shown = (*counted, *dates, "found", "repaired")
    line = "  ".join(f"{name.replace('_', ' ')} {figures[name]}" for name in shown)
    return f"{line}  in {figures['seconds']} s"
