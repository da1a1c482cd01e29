"""Dead letters as facts: what of an error is kept, what a cause is, and what cannot be read."""

import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import typer

from memory_pipeline.cli.durations import duration, moment
from memory_pipeline.content.document import recipe_from
from memory_pipeline.domain.dead_letters import Cause
from memory_pipeline.domain.types import Memory, MemoryId, TenantId
from memory_pipeline.errors import Poison, SettingsError
from memory_pipeline.redact import REASON_LENGTH, without_quotes
from memory_pipeline.settings import Settings
from memory_pipeline.sync.plan import plan_batch

ADA = TenantId("ada")
SECRET = "the patient has a secret illness nobody may know of"


@pytest.mark.parametrize("quote", ['"', "'", "`"])
@pytest.mark.parametrize("end", ["closed", "cut off"])
def test_what_an_error_quotes_at_length_is_left_out(quote: str, end: str) -> None:
    """A server that repeats a part of a memory does not bring it into a log."""
    said = f"index: invalid type: string {quote}{SECRET}"
    said += f"{quote}, expected f32 at line 1" if end == "closed" else ""
    kept = without_quotes(said)
    assert kept.startswith("index: invalid type: string ")
    assert not any(word in kept for word in ("patient", "secret", "illness"))
    assert ("expected f32" in kept) == (end == "closed")


def test_short_quotes_and_apostrophes_stay() -> None:
    """They name fields and types, which is what a person wants to know."""
    said = "index: Chroma's client refuses it: 'date' has to be a str, not 'dict'"
    assert without_quotes(said) == said


def test_an_error_is_one_line_of_bounded_length() -> None:
    """Whatever a proxy answers."""
    kept = without_quotes("refused\n  for\ta reason " + "x" * 10_000)
    assert kept.startswith("refused for a reason x")
    assert len(kept) == REASON_LENGTH


def test_each_part_of_a_cause_makes_another_word() -> None:
    """A new model, other settings and a new version are each worth another try."""
    cause = Cause("model", "config", "1.0")
    others = [
        replace(cause, model="other"),
        replace(cause, config_hash="other"),
        replace(cause, version="1.1"),
        Cause("config", "model", "1.0"),
    ]
    assert len({c.word for c in [cause, *others]}) == 5
    assert replace(cause).word == cause.word


def memory(number: int, raw: str) -> Memory:
    """Build a row."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return Memory(MemoryId(number), ADA, "ada", None, raw, None, now, now, "1")


def test_a_memory_that_cannot_be_read_is_refused_alone() -> None:
    """P5: it used to hold up its whole tenant for ever. The others of its batch are planned."""
    rows = {m.id: m for m in (memory(1, '{"text": "good"}'), memory(2, f'{{"{SECRET}'))}
    plan = plan_batch(ADA, list(rows), rows, recipe=recipe_from(Settings()), model="m", trust=False)
    assert [d.memory.id for d in plan.to_embed] == [1]
    [failure] = plan.refused
    assert (failure.memory_id, failure.kind) == (2, "content")
    assert failure.content_hash
    assert "patient" not in failure.reason


def test_another_content_that_cannot_be_read_has_another_hash() -> None:
    """So that a waiver of the one is none of the other."""

    def hash_of(raw: str) -> str | None:
        row = memory(1, raw)
        plan = plan_batch(
            ADA, [row.id], {row.id: row}, recipe=recipe_from(Settings()), model="m", trust=False
        )
        return plan.refused[0].content_hash

    assert hash_of("{") == hash_of("{") != hash_of("[")


# ---- times on the command line


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("90", 90), ("90s", 90), ("15m", 900), ("2h", 7200), ("1.5d", 129_600), ("0", 0)],
)
def test_durations_are_read(said: str, seconds: float) -> None:
    """As people write them."""
    assert duration(said) == seconds


@pytest.mark.parametrize("said", ["", "soon", "-5m", "5 minutes", "1e3", "5w", "9" * 20, "٣h"])
def test_what_is_no_duration_is_refused(said: str) -> None:
    """The message says what is allowed."""
    with pytest.raises(typer.BadParameter, match=re.escape("90s, 15m, 2h, 3d")):
        duration(said)


def test_moments_are_read() -> None:
    """A date is UTC unless it says otherwise; a duration is that long ago."""
    assert moment("2026-01-31") == datetime(2026, 1, 31, tzinfo=UTC)
    assert moment("2026-01-31T12:00:00+02:00") == datetime(2026, 1, 31, 10, tzinfo=UTC)
    ago = datetime.now(UTC) - moment("2h")
    assert 7199 < ago.total_seconds() < 7260
    with pytest.raises(typer.BadParameter, match="2026-01-31"):
        moment("yesterday")


# ---- the webhook's address


def test_the_webhook_is_never_shown() -> None:
    """Of such an address the path is the secret, and whoever has it may write."""
    settings = Settings.load(alert_url="https://hooks.example/services/T0/B0")
    shown = str(settings.shown()["alert_url"])
    assert shown.startswith("https://hooks.example")
    assert "T0/B0" not in shown
    assert "T0/B0" not in repr(settings)


def test_a_bad_webhook_is_refused_without_its_value() -> None:
    """A file path or a typo would fail in silence later."""
    with pytest.raises(SettingsError, match="MEMORY_PIPELINE_ALERT_URL=") as refused:
        Settings.load(alert_url="ftp://hooks.example/secret")
    assert "secret" not in str(refused.value)


def test_poison_has_no_text_of_its_own() -> None:
    """What is raised by content says where it broke, and not what stands there."""
    from memory_pipeline.content.json_text import parse

    with pytest.raises(Poison) as raised:
        parse(f'{{"{SECRET}": ')
    assert "patient" not in without_quotes(str(raised.value))
