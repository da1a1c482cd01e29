"""What commands print: foreign text is shown unchanged, and no terminal acts upon it."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import cast

import pytest
from rich.console import Console

from memory_pipeline.cli import console, dagster_backfill, rebuild, verify
from memory_pipeline.cli.dead_letters import _cell, _table
from memory_pipeline.domain.dead_letters import DeadLetter, DeadLetters
from memory_pipeline.domain.outcomes import Finding, Rebuilt
from memory_pipeline.domain.status import Progress
from memory_pipeline.domain.types import MemoryId, RebuildId, TenantId
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.verify.installation import VerifyReport

HOSTILE = ["[/nope]", "x\\[/nope]", "\\\\[red]", "a\x1b]0;title\x07b", "\x9b31mred", ":smile:"]


def shown(name: str) -> str:
    """Return how a terminal shows a name."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)


@pytest.mark.parametrize("name", HOSTILE)
def test_dead_letters_of_any_tenant_are_shown(name: str) -> None:
    """What broke: a backslash before a bracket was markup all the same, and ended the command."""
    now = datetime.now(UTC)
    letter = DeadLetter(
        *(TenantId(name), MemoryId(1), "content", name, name, 1, now, now, now),
        *(None, None, None, None, now, name, name),
    )
    printed = Console(width=200)
    with printed.capture() as capture:
        printed.print(_table(DeadLetters(1, 1, (letter,))), _cell(name), _cell(None))
    assert capture.get().count(shown(name)) == 4
    assert "\x1b" not in capture.get()


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_printed_about_any_tenant_is_shown(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What broke: control characters of a tenant's name and of an error reached the terminal."""
    tenant = TenantId(name)
    lost = Finding("lost", tenant, detail=name)
    report = VerifyReport(found=(lost,), left=(lost,), skipped={tenant: name})
    verify._print(report, as_json=False)
    failed = Rebuilt(tenant, "failed", reason=name)
    rebuild._print(RebuildId("all"), [failed], 1.0, as_json=False)
    printed = capsys.readouterr()
    assert printed.out.count(shown(name)) == 2
    assert printed.err.count(shown(name)) == 4
    assert "\x1b" not in printed.out + printed.err


def test_a_backfill_has_the_tenants_that_no_trigger_has_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What broke: a traceback, where memories slipped by before their tenant was registered."""
    launched: list[list[str]] = []

    def launch(_ui: str, *, tenants_keys: list[str], **_: object) -> str:
        launched.append(tenants_keys)
        return "b1"

    monkeypatch.setattr(rebuild, "ui_url", lambda _: "http://ui")
    monkeypatch.setattr(dagster_backfill, "launch_backfill", launch)
    done = dagster_backfill.BackfillState("COMPLETED_SUCCESS", finished=True, failed_runs=0)
    monkeypatch.setattr(dagster_backfill, "backfill_state", lambda *_: done)
    progress = Progress(tenants=2, done=2, failed=0, written=0, reused=0, embedded=0)
    parts = SimpleNamespace(
        settings=None,
        registry=SimpleNamespace(
            keys=lambda: {"ada": "a"}, register=lambda tenant: f"new {tenant}"
        ),
        memories=SimpleNamespace(sizes=dict),
        rebuilds=SimpleNamespace(progress=lambda _: progress),
    )
    tenants = [TenantId("ada"), TenantId("ben")]
    assert rebuild._backfill(cast("Pipeline", parts), tenants, re_embed=False, as_json=True)
    assert launched == [["a", "new ben"]]


@pytest.mark.parametrize("name", HOSTILE)
def test_progress_of_any_tenant_is_shown(name: str) -> None:
    """The bar names the tenant that is synced."""
    bar = console.progress_bar("changes")
    bar.add_task(name)
    printed = Console(width=200)
    with printed.capture() as capture:
        printed.print(bar.get_renderable())
    assert shown(name) in capture.get()
    assert "\x1b" not in capture.get()
