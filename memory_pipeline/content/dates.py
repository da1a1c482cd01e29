"""Reads the dates that people and programs write, as seconds since 1970 in UTC.

The same value gives the same seconds in every process: nothing is completed from today's date, and
neither the locale nor the time zone of the machine counts. What can be read in two ways is not
read.
"""

import math
import re
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache

from dateutil.parser import UnknownTimezoneWarning, parser, parserinfo

from memory_pipeline.content.json_text import Number
from memory_pipeline.domain.types import UNIX_EPOCH

SECONDS_A_DAY = 86_400
LONGEST_DATE = 64  # characters: no date is longer, and the parser is slow on prose
# The same dates come again and again, and a date that is no ISO takes 0.2 ms to read.
REMEMBERED_DATES = 4096
# The seconds since 1970 that are taken for a time: from 1973 to 2286. The same times in
# milliseconds, microseconds and nanoseconds are other numbers, and so are 20240508 and
# 20240508135600.
PLAUSIBLE_SECONDS = (10**8, 10**10)
PLAUSIBLE_DATES = (1900_01_01, 3000_01_01)
UNITS = (1, 10**3, 10**6, 10**9)
# Years of two digits are not guessed at.
FIRST_YEAR = 1000

YEAR_FIRST = re.compile(r"(?<!\d)\d{4}\s?[-/. ]\s?\d{1,2}\s?[-/. ]\s?\d{1,2}(?!\d)")
# Nobody writes the month first with dots.
DAY_FIRST = re.compile(r"(?<!\d)\d{1,2}\.\s?\d{1,2}\.\s?\d{4}(?!\d)")
# 13:56:00 GMT+0200 (Central European Summer Time)
ZONE_COMMENT = re.compile(r"(?<=[+-]\d{4})\s*\([^()]*\)|(?<=[+-]\d\d:\d\d)\s*\([^()]*\)")
PARENTHESES = str.maketrans("()", "  ")
# The parser takes a sign behind an abbreviation as POSIX does, the wrong way round for GMT+0200.
OFFSET_NAME = re.compile(r"\b(GMT|UTC)\s?(?=[+-]\d)")
POSIX_ZONE = re.compile(r":\d\d.*[A-Z]{3}\s?[+-]\d")

# Two dates that have no part in common: what a text leaves out comes out differently.
BLANKS = (datetime(2001, 1, 1), datetime(2004, 2, 2))  # noqa: DTZ001 - the text has the zone


class _Words(parserinfo):
    """English words, years as they are written, and the zones that mail has always had (RFC 5322).

    Other abbreviations are in use for several zones each.
    """

    TZOFFSET: Mapping[str, int] = {  # type: ignore[assignment] # never changed
        name: hours * 3600
        for name, hours in {
            "EST": -5,
            "EDT": -4,
            "CST": -6,
            "CDT": -5,
            "MST": -7,
            "MDT": -6,
            "PST": -8,
            "PDT": -7,
        }.items()
    }

    def convertyear(self, year: int, century_specified: bool = False) -> int:  # noqa: ARG002, FBT001 - the library's
        """Return the year as it is written; the library completes it from today's."""
        return year


_PARSER = parser(_Words())


def seconds(value: object) -> int | None:
    """Return a date as seconds since 1970, fractions cut off; None for what is no date.

    A text: ISO 8601, the forms of mail and of programs (``2024/05/08 13:56``, ``8 May 2024``,
    ``1:56 pm on 8 May, 2023``, ``Wed, 08 May 2024 13:56:00 GMT``), or digits as a number has them.
    A number: seconds since 1970, thousandths, millionths or billionths of them, whichever is a time
    between 1973 and 2286; or ``20240508`` and ``20240508135600``. A time without a zone is UTC.

    None for a text that leaves out the year, the month or the day, has a year of two digits, an
    abbreviated zone that is in use for several, or may be read in two ways (``05/08/2024``).
    """
    if isinstance(value, str) and not isinstance(value, Number):
        return _of_text(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _of_number(value)
    return None


def seconds_of(time: datetime) -> int:
    """Return a time as seconds since 1970; one without a zone is UTC."""
    since = (time if time.tzinfo else time.replace(tzinfo=UTC)) - UNIX_EPOCH
    return since.days * SECONDS_A_DAY + since.seconds


def _of_number(number: float) -> int | None:
    if not math.isfinite(number):
        return None
    whole = math.floor(number)
    for unit in UNITS:
        if PLAUSIBLE_SECONDS[0] * unit <= whole < PLAUSIBLE_SECONDS[1] * unit:
            return whole // unit
    if PLAUSIBLE_DATES[0] <= whole < PLAUSIBLE_DATES[1]:
        return _of_digits(str(whole), "%Y%m%d")
    if PLAUSIBLE_DATES[0] * 10**6 <= whole < PLAUSIBLE_DATES[1] * 10**6:
        return _of_digits(str(whole), "%Y%m%d%H%M%S")
    return None


def _of_digits(digits: str, form: str) -> int | None:
    try:
        return seconds_of(datetime.strptime(digits, form).replace(tzinfo=UTC))
    except ValueError:
        return None


def _of_text(text: str) -> int | None:
    if len(text) > LONGEST_DATE:
        return None
    stripped = text.strip()
    # Before ISO, which would read the milliseconds 1612013100000 as a day of the year 1612.
    if stripped.isdecimal():
        return _of_number(int(stripped))
    iso = stripped.replace("/", "-", 2) if stripped[4:5] == "/" else stripped
    try:
        return seconds_of(datetime.fromisoformat(iso))
    except ValueError:
        return _of_words(stripped)


@lru_cache(maxsize=REMEMBERED_DATES)
def _of_words(text: str) -> int | None:
    """Read a date in words twice: from two blanks, and with the day and the month first."""
    if not any(character.isdecimal() for character in text):
        return None
    text = OFFSET_NAME.sub(" ", ZONE_COMMENT.sub("", text)).translate(PARENTHESES)
    if POSIX_ZONE.search(text):
        return None
    orders = (False, True)
    if YEAR_FIRST.search(text):
        orders = (False, False)
    elif DAY_FIRST.search(text):
        orders = (True, True)
    try:
        one, other = (
            _parsed(text, blank, day_first=order)
            for blank, order in zip(BLANKS, orders, strict=True)
        )
    except (ValueError, OverflowError, ArithmeticError, TypeError, AttributeError, IndexError):
        return None  # the parser has all of these for a text that is no date
    if one != other or one.year < FIRST_YEAR:
        return None
    return seconds_of(one)


def _parsed(text: str, blank: datetime, *, day_first: bool) -> datetime:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnknownTimezoneWarning)
        return _PARSER.parse(
            text, default=blank, dayfirst=day_first, yearfirst=False, tzinfos=_zone
        )


def _zone(name: str | None, offset: int | None) -> tzinfo | None:
    """Return the zone that a text names. Raises ValueError where it cannot be known."""
    if offset is not None:
        return timezone(timedelta(seconds=offset))
    if name is not None:
        raise ValueError("an abbreviation that is in use for several zones")
    return None
