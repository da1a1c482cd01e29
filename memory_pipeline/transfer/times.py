"""Reads the times that files have, and says which of them had to be interpreted.

The result is a text in UTC that Postgres reads; Python cannot hold every time that Postgres can.
"""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from email.utils import parsedate_to_datetime

from dateutil import parser as dateutil_parser

from memory_pipeline.content.json_text import Number

# Seconds from 1973 to 2099. The ranges of their thousandths, millionths and milliardths lie apart,
# so that a plausible number has one meaning.
PLAUSIBLE_SECONDS = (Decimal(10**8), Decimal(41 * 10**8))
UNITS = {"seconds": 0, "milliseconds": 3, "microseconds": 6, "nanoseconds": 9}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# What fills the parts that a text leaves out: where it matters which, the text is no time.
FIRST_DEFAULT, OTHER_DEFAULT = datetime(2000, 1, 1), datetime(2003, 2, 2)  # noqa: DTZ001

# As Postgres prints times in UTC, of any year.
_OF_POSTGRES = re.compile(
    r"-?infinity|\d{4,6}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:\+00(?::00)?)?(?: BC)?"
)
_LEAP_SECOND = re.compile(r"(T?\s?\d\d:\d\d:)60(?=\D|$)")
_RFC_2822 = re.compile(
    r"(?:[A-Za-z]{3},\s*)?\d{1,2} [A-Za-z]{3} \d{4} \d\d:\d\d(?::\d\d)?"
    r"\s+(?:GMT|UTC?|[+-]\d{4})"
)
_YEAR_FIRST = re.compile(r"\d{4}\D")
# "GMT+0100", as JavaScript prints it; dateutil reads that as POSIX does, an hour the other way.
_OFFSET = re.compile(r"\b(?:GMT|UTC)\s?([+-]\d)")
# (Mon), or (Central European Standard Time): it repeats what the numbers say.
_REMARK = re.compile(r"\s*\([A-Za-z ]{2,60}\)")

Read = tuple[str, str | None]


def read_time(value: object) -> Read:
    """Return a time in UTC as Postgres reads it, and how it was understood, if that was a choice.

    Args:
        value: a text, or a Number.

    Raises:
        ValueError: it is no time, or has more than one meaning.

    """
    if isinstance(value, str) and re.fullmatch(r"-?\d+(\.\d+)?([eE][+-]?\d+)?", value):
        return _number(value, is_text=not isinstance(value, Number))
    if not isinstance(value, str) or isinstance(value, Number):
        raise ValueError("created_at has to be a text or a number")  # noqa: TRY004 - bad input
    for read in (_iso, _of_postgres, _rfc_2822, _free):
        found = read(value.strip())
        if found is not None:
            return found
    raise ValueError(
        "created_at is no time; an ISO 8601 time is always understood, as is one of RFC 2822, "
        "or the seconds or milliseconds since 1970 as a number"
    )


def _number(text: str, *, is_text: bool) -> Read:
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise ValueError("created_at is no time") from None
    for unit, digits in UNITS.items():
        seconds = number.scaleb(-digits)
        if PLAUSIBLE_SECONDS[0] <= seconds < PLAUSIBLE_SECONDS[1]:
            whole = int(seconds)
            micros = int((seconds - whole) * 10**6)
            when = EPOCH + timedelta(seconds=whole, microseconds=micros)
            return _printed(when), f"as {unit} since 1970"
    day = _day(text)
    if day is not None:
        return _printed(day), None if is_text else "as a day, YYYYMMDD, in UTC"
    raise ValueError(
        f"created_at is {text[:40]}, which is no plausible time: as a number it has to be the "
        "seconds, milliseconds, microseconds or nanoseconds since 1970, of a time from 1973 to 2099"
    )


def _day(text: str) -> datetime | None:
    if not re.fullmatch(r"(19|20)\d{6}", text):
        return None
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        return None


def _iso(text: str) -> Read | None:
    leap = _LEAP_SECOND.search(text)
    try:
        when = datetime.fromisoformat(_LEAP_SECOND.sub(r"\g<1>59", text))
    except ValueError:
        return None
    if leap:
        when += timedelta(seconds=1)
    return _zoned(when, "as the second after it, being a leap second" if leap else None)


def _of_postgres(text: str) -> Read | None:
    return (text, None) if _OF_POSTGRES.fullmatch(text) else None


def _rfc_2822(text: str) -> Read | None:
    if not _RFC_2822.fullmatch(text):
        return None  # the parser takes more than that, and passes over zones that it does not know
    try:
        return _zoned(parsedate_to_datetime(text), None)
    except ValueError:
        return None


def _free(text: str) -> Read | None:
    """Read a time as people write them, where it has one meaning."""
    plain = _OFFSET.sub(r"\1", _REMARK.sub("", text))
    try:
        readings = {
            dateutil_parser.parse(plain, default=default, dayfirst=first, tzinfos=_zone)
            for default in (FIRST_DEFAULT, OTHER_DEFAULT)
            for first in ((False,) if _YEAR_FIRST.match(plain) else (True, False))
        }
    except (ValueError, OverflowError, TypeError):
        return None
    if len(readings) != 1:
        raise ValueError(
            "created_at has more than one meaning, or lacks a part: write it as ISO 8601, "
            "2024-12-31T23:59:59Z"
        )
    return _zoned(readings.pop(), "as people write times")


def _zone(name: str | None, offset: int | None) -> int | None:
    if offset is not None or name is None:
        return offset
    if name not in {"UTC", "GMT", "Z"}:
        raise ValueError("the name of a time zone has several meanings")
    return 0


def _zoned(when: datetime, how: str | None) -> Read:
    if when.tzinfo is None:
        without = "as UTC, having no time zone"
        return _printed(when.replace(tzinfo=UTC)), f"{how}, {without}" if how else without
    return _printed(when), how


def _printed(when: datetime) -> str:
    try:
        return when.astimezone(UTC).isoformat()
    except OverflowError:  # Postgres knows years before 1 and after 9999
        return when.isoformat()
