"""Tell people through a webhook: one JSON object by POST.

An alert that fails is logged and never raised. It names tenants, memories and reasons, and never
holds a memory's text.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from memory_pipeline.logs import get_logger
from memory_pipeline.postgres.dead_letters import PostgresDeadLetters
from memory_pipeline.settings import Settings

log = get_logger("memory_pipeline.maintenance.alerts")

ANSWER_SECONDS = 5.0
# In one alert; the first of them are named, and all are counted.
LETTERS_AT_ONCE = 1000
NAMED_LETTERS = 20


@dataclass(frozen=True, slots=True)
class Alerts:
    """Where alerts go; nowhere, where no address is set."""

    url: str | None

    @classmethod
    def from_settings(cls, settings: Settings) -> "Alerts":
        """Take the address from the settings."""
        url = settings.alert_url
        return cls(None if url is None else url.get_secret_value())

    def send(self, event: str, alert: Mapping[str, object]) -> bool:
        """Tell of an event; return whether it was taken. Never raises, whatever the other side is.

        The address is a secret: neither it nor the answer is logged.
        """
        if self.url is None:
            return False
        try:
            answer = httpx.post(self.url, json={"event": event, **alert}, timeout=ANSWER_SECONDS)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            log.warning("alert_not_sent", alert=event, reason=type(error).__name__)
            return False
        if not answer.is_success:
            log.warning("alert_refused", alert=event, status=answer.status_code)
        return answer.is_success


def send_dead_letter_alerts(alerts: Alerts, letters: PostgresDeadLetters) -> int:
    """Tell of the dead letters that nobody was told of yet; return how many that were.

    They are noted as told only once the other side took it: one that it did not take is told again,
    and a crash in between tells twice. None is ever left out.
    """
    untold = letters.unalerted(limit=LETTERS_AT_ONCE)
    named = [
        {
            "tenant": letter.tenant,
            "memory_id": letter.memory_id,
            "class": letter.kind,
            "error": letter.last_error,
            "attempts": letter.attempts,
            "buried_at": letter.buried_at.isoformat(),
        }
        for letter in untold[:NAMED_LETTERS]
    ]
    if not untold or not alerts.send("dead_letters", {"count": len(untold), "letters": named}):
        return 0
    letters.alerted(untold)
    return len(untold)
