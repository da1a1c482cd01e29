"""The times that files have: what is understood, what is told of it, and what is refused."""

import pytest

from memory_pipeline.content.json_text import Number
from memory_pipeline.transfer.times import read_time

UTC = "as UTC, having no time zone"
PEOPLE = "as people write times"


@pytest.mark.parametrize(
    ("value", "when", "how"),
    [
        ("2024-06-30T23:59:59Z", "2024-06-30T23:59:59+00:00", None),
        ("2024-10-27T02:30:00+02:00", "2024-10-27T00:30:00+00:00", None),
        ("2024-06-30 23:59:59.123456+00", "2024-06-30T23:59:59.123456+00:00", None),
        ("2024-05-05T10:00:00.123456789Z", "2024-05-05T10:00:00.123456+00:00", None),
        ("2024-03-31T02:30:00", "2024-03-31T02:30:00+00:00", UTC),
        ("2026-01-31", "2026-01-31T00:00:00+00:00", UTC),
        ("2024-W10-3", "2024-03-06T00:00:00+00:00", UTC),
        (
            "2024-06-30T23:59:60Z",
            "2024-07-01T00:00:00+00:00",
            "as the second after it, being a leap second",
        ),
        ("Sun, 30 Jun 2024 23:59:59 GMT", "2024-06-30T23:59:59+00:00", None),
        ("Mon, 05 Feb 2024 10:00:00 -0500", "2024-02-05T15:00:00+00:00", None),
        (Number("1700000000"), "2023-11-14T22:13:20+00:00", "as seconds since 1970"),
        (Number("1700000000.123"), "2023-11-14T22:13:20.123000+00:00", "as seconds since 1970"),
        (Number("1.7e9"), "2023-11-14T22:13:20+00:00", "as seconds since 1970"),
        ("1700000000", "2023-11-14T22:13:20+00:00", "as seconds since 1970"),
        (Number("1700000000123"), "2023-11-14T22:13:20.123000+00:00", "as milliseconds since 1970"),
        (
            Number("1700000000123456"),
            "2023-11-14T22:13:20.123456+00:00",
            "as microseconds since 1970",
        ),
        (Number("20240131"), "2024-01-31T00:00:00+00:00", "as a day, YYYYMMDD, in UTC"),
        ("2023/04/10 (Mon) 17:50", "2023-04-10T17:50:00+00:00", f"{PEOPLE}, {UTC}"),
        ("1:56 pm on 8 May, 2023", "2023-05-08T13:56:00+00:00", f"{PEOPLE}, {UTC}"),
        # JavaScript's, whose sign is not that of POSIX.
        ("Tue Feb 06 2024 10:00:00 GMT+0100 (CET)", "2024-02-06T09:00:00+00:00", PEOPLE),
        # Of Postgres alone: Python has no such time.
        ("infinity", "infinity", None),
        ("0044-03-15T00:00:00+00:00 BC", "0044-03-15T00:00:00+00:00 BC", None),
        ("10000-01-01T00:00:00+00:00", "10000-01-01T00:00:00+00:00", None),
        ("0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00+14:00", None),
    ],
)
def test_a_time_is_understood_and_a_choice_is_told(value: str, when: str, how: str | None) -> None:
    """Always in UTC, so that no session's time zone changes it."""
    assert read_time(value) == (when, how)


@pytest.mark.parametrize(
    "value",
    [
        "2024-02-30T00:00:00Z",
        "01/02/2024",
        "05.02.2024 10:00",
        "10:00",
        "May 2024",
        "2024-03-05 10:00 EST",
        "yesterday",
        Number("12"),
        Number("5000000000"),
        Number("1e30"),
        Number("20241399"),
        True,
        ["2024"],
    ],
)
def test_what_has_no_meaning_or_more_than_one_is_refused(value: object) -> None:
    """What broke: 20240131 as seconds is a day in 1970, and nobody sees it."""
    with pytest.raises(ValueError, match="created_at"):
        read_time(value)
