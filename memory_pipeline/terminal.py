"""Terminals and files that cannot show every character: what they lack is spelled in ASCII."""

import codecs
import os
import sys
from typing import TextIO

ERRORS = "memory_pipeline.spelled"
# The characters of our own sentences; any other one is shown by its number.
SPELLED = {
    "\N{HORIZONTAL ELLIPSIS}": "...",
    "\N{EN DASH}": "-",
    "\N{EM DASH}": "-",
    "\N{MIDDLE DOT}": "|",
    "\N{RIGHTWARDS ARROW}": "->",
    "\N{LEFT SINGLE QUOTATION MARK}": "'",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{LEFT DOUBLE QUOTATION MARK}": '"',
    "\N{RIGHT DOUBLE QUOTATION MARK}": '"',
    "\N{REPLACEMENT CHARACTER}": "?",
}


def spell_what_is_lacking() -> None:
    """Let the output of this process never fail for a character that its encoding lacks.

    By default Python raises then, for whatever a memory or a tenant's name holds: in the middle of
    a table, and with a traceback. It is also for half a character in an argument, which no encoding
    has.
    """
    codecs.register_error(ERRORS, _spelled)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not a stream that a test has put in its place
            stream.reconfigure(errors=ERRORS)


def shows_everything(stream: TextIO) -> bool:
    """Whether a stream can show every character, so that JSON needs no escapes."""
    encoding = stream.encoding or "utf-8"
    return codecs.lookup(encoding).name in {"utf-8", "utf-16", "utf-32"}


def utf8(argument: str) -> str:
    """Return an argument of the command line as it was meant: its bytes are UTF-8.

    Python decodes them by the locale. Where that has no such characters, it keeps them as halves of
    characters, which Postgres would refuse.

    Raises:
        UnicodeDecodeError: they are no UTF-8.

    """
    return os.fsencode(argument).decode()


def _spelled(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(SPELLED.get(c) or _number(c) for c in lacking), error.end


def _number(character: str) -> str:
    return character.encode("ascii", "backslashreplace").decode()
