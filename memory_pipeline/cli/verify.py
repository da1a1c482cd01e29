"""``memory-pipeline verify``: compare the index with Postgres, and bring it right."""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table

from memory_pipeline.cli.console import err, out, plain, print_json, progress_bar
from memory_pipeline.cli.memories import EXIT_FINDINGS, EXIT_UNAVAILABLE, AsJson
from memory_pipeline.cli.tenants import Tenants, check_known, give_up_lost, known_tenants
from memory_pipeline.domain.outcomes import Finding, Verified
from memory_pipeline.domain.types import TenantId
from memory_pipeline.errors import ChromaUnavailable, Transient
from memory_pipeline.local.discovery import discover
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.settings import Settings
from memory_pipeline.verify.tenants import SkippedTenant, verify_all

SHOWN_FINDINGS = 50


def register(app: typer.Typer) -> None:
    """Add the command of this room."""
    app.command()(verify)


def verify(
    tenant: Tenants = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Bring right what is found, and verify again.")
    ] = False,
    sample: Annotated[
        str,
        typer.Option(
            help="Documents a tenant that are compared in full and searched by their own vector: "
            "a number, 0, or 'all'."
        ),
    ] = "100",
    as_json: AsJson = False,
) -> None:
    """Compare the index with Postgres while it serves; exit code 1 where something is wrong."""
    chosen = _sample(sample)
    with opened(discover(Settings.load())) as pipeline:
        check_known(pipeline, map(TenantId, tenant or ()))
        capture = _capture(pipeline, repair=repair)
        with suppress(Transient):  # said of each tenant that cannot be asked
            pipeline.servers.check_identity()
        if repair:
            give_up_lost(pipeline)
            time.sleep(pipeline.epochs.seconds_to_wait())
        tenants = [TenantId(t) for t in tenant] if tenant else known_tenants(pipeline)
        began = time.monotonic()
        unverified: dict[TenantId, str] = {}
        verdicts = list(_verified(pipeline, tenants, chosen, unverified, repair=repair))
        seconds = time.monotonic() - began
        doubts = [f for f in _unproven(pipeline) if f.tenant in tenants]
    found = [*capture[0], *doubts, *(f for first, _ in verdicts for f in first.findings)]
    left = [*capture[1], *doubts, *(f for _, last in verdicts for f in last.findings)]
    figures = {
        "tenants": len(verdicts),
        "memories": sum(last.memories for _, last in verdicts),
        "documents": sum(last.documents for _, last in verdicts),
        "pending": sum(last.pending for _, last in verdicts),
        "dead_letters": sum(last.buried for _, last in verdicts),
        "waived": sum(last.waived for _, last in verdicts),
        "sampled": sum(last.sampled for _, last in verdicts),
        "seconds": round(seconds, 3),
        "documents_per_second": round(
            sum(last.documents for _, last in verdicts) / max(seconds, 1e-3), 1
        ),
        "found": len(found),
        "repaired": len(found) - len(left) if repair else 0,
        "findings": [asdict(f) for f in (left if repair else found)],
        "unverified": unverified,
    }
    _tell_verified(figures, found if not repair else left, as_json=as_json)
    if left:
        raise typer.Exit(EXIT_FINDINGS)
    if unverified:
        raise typer.Exit(EXIT_UNAVAILABLE)


def _sample(said: str) -> int | None:
    if said == "all":
        return None
    if not said.isascii() or not said.isdigit():
        raise typer.BadParameter(f"--sample {said!r}: allowed are a number, 0, and all")
    return int(said)


def _capture(pipeline: Pipeline, *, repair: bool) -> tuple[list[Finding], list[Finding]]:
    """Look at the triggers; return what was wrong, and what still is."""
    before = [Finding("capture", detail=b) for b in pipeline.status.broken_capture()]
    if not (before and repair):
        return before, before
    from memory_pipeline.postgres.migrate import migrate  # noqa: PLC0415 - alembic is slow

    migrate(pipeline.settings)
    return before, [Finding("capture", detail=b) for b in pipeline.status.broken_capture()]


def _unproven(pipeline: Pipeline) -> list[Finding]:
    """Name the tenants about which nothing is known since Postgres went back in time."""
    doubt = pipeline.epochs.unproven()
    return [Finding("unproven", t, detail=doubt.reason) for t in sorted(doubt.tenants)]


def _verified(
    pipeline: Pipeline,
    tenants: Sequence[TenantId],
    sample: int | None,
    unverified: dict[TenantId, str],
    *,
    repair: bool,
) -> Iterator[tuple[Verified, Verified]]:
    """Verify one tenant after the other; what cannot be asked is noted, and the others go on."""
    with progress_bar("tenants") as bar:
        task = bar.add_task("verifying", total=len(tenants))
        verdicts = (
            _repaired(pipeline, tenants, sample)
            if repair
            else ((v, v) for v in verify_all(pipeline.verify(), tenants, sample=sample))
        )
        for first, last in verdicts:
            bar.update(task, advance=1)
            if isinstance(first, SkippedTenant) or isinstance(last, SkippedTenant):
                unverified[last.tenant] = last.reason if isinstance(last, SkippedTenant) else ""
                continue
            pipeline.status.record_verification(last)
            yield first, last


def _repaired(
    pipeline: Pipeline, tenants: Sequence[TenantId], sample: int | None
) -> Iterator[tuple[Verified, Verified] | tuple[SkippedTenant, SkippedTenant]]:
    repairer = pipeline.repair()
    for tenant in tenants:
        try:
            repaired = repairer.run(tenant, sample=sample)
            yield repaired.before, repaired.after
        except ChromaUnavailable as error:
            unverified = SkippedTenant(tenant, str(error))
            yield unverified, unverified


def _tell_verified(figures: dict[str, Any], findings: Sequence[Finding], *, as_json: bool) -> None:
    if as_json:
        print_json(figures)
        return
    if findings:
        table = Table(box=None, pad_edge=False)
        for name in ("finding", "tenant", "memory", ""):
            table.add_column(name, no_wrap=name != "")
        for finding in findings[:SHOWN_FINDINGS]:
            memory = "" if finding.memory_id is None else str(finding.memory_id)
            table.add_row(finding.kind, plain(finding.tenant or ""), memory, plain(finding.detail))
        out.print(table)
        if len(findings) > SHOWN_FINDINGS:
            err.print(f"… and {len(findings) - SHOWN_FINDINGS} more; --json names them all")
    for tenant, reason in figures["unverified"].items():
        err.print(plain(f"! {tenant} could not be verified: {reason}"))
    counted = ("tenants", "memories", "documents", "pending", "dead_letters", "waived")
    shown = (*counted, "found", "repaired")
    err.print(
        "  ".join(f"{name.replace('_', ' ')} {figures[name]}" for name in shown)
        + f"  in {figures['seconds']} s"
    )
