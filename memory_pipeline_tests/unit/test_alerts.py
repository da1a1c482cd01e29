"""The webhook, against a real HTTP server on this machine."""

import base64
import hashlib
import hmac
import logging
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from memory_pipeline.domain.dead_letters import DeadLetter
from memory_pipeline.domain.types import MemoryId, TenantId
from memory_pipeline.errors import SettingsError
from memory_pipeline.maintenance import alerts as alerting
from memory_pipeline.maintenance.alerts import Alerts, send_dead_letter_alerts
from memory_pipeline.settings import Settings, webhook_key
from memory_pipeline_tests.webhook import webhook

KEY = b"k" * 24
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"
BURIED_AT = datetime(2026, 1, 31, 12, tzinfo=UTC)


def a_dead_letter(memory: int, *, tenant: str = "ada") -> DeadLetter:
    """Make a dead letter."""
    return DeadLetter(
        tenant=TenantId(tenant),
        memory_id=MemoryId(memory),
        kind="content",
        first_error="first",
        last_error="last",
        attempts=5,
        first_at=BURIED_AT,
        last_at=BURIED_AT,
        buried_at=BURIED_AT,
        content_hash=None,
        model=None,
        config_hash=None,
        version=None,
        waived_at=None,
        waived_by=None,
        waived_because=None,
    )


class Unalerted:
    """Dead letters without an alert; what is recorded as alerted may be lost in a crash."""

    def __init__(self, *dead_letters: DeadLetter) -> None:
        self.dead_letters = list(dead_letters)
        self.recorded: list[DeadLetter] = []

    def unalerted(self, *, limit: int) -> Sequence[DeadLetter]:
        """Return them."""
        return self.dead_letters[:limit]

    def alerted(self, dead_letters: Collection[DeadLetter], /) -> None:
        """Record them, as a process does that dies before it commits."""
        self.recorded += dead_letters


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
    """Nor does it count as delivered; the address stays out of the log."""
    with webhook() as hook:
        hook.status = status
        assert not Alerts(hook.url).send("tested", {})
    [line] = logged
    assert f"status={status}" in line
    assert "secret" not in line


def test_a_webhook_that_is_away_or_hangs_raises_nothing(
    logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender continues after a bounded time."""
    monkeypatch.setattr(alerting, "ANSWER_SECONDS", 0.2)
    with webhook() as hook:
        hook.waits_seconds = 1.0
        assert not Alerts(hook.url).send("tested", {})
    assert not Alerts(hook.url).send("tested", {})  # the server has stopped
    assert len(logged) == 2
    assert all("alert_send_failed" in line and "next=" in line for line in logged)
    assert not any("secret" in line for line in logged)


def test_without_an_address_no_alert_is_sent() -> None:
    """It is no error: most installations have none."""
    assert not Alerts.from_settings(Settings.load()).send("tested", {})


# ---- Standard Webhooks: an id, a time, a signature


def test_an_alert_that_is_sent_again_has_the_same_id() -> None:
    """What broke: after a crash in between, a receiver could not tell the second from a new one."""
    burials = Unalerted(a_dead_letter(1), a_dead_letter(2))
    with webhook() as hook:
        for _ in range(2):  # the first is delivered, and the crash loses the record of it
            assert send_dead_letter_alerts(Alerts(hook.url), burials) == 2
    first, second = hook.headers
    assert first["webhook-id"] == second["webhook-id"]
    assert first["webhook-id"].startswith("msg_")
    assert first["content-type"] == "application/json"


def test_the_id_names_the_burials_and_nothing_else() -> None:
    """Not their order, nor the zone in which the time is printed; another burial is another id."""
    elsewhere = BURIED_AT.astimezone(timezone(timedelta(hours=5)))
    one, two = a_dead_letter(1), a_dead_letter(2)
    again = replace(one, buried_at=BURIED_AT + timedelta(seconds=1))
    sent = [
        (one, two),
        (two, replace(one, buried_at=elsewhere)),
        (one,),
        (again, two),
        (one, replace(two, tenant=TenantId("bob"))),
    ]
    with webhook() as hook:
        for dead_letters in sent:
            send_dead_letter_alerts(Alerts(hook.url), Unalerted(*dead_letters))
    ids = [headers["webhook-id"] for headers in hook.headers]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 4


def test_other_alerts_have_an_id_by_their_content() -> None:
    """A failed run is named in its alert, so two runs have two ids."""
    with webhook() as hook:
        for run in ("a", "b", "a"):
            Alerts(hook.url).send("run_failed", {"run_id": run})
    a, b, again = (headers["webhook-id"] for headers in hook.headers)
    assert a == again != b


def test_an_alert_says_when_it_was_sent() -> None:
    """In seconds since 1970, so that a receiver can refuse one that somebody replays."""
    before = int(time.time())
    with webhook() as hook:
        Alerts(hook.url).send("tested", {})
    assert before <= int(hook.headers[0]["webhook-timestamp"]) <= time.time()


def test_an_alert_is_signed_with_the_secret() -> None:
    """Over the id, the time and the very bytes of the body."""
    with webhook() as hook:
        settings = Settings.load(alert_url=hook.url, alert_secret=SECRET)
        assert Alerts.from_settings(settings).send("tested", {"text": "é"})
    [headers], [body] = hook.headers, hook.bodies
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"


def test_the_signature_is_that_of_the_standard() -> None:
    """The published example of the specification's libraries."""
    key = webhook_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    example = ("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', key)
    signature = alerting._headers(*example)["webhook-signature"]
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_without_a_secret_nothing_is_signed() -> None:
    """A receiver that checks would refuse an empty signature."""
    with webhook() as hook:
        Alerts(hook.url).send("tested", {})
    assert "webhook-signature" not in hook.headers[0]


@pytest.mark.parametrize(
    "secret",
    ["", "hunter2", "whsec_hunter2", "whsec_é", f"whsec_{base64.b64encode(b'k' * 23).decode()}"],
)
def test_a_secret_that_is_none_is_refused_and_not_shown(secret: str) -> None:
    """With the name of the setting and with what is allowed."""
    with pytest.raises(
        SettingsError, match=r"ALERT_SECRET=\(hidden\): allowed is whsec_"
    ) as refused:
        Settings.load(alert_secret=secret)
    assert "hunter2" not in str(refused.value)


def test_neither_the_address_nor_the_secret_is_shown() -> None:
    """Not by the settings, and not by what sends the alerts."""
    settings = Settings.load(alert_url="http://127.0.0.1/hooks/T0", alert_secret=SECRET)
    shown = f"{settings!r} {settings.shown()} {Alerts.from_settings(settings)!r}"
    assert "T0" not in shown
    assert SECRET.removeprefix("whsec_") not in shown
    assert repr(KEY) not in shown


def test_only_delivered_alerts_are_recorded() -> None:
    """What the receiver refuses is sent again with the next alert."""
    burials = Unalerted(a_dead_letter(1))
    with webhook() as hook:
        hook.status = 500
        assert send_dead_letter_alerts(Alerts(hook.url), burials) == 0
        assert burials.recorded == []
        hook.status = 200
        assert send_dead_letter_alerts(Alerts(hook.url), burials) == 1
    assert burials.recorded == burials.dead_letters
    assert hook.taken[-1]["dead_letters"][0]["memory_id"] == 1
