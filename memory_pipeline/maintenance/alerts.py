"""Send alerts to a webhook: one JSON object by POST, in the format of Standard Webhooks.

Headers: ``webhook-id``, the same for an alert that is sent again, so that a receiver can drop it;
``webhook-timestamp``, seconds since 1970; and where a secret is set ``webhook-signature``, an
HMAC-SHA256 of id, timestamp and body. See https://www.standardwebhooks.com.

An alert that fails is logged and never raised. It names tenants, memories and reasons, and never
contains a memory's text.
"""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC

import httpx

from memory_pipeline.domain.dead_letters import DeadLetter
from memory_pipeline.logs import get_logger
from memory_pipeline.maintenance.ports import DeadLetterAlerts
from memory_pipeline.proxies import http_client, proxy_of
from memory_pipeline.settings import Settings, webhook_key

log = get_logger("memory_pipeline.maintenance.alerts")

ANSWER_SECONDS = 5.0
# In one alert: all of them are counted, and the oldest are named.
DEAD_LETTERS_AT_ONCE = 1000
NAMED_DEAD_LETTERS = 20
AFTER_FAILURE = "an alert of dead letters is sent again, of a failed run it is not"


@dataclass(frozen=True, slots=True)
class Alerts:
    """Sends alerts to ``url``, signed with ``key``; sends none where ``url`` is None."""

    url: str | None = field(repr=False)
    key: bytes | None = field(default=None, repr=False)

    @classmethod
    def from_settings(cls, settings: Settings) -> "Alerts":
        """Return the alerts of an installation."""
        url, secret = settings.alert_url, settings.alert_secret
        return cls(
            None if url is None else url.get_secret_value(),
            None if secret is None else webhook_key(secret.get_secret_value()),
        )

    def send(self, event: str, alert: Mapping[str, object], *, alert_id: str | None = None) -> bool:
        """Send an alert; return whether the receiver accepted it. Never raises for the receiver.

        Neither the address, which is a secret, nor the answer is logged.

        Args:
            event: the name of the event.
            alert: what the event is about, as JSON values.
            alert_id: the same for every sending of this alert; None: derived from its content.

        """
        if self.url is None:
            return False
        body = json.dumps({"event": event, **alert}).encode()
        headers = _headers(alert_id or _digest(body), int(time.time()), body, self.key)
        try:
            with http_client(self.url, timeout=ANSWER_SECONDS) as client:
                answer = client.post(self.url, content=body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            log.warning(
                "alert_send_failed",
                alert=event,
                reason=type(error).__name__,
                proxy=proxy_of(self.url) or "none",
                next=AFTER_FAILURE,
            )
            return False
        if not answer.is_success:
            log.warning(
                "alert_refused",
                alert=event,
                status=answer.status_code,
                proxy=proxy_of(self.url) or "none",
                next=AFTER_FAILURE,
            )
        return answer.is_success


def send_dead_letter_alerts(alerts: Alerts, dead_letters: DeadLetterAlerts) -> int:
    """Send one alert for the dead letters that had none; return for how many it was delivered.

    They are recorded only once the receiver accepted the alert: an alert that was not delivered is
    sent again, and a crash in between sends it twice, with the same id. None is ever left out.
    """
    unalerted = dead_letters.unalerted(limit=DEAD_LETTERS_AT_ONCE)
    if not unalerted:
        return 0
    named = [
        {
            "tenant": dead_letter.tenant,
            "memory_id": dead_letter.memory_id,
            "class": dead_letter.kind,
            "error": dead_letter.last_error,
            "attempts": dead_letter.attempts,
            "buried_at": dead_letter.buried_at.isoformat(),
        }
        for dead_letter in unalerted[:NAMED_DEAD_LETTERS]
    ]
    alert = {"count": len(unalerted), "dead_letters": named}
    if not alerts.send("dead_letters", alert, alert_id=_id_of(unalerted)):
        return 0
    dead_letters.alerted(unalerted)
    return len(unalerted)


def _id_of(dead_letters: Sequence[DeadLetter]) -> str:
    """Return the id of the alert for exactly these burials, in any order."""
    burials = sorted(
        (d.tenant, d.memory_id, d.buried_at.astimezone(UTC).isoformat()) for d in dead_letters
    )
    return _digest(json.dumps(["dead_letters", burials]).encode())


def _digest(content: bytes) -> str:
    return f"msg_{hashlib.sha256(content).hexdigest()[:32]}"


def _headers(alert_id: str, timestamp: int, body: bytes, key: bytes | None) -> dict[str, str]:
    headers = {
        "content-type": "application/json",
        "webhook-id": alert_id,
        "webhook-timestamp": str(timestamp),
    }
    if key is not None:
        signed = b".".join((alert_id.encode(), str(timestamp).encode(), body))
        signature = base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
        headers["webhook-signature"] = f"v1,{signature}"
    return headers
