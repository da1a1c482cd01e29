"""Dates as people and programs write them: what they mean, and what is not guessed at."""

import json
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_pipeline.content.dates import seconds
from memory_pipeline.content.json_text import Number

READ = {
    "2024/05/08": "2024-05-08T00:00:00",
    "2024/5/8 13:56": "2024-05-08T13:56:00",
    "2024.05.08": "2024-05-08T00:00:00",
    "1:56 pm on 8 May, 2023": "2023-05-08T13:56:00",
    "2023/04/10 (Mon) 17:50": "2023-04-10T17:50:00",
    "8th of May 2023, 1:56pm": "2023-05-08T13:56:00",
    "May 8, 2023 at 1:56 PM": "2023-05-08T13:56:00",
    "10-Sep-2023": "2023-09-10T00:00:00",
    "08/25/2024": "2024-08-25T00:00:00",
    "25/08/2024": "2024-08-25T00:00:00",
    "5/5/2024": "2024-05-05T00:00:00",
    "10.04.2023": "2023-04-10T00:00:00",
    "8. 5. 2023": "2023-05-08T00:00:00",
    "Wed, 08 May 2024 13:56:00 GMT": "2024-05-08T13:56:00",
    "Wed, 08 May 2024 13:56:00 EST": "2024-05-08T18:56:00",
    "Wed May 08 2024 13:56:00 GMT-0500 (Central Daylight Time)": "2024-05-08T18:56:00",
    "2024-05-08 13:56 UTC+2": "2024-05-08T11:56:00",
    "2024-05-08 13:56:00.123456+00": "2024-05-08T13:56:00",
    "2024-05-08T13:56:00-07:00": "2024-05-08T20:56:00",
    "2024-05-08 13:56 +02:00": "2024-05-08T11:56:00",
    "20240508": "2024-05-08T00:00:00",
    "1715176560": "2024-05-08T13:56:00",
    "1612013100000": "2021-01-30T13:25:00",
}
NUMBERS = {
    1715176560: "2024-05-08T13:56:00",
    1715176560.9: "2024-05-08T13:56:00",
    1715176560123: "2024-05-08T13:56:00",
    1715176560123456: "2024-05-08T13:56:00",
    1715176560123456789: "2024-05-08T13:56:00",
    20240508: "2024-05-08T00:00:00",
    20240508135600: "2024-05-08T13:56:00",
}
UNREAD = [
    *("05/08/2024", "5-8-2024"),  # of May or of August
    *("8 May", "May 2023", "2023", "2024-05", "May", "12", "10:30", "Monday", "Monday 10:30"),
    *("5/8/24", "8 May 23", "24-05-08"),
    *("Wed, 08 May 2024 13:56:00 IST", "2024-05-08 10:00 CET", "2024-05-08 10:00 EST+3"),
    *("today", "tomorrow", "last Tuesday", "now", "", " ", "1e400"),
    *("2024-13-45", "2024/13/01", "2024-02-30", "99999999999999999999", "0", "-5"),
    "met on 2024-05-08 and " + "talked " * 10,
    *(0, 1, 2024, -1715176560, 10**8 - 1, 10**10, 20241345, 1e300, True, False, None),
    *([], ["2024-05-08"], {"date": "2024-05-08"}, Number("1715176560")),
]
ALL = [*READ, *NUMBERS, *(value for value in UNREAD if not isinstance(value, Number))]


def meant(text: str) -> int:
    """Return a time in UTC as seconds, by another way."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


@pytest.mark.parametrize(("value", "time"), [*READ.items(), *NUMBERS.items()])
def test_what_people_and_programs_write_is_read(value: object, time: str) -> None:
    """To the second, in UTC."""
    assert seconds(value) == meant(time)


@pytest.mark.parametrize("value", UNREAD)
def test_what_leaves_something_out_or_may_be_two_dates_is_not_read(value: object) -> None:
    """Nothing is completed from today's date, and none of two readings is chosen."""
    assert seconds(value) is None


def test_neither_the_day_nor_the_machine_changes_what_is_read() -> None:
    """Another year, time zone, locale and hash seed: the same seconds."""
    program = (
        "import datetime, json, sys, time\n"
        "year = int(sys.argv[1])\n"
        "class Later(datetime.datetime):\n"
        "    @classmethod\n"
        "    def now(cls, tz=None): return cls(year, 7, 19, 3, 4, 5, tzinfo=tz)\n"
        "now = time.localtime\n"
        "time.localtime = lambda *a: now(*a) if a else Later.now().timetuple()\n"
        "datetime.datetime = Later\n"
        "import dateutil.parser._parser as library\n"
        "assert library.datetime.datetime is Later\n"
        "from memory_pipeline.content.dates import seconds\n"
        "print([seconds(value) for value in json.load(sys.stdin)])\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program, year],
            input=json.dumps(ALL),
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": language},
        ).stdout
        for year, seed, zone, language in (
            ("2026", "1", "UTC", "C"),
            ("2071", "2", "America/Chicago", "de_DE.UTF-8"),
            ("1999", "3", "IST-5:30", "C.UTF-8"),
        )
    }
    assert outputs == {f"{[seconds(value) for value in ALL]}\n"}


@given(
    st.text(max_size=70)
    | st.text("0123456789/-:. TZapm+(),MayGCSE", max_size=40)
    | st.integers()
    | st.floats()
)
def test_anything_is_a_date_or_none(value: object) -> None:
    """No text and no number raises; what is read is a time of the years that Python has."""
    found = seconds(value)
    assert found is None or -62135683200 - 86400 <= found <= 253402300799 + 86400
    assert seconds(value) == found


@given(st.datetimes(datetime(1000, 1, 1), datetime(9999, 12, 31)))  # noqa: DTZ001 - read as UTC
def test_the_forms_of_one_time_mean_the_same(time: datetime) -> None:
    """Whichever form a program prints a time in."""
    whole = time.replace(microsecond=0, tzinfo=UTC)
    expected = meant(whole.replace(tzinfo=None).isoformat())
    for form in (
        *("%Y-%m-%dT%H:%M:%SZ", "%Y/%m/%d %H:%M:%S", "%Y.%m.%d %H:%M:%S", "%d.%m.%Y %H:%M:%S"),
        *("%a, %d %b %Y %H:%M:%S +0000", "%B %d, %Y %I:%M:%S %p", "%a %b %d %Y %H:%M:%S GMT+0000"),
    ):
        assert seconds(whole.strftime(form)) == expected, form
