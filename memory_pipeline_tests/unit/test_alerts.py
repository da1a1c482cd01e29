"""The webhook, against a real HTTP server on this machine."""

import logging
from collections.abc import Iterator

import pytest

from memory_pipeline.maintenance import alerts as alerting
from memory_pipeline.maintenance.alerts import Alerts
from memory_pipeline.settings import Settings
from memory_pipeline_tests.webhook import webhook


class _Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.kept.append(record.getMessage())


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Return the lines that alerts log, however logging was set up before."""
    logger, lines = logging.getLogger("memory_pipeline.maintenance.alerts"), _Lines()
    monkeypatch.setattr(logger, "propagate", False)
    logger.addHandler(lines)
    yield lines.kept
    logger.removeHandler(lines)


def test_an_alert_is_one_json_object() -> None:
    """It names its event, and what it is about."""
    with webhook() as hook:
        assert Alerts.from_settings(Settings.load(alert_url=hook.url)).send("tested", {"count": 3})
    assert hook.taken == [{"event": "tested", "count": 3}]


@pytest.mark.parametrize("status", [302, 404, 500])
def test_an_alert_that_is_refused_is_logged_and_not_raised(status: int, logged: list[str]) -> None:
    """Nor does it count as told; the address stays out of the log."""
    with webhook() as hook:
        hook.status = status
        assert not Alerts(hook.url).send("tested", {})
    [line] = logged
    assert f"status={status}" in line
    assert "secret" not in line


def test_a_webhook_that_is_away_or_hangs_raises_nothing(
    logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever tells goes on with what it was at, after a bounded time."""
    monkeypatch.setattr(alerting, "ANSWER_SECONDS", 0.2)
    with webhook() as hook:
        hook.waits_seconds = 1.0
        assert not Alerts(hook.url).send("tested", {})
    assert not Alerts(hook.url).send("tested", {})  # nobody listens any more
    assert len(logged) == 2
    assert not any("secret" in line for line in logged)


def test_without_an_address_nobody_is_told() -> None:
    """It is no error: most installations have none."""
    assert not Alerts.from_settings(Settings.load()).send("tested", {})
