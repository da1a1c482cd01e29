"""Commands that import and export memories."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from memory_pipeline.cli.console import AsJson, err, plain, print_json, progress_bar
from memory_pipeline.cli.tenants import check_known, named
from memory_pipeline.domain.outcomes import Stored
from memory_pipeline.errors import EXIT_FINDINGS, SettingsError
from memory_pipeline.local.discovery import discover
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.settings import Settings, TenantBy
from memory_pipeline.transfer.exporting import STDOUT, export_file
from memory_pipeline.transfer.importing import Format, Imported, Reading, import_file
from memory_pipeline.transfer.mapping import ByKeys, ByMap, Drafts, Finish, parse_map, path_of
from memory_pipeline.transfer.presets import PRESETS, PresetName, recognise


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("import")(import_)
    app.command("export")(export)


def import_(
    file: Annotated[
        Path,
        typer.Argument(
            help="JSON lines, a JSON array, CSV or Parquet, compressed or not; - is the standard "
            "input."
        ),
    ],
    *,
    preset: Annotated[
        PresetName | None, typer.Option(help="The program that exported the file.")
    ] = None,
    map_: Annotated[
        list[str] | None,
        typer.Option("--map", help="Where a column comes from: user_id=owner.id,raw_data=content."),
    ] = None,
    ignore: Annotated[str, typer.Option(help="Keys to leave out, separated by commas.")] = "",
    user_id: Annotated[
        str | None, typer.Option(help="The user_id of memories that have none.")
    ] = None,
    project_id: Annotated[
        str | None, typer.Option(help="The project_id of memories that have none.")
    ] = None,
    external_id: Annotated[
        str | None,
        typer.Option(help="The key that names a memory: one that is known is updated, not added."),
    ] = None,
    skip_bad: Annotated[
        Path | None,
        typer.Option(help="Write what is refused to this file, and go on.", dir_okay=False),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Import only the first N.")] = None,
    format_: Annotated[
        Format | None, typer.Option("--format", help="Of a pipe, which has no name.")
    ] = None,
    encoding: Annotated[str | None, typer.Option(help="Of the text; default UTF-8.")] = None,
    as_json: AsJson = False,
) -> None:
    """Import memories from a file, all or none, or all but the refused ones."""
    settings = discover(Settings.load())
    drafts = _drafts(preset, map_ or [], ignore, external_id)
    finish = _finish(settings.tenant_by, user_id, project_id, preset, once=external_id is not None)
    reading = Reading(drafts, finish, format_, encoding, limit)
    with opened(settings) as pipeline:
        done = _imported(pipeline, file, reading, skip_bad)
    _report(done, skip_bad, as_json=as_json)
    if done.skipped:
        raise SystemExit(EXIT_FINDINGS)


def _drafts(
    preset: PresetName | None, map_: list[str], ignore: str, external_id: str | None
) -> Drafts:
    ignored = frozenset(key.strip() for key in ignore.split(",") if key.strip())
    path = None if external_id is None else path_of(external_id)
    if preset is not None:
        if map_ or ignored or path:
            raise SettingsError("--preset says itself what --map, --ignore and --external-id say")
        return PRESETS[preset].drafts
    if map_:
        if ignored:
            raise SettingsError("--map leaves out what it does not name: --ignore is for the rest")
        return ByMap(parse_map(map_), path)
    return ByKeys(ignored, path, recognise)


def _finish(
    tenant_by: TenantBy,
    user_id: str | None,
    project_id: str | None,
    preset: PresetName | None,
    *,
    once: bool,
) -> Finish:
    for name, value in (("--user-id", user_id), ("--project-id", project_id)):
        if value is not None and (not value or "\0" in value):
            raise SettingsError(f"{name} has to be a text that is not empty")
    return Finish(
        user_id,
        project_id,
        tenant_by,
        once=once or preset is not None,
        given_first=preset is not None,
        notes=Counter(),
    )


def _imported(pipeline: Pipeline, file: Path, reading: Reading, skip_bad: Path | None) -> Imported:
    with progress_bar("bytes") as bar:
        total = file.stat().st_size if file.is_file() else None
        task = bar.add_task("importing", total=total)
        return import_file(
            pipeline.transfer,
            file,
            reading,
            skip_bad=skip_bad,
            progress=lambda done: bar.update(task, completed=done),
        )


def _report(done: Imported, skip_bad: Path | None, *, as_json: bool) -> None:
    for note, times in sorted(done.notes.items()):
        err.print(plain(f"{note} ({times} times)" if times > 1 else note))
    if done.skipped:
        err.print(plain(f"{done.skipped} refused: they are in {skip_bad}, with the reasons"))
    if done.stored.dropped:
        err.print(f"{done.stored.dropped} dropped by a trigger of the table, without an error")
    stored = done.stored
    if as_json:
        print_json(
            {
                "imported": stored.imported,
                "updated": stored.updated,
                "unchanged": stored.unchanged,
                "dropped": stored.dropped,
                "skipped": done.skipped,
                "notes": done.notes,
            }
        )
        return
    if stored == Stored() and not done.skipped:
        err.print("imported 0 memories: there are none in the file")
        return
    known = f", updated {stored.updated}, {stored.unchanged} unchanged"
    err.print(
        f"imported {stored.imported} memories{known if stored.updated or stored.unchanged else ''}"
        "; they are searchable as soon as they are synced"
    )


def export(
    file: Annotated[
        Path,
        typer.Argument(help="The file, compressed if it ends in .gz; - is the standard output."),
    ] = STDOUT,
    tenant: Annotated[
        list[str] | None, typer.Option("--tenant", "-t", help="Whose memories; default all.")
    ] = None,
) -> None:
    """Export memories as JSON lines that `import` takes, without their vectors."""
    with opened(discover(Settings.load())) as pipeline, progress_bar("memories") as bar:
        tenants = named(pipeline, tenant) or None
        check_known(pipeline, tenants or ())
        task = bar.add_task("exporting", total=None)
        count = export_file(
            pipeline.transfer,
            file,
            tenants=tenants,
            progress=lambda done: bar.update(task, completed=done),
        )
        left_out = 0 if tenants else pipeline.transfer.without_tenant()
    err.print(f"exported {count} memories")
    if left_out:
        err.print(f"{left_out} rows belong to no tenant and were left out")
