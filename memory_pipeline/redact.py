"""Errors as they may be kept and shown: one line, bounded, without what they quote at length."""

import re

REASON_LENGTH = 300
# What an error quotes may be a part of the memory; shorter quotes are names of fields and types.
QUOTED_LENGTH = 24
_QUOTED = re.compile(r"([\"'`])((?:(?!\1).)*)(\1|$)", re.DOTALL)


def without_quotes(reason: str) -> str:
    """Return an error in one line of bounded length, without what it quotes at any length."""

    def cut(match: re.Match[str]) -> str:
        quote, quoted, end = match.groups()
        return match[0] if len(quoted) < QUOTED_LENGTH else f"{quote}…{end or quote}"

    said = _QUOTED.sub(cut, " ".join(reason.split()))
    return said if len(said) <= REASON_LENGTH else said[: REASON_LENGTH - 1] + "…"
