"""Makes drafts of memories out of a file's values: which key becomes which column.

A draft holds JSON as it stands in the file; ``Finish`` makes a memory of it, or refuses it.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from memory_pipeline.content.json_text import Number
from memory_pipeline.domain.types import NewMemory, Origin
from memory_pipeline.errors import SettingsError
from memory_pipeline.settings import TenantBy
from memory_pipeline.transfer.json_values import decoded, elements, members
from memory_pipeline.transfer.times import read_time

KEYS = ("user_id", "project_id", "created_at", "raw_data")
WHOLE = "."
MOST_TENANT_BYTES = 1000

# An escaped NUL; after an escaped backslash, u0000 is a text.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")

Path = tuple[str, ...]
Notes = Counter[str]


@dataclass(frozen=True, slots=True)
class Draft:
    """A memory as a file has it: JSON for each column, None where there is none.

    ``external_id`` is what the same memory has in the next export of the same source.
    """

    raw_data: str | None
    user_id: str | None = None
    project_id: str | None = None
    created_at: str | None = None
    external_id: str | None = None


Drafts = Callable[[str, Notes], Iterator[Draft]]
"""Makes any number of drafts out of one value, and notes what it leaves out."""


def path_of(text: str) -> Path:
    """Return a path of keys: ``owner.id``, or as JSON pointer ``/owner/id``; ``.`` is the whole."""
    if text == WHOLE:
        return ()
    if text.startswith("/"):
        return tuple(key.replace("~1", "/").replace("~0", "~") for key in text[1:].split("/"))
    return tuple(text.split("."))


def at(text: str, path: Path) -> str | None:
    """Return what stands at a path of a value, as it is written; None where nothing does."""
    for key in path:
        if text.startswith("{"):
            found = members(text).get(key)
        elif text.startswith("[") and key.isdecimal():
            found = dict(enumerate(elements(text))).get(int(key))
        else:
            found = None
        if found is None:
            return None
        text = found
    return text


def object_of(values: Mapping[str, str]) -> str:
    """Return a JSON object of values that are JSON already."""
    return (
        "{"
        + ", ".join(f"{json.dumps(k, ensure_ascii=False)}: {value}" for k, value in values.items())
        + "}"
    )


def parse_map(entries: list[str]) -> dict[str, Path]:
    """Return where each column comes from: ``["user_id=owner.id,raw_data=content"]``.

    Raises:
        SettingsError: names what is wrong with an entry.

    """
    mapped: dict[str, Path] = {}
    for entry in (part for text in entries for part in text.split(",")):
        column, equals, path = (part.strip() for part in entry.partition("="))
        if not equals or not path or column.partition(".")[0] not in KEYS:
            raise SettingsError(
                f"--map {entry}: it has to be COLUMN=KEY, where COLUMN is one of "
                f"{', '.join(KEYS)}, or raw_data.NAME"
            )
        mapped[column] = path_of(path)
    return mapped


@dataclass(frozen=True, slots=True)
class ByKeys:
    """Takes the four keys as they are called; any other is refused, lest it is lost unseen."""

    ignored: frozenset[str] = frozenset()
    external_id: Path | None = None
    recognise: Callable[[Mapping[str, str]], str | None] = lambda _: None

    def __call__(self, text: str, notes: Notes) -> Iterator[Draft]:
        """Make one draft. Raises ValueError."""
        found = members(text)
        named = self.recognise(found)
        if named and not {"user_id", "raw_data"} <= found.keys():
            raise ValueError(named)
        allowed = {*KEYS, *self.ignored, *(self.external_id or ())[:1]}
        unknown = [key for key in found if key not in allowed]
        if "raw_data" not in found:
            like = f", e.g. --map raw_data={unknown[0]}" if unknown else ""
            raise ValueError(
                f"raw_data is missing; name what is to be it{like}, "
                "or take each whole value with --map raw_data=."
            )
        if unknown:
            raise ValueError(
                f"unknown key {unknown[0]!r}; --ignore {','.join(unknown)} leaves it out, "
                "--map names the keys that count"
            )
        for key in self.ignored & found.keys():
            notes[f"key {key!r} left out"] += 1
        yield Draft(
            **{key: found.get(key) for key in KEYS},
            external_id=None if self.external_id is None else at(text, self.external_id),
        )


@dataclass(frozen=True, slots=True)
class ByMap:
    """Takes the columns from the paths of ``--map``; a column that it does not name by its name."""

    paths: Mapping[str, Path]
    external_id: Path | None = None

    def __call__(self, text: str, notes: Notes) -> Iterator[Draft]:
        """Make one draft. Raises ValueError."""
        found = members(text)
        columns = {key: at(text, self.paths.get(key, (key,))) for key in KEYS}
        parts = {
            column.partition(".")[2]: at(text, path)
            for column, path in self.paths.items()
            if column.startswith("raw_data.")
        }
        if parts:
            columns["raw_data"] = object_of({k: v for k, v in parts.items() if v is not None})
        if columns["raw_data"] is None:
            path = ".".join(self.paths.get("raw_data", ("raw_data",)))
            raise ValueError(f"raw_data is missing: there is no {path!r}")
        used = {path[0] for path in self.paths.values() if path} | set(KEYS)
        if self.paths.get("raw_data") != ():
            for key in found.keys() - used - set((self.external_id or ())[:1]):
                notes[f"key {key!r} left out"] += 1
        yield Draft(
            **columns, external_id=None if self.external_id is None else at(text, self.external_id)
        )


@dataclass(frozen=True, slots=True)
class Finish:
    """Makes a memory of a draft; what a draft lacks is filled in.

    ``once``: each memory needs an external id. ``given_first``: the given ids count before those of
    the file, which another program has chosen.
    """

    user_id: str | None = None
    project_id: str | None = None
    tenant_by: TenantBy = "user_id"
    once: bool = False
    given_first: bool = False
    notes: Notes = field(default_factory=Counter)

    def __call__(self, draft: Draft, origin: Origin) -> NewMemory:
        """Return the memory. Raises ValueError, with the reason and what to do."""
        user_id = self._either(_text("user_id", draft.user_id), self.user_id)
        project_id = self._either(_text("project_id", draft.project_id), self.project_id)
        if user_id is None and self.tenant_by != "project_id":
            raise ValueError(
                "user_id is missing; name its key with --map user_id=KEY, "
                "or give all that lack it one with --user-id NAME"
            )
        if project_id is None and self.tenant_by == "project_id":
            raise ValueError("project_id is missing, and is the tenant here: --project-id NAME")
        external_id = _text("the external id", draft.external_id) if self.once else None
        if self.once and not external_id:
            raise ValueError("the external id is missing")
        if user_id == "":
            self.notes["user_id is the empty text"] += 1
        self._note_length(user_id, project_id)
        return NewMemory(
            user_id=user_id,
            project_id=project_id,
            created_at=self._time(draft.created_at),
            raw=_raw(draft.raw_data or "null"),
            external_id=external_id,
            origin=origin,
        )

    def _either(self, found: str | None, given: str | None) -> str | None:
        first, second = (given, found) if self.given_first else (found, given)
        return second if first is None else first

    def _note_length(self, user_id: str | None, project_id: str | None) -> None:
        tenant = {
            "user_id": user_id or "",
            "project_id": project_id or "",
            "both": json.dumps([user_id, project_id], ensure_ascii=False),
        }[self.tenant_by]
        if len(tenant.encode()) > MOST_TENANT_BYTES:
            self.notes[
                f"a tenant's name longer than {MOST_TENANT_BYTES} bytes: stored, never indexed"
            ] += 1

    def _time(self, text: str | None) -> str | None:
        value = None if text is None else decoded(text)
        if value is None:
            return None
        when, how = read_time(value)
        if how:
            self.notes[f"created_at read {how}"] += 1
        return when


def _text(column: str, text: str | None) -> str | None:
    """Return a column's text; a whole number counts as the text that it is written as."""
    value = None if text is None else decoded(text)
    if value is None:
        return None
    is_whole = isinstance(value, Number) and re.fullmatch(r"-?\d+", value)
    if not isinstance(value, str) or (isinstance(value, Number) and not is_whole):
        raise ValueError(f"{column} has to be a text or a whole number")
    _check(column, value)
    return str(value)


def _raw(text: str) -> str:
    """Return raw_data as it is written. Raises ValueError for a text that jsonb cannot hold."""
    if "\\u" in text:
        if _NUL.search(text):
            _check("raw_data", "\0")
        try:
            _check("raw_data", json.dumps(decoded(text), ensure_ascii=False))
        except RecursionError:
            return text  # Postgres finds it
    return text


def _check(column: str, value: str) -> None:
    if "\0" in value:
        raise ValueError(f"{column} has a NUL character, which Postgres cannot hold")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{column} has a lone surrogate, which is no Unicode") from None
