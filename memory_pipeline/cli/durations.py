"""Durations and times as people write them: ``90s``, ``15m``, ``2h``, ``3d``, or a date."""

import re
from datetime import UTC, datetime, timedelta

import typer

SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
# Far below the range of Postgres, and a longer one is a typo.
MOST_SECONDS = 100 * 365 * 86_400.0


def duration(text: str) -> float:
    """Read a duration; return seconds.

    Raises:
        BadParameter: the text is not a duration, or longer than a century.

    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip(), re.ASCII)
    seconds = float(match[1]) * SECONDS[match[2]] if match else MOST_SECONDS + 1
    if seconds > MOST_SECONDS:
        raise typer.BadParameter(f"{text!r} is no duration; allowed are 90s, 15m, 2h, 3d")
    return seconds


def moment(text: str) -> datetime:
    """Read a point in time, or how long ago it was; a time without a zone is UTC.

    Raises:
        BadParameter: the text is neither.

    """
    try:
        when = datetime.fromisoformat(text.strip())
    except ValueError:
        try:
            return datetime.now(UTC) - timedelta(seconds=duration(text))
        except typer.BadParameter:
            raise typer.BadParameter(
                f"{text!r} is no time; allowed are 2026-01-31, 2026-01-31T12:00:00+02:00 and how "
                "long ago it was: 90s, 15m, 2h, 3d"
            ) from None
    return when if when.tzinfo else when.replace(tzinfo=UTC)
