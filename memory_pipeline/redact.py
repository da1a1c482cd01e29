"""What may be kept and shown: an error without what it quotes, an address without its secrets."""

import re
from urllib.parse import quote, urlencode

from psycopg.pq import Conninfo

REASON_LENGTH = 300
# What an error quotes may be a part of the memory; shorter quotes are names of fields and types.
QUOTED_LENGTH = 24
_QUOTED = re.compile(r"([\"'`])((?:(?!\1).)*)(\1|$)", re.DOTALL)


def without_quotes(reason: str) -> str:
    """Return an error in one line of bounded length, without what it quotes at any length."""

    def cut(match: re.Match[str]) -> str:
        mark, quoted, end = match.groups()
        return match[0] if len(quoted) < QUOTED_LENGTH else f"{mark}…{end or mark}"

    said = _QUOTED.sub(cut, " ".join(reason.split()))
    return said if len(said) <= REASON_LENGTH else said[: REASON_LENGTH - 1] + "…"


def without_password(url: str) -> str:
    """Return the address of a database without its secrets, for printing and for files.

    It still works where the password comes from elsewhere.
    """
    parts = {
        option.keyword.decode(): option.val.decode()
        for option in Conninfo.parse(url.encode())
        if option.val and not option.dispchar  # libpq marks secrets and debug options with it
    }
    user, database = (quote(parts.pop(key, ""), safe="") for key in ("user", "dbname"))
    place = f"{parts.get('host', '')}:{parts.get('port', '')}".removesuffix(":")
    if re.fullmatch(r"[\w.-]*(:[0-9]+)?", place):
        parts = {key: value for key, value in parts.items() if key not in {"host", "port"}}
    else:  # a socket's folder, IPv6 and several hosts remain options, which need no brackets
        place = ""
    # libpq does not read + as a blank; a socket's folder is easier to read with its slashes.
    options = urlencode(parts, safe="/:,", quote_via=quote)
    return f"postgresql://{user}{'@' * bool(user)}{place}/{database}{'?' * bool(options)}{options}"
