"""What the exports of other programs look like, and which memories are in them.

Each preset gives every memory an external id, so that the next export of the same program adds what
is new and updates what has changed.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from memory_pipeline.transfer.json_values import decoded, elements, members
from memory_pipeline.transfer.mapping import Draft, Drafts, Notes, at, object_of

Members = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Preset:
    """One program's export."""

    about: str
    drafts: Drafts
    recognises: Callable[[Members], bool]
    needs_user: bool = True


def recognise(found: Members) -> str | None:
    """Return a sentence that names the preset of a value; None where none is known."""
    for name, preset in PRESETS.items():
        if preset.recognises(found):
            user = " --user-id NAME" if preset.needs_user else ""
            return f"this looks like {preset.about}: import it with --preset {name}{user}"
    return None


# ---- ChatGPT: conversations.json, an array of conversations, each a tree of messages


def chatgpt(text: str, notes: Notes) -> Iterator[Draft]:
    """Make a draft of each message that has a text. Raises ValueError."""
    talk = members(text)
    for node in members(_needed(talk, "mapping")).values():
        message = members(node).get("message", "null")
        if message == "null":
            continue
        said = members(message)
        if not _has_text(said):
            notes["messages without a text left out"] += 1
            continue
        about = {"title": talk["title"]} if "title" in talk else {}
        yield Draft(
            raw_data=object_of({**about, **said}),
            created_at=_given(said, "create_time") or _given(talk, "create_time"),
            external_id=said.get("id"),
        )


def _has_text(message: Members) -> bool:
    parts = at(message.get("content", "null"), ("parts",))
    if parts is None:  # the content of code and of some tools
        return bool(
            _given({"text": at(message.get("content", "null"), ("text",)) or "null"}, "text")
        )
    return any(part not in {'""', "null"} for part in elements(parts))


# ---- mem0: what get_all() returns, or its memories line by line


MEM0_LEFT_OUT = frozenset({"id", "user_id", "created_at", "updated_at", "hash", "score"})


def mem0(text: str, notes: Notes) -> Iterator[Draft]:
    """Make a draft of each memory. Raises ValueError."""
    found = members(text)
    if "results" not in found:
        yield _of_mem0(found)
        return
    if elements(found.get("relations", "[]")):
        notes["relations of the graph left out"] += 1
    for memory in elements(found["results"]):
        yield _of_mem0(members(memory))


def _of_mem0(memory: Members) -> Draft:
    _needed(memory, "memory")
    kept = {k: v for k, v in memory.items() if k not in MEM0_LEFT_OUT and v != "null"}
    return Draft(
        raw_data=object_of(kept),
        user_id=memory.get("user_id"),
        created_at=memory.get("created_at"),
        external_id=memory.get("id"),
    )


# ---- Letta: an agent file (.af) with its messages and blocks, or passages of its archive


LETTA_ROLES = frozenset({"user", "assistant"})


def letta(text: str, notes: Notes) -> Iterator[Draft]:
    """Make a draft of each message, block or passage. Raises ValueError."""
    found = members(text)
    if "agents" not in found:
        yield _passage(found)
        return
    agents = [members(agent) for agent in elements(found["agents"])]
    for agent in agents:
        yield from _messages(agent, notes)
    for block in map(members, elements(found.get("blocks", "[]"))):
        owner = next((a for a in agents if block.get("id", " ") in _block_ids(a)), None)
        owner = owner or (agents[0] if len(agents) == 1 else None)
        yield Draft(
            raw_data=object_of({k: v for k, v in block.items() if k in {"label", "value"}}),
            user_id=None if owner is None else _name_of(owner),
            created_at=block.get("created_at"),
            external_id=block.get("id")
            or _id("block", "" if owner is None else _name_of(owner), block.get("label")),
        )
    if elements(found.get("files", "[]")):
        notes["files of the agents left out"] += 1


def _passage(passage: Members) -> Draft:
    _needed(passage, "text")
    left_out = {"id", "embedding", "embedding_config", "created_at", "updated_at"}
    return Draft(
        raw_data=object_of({k: v for k, v in passage.items() if k not in left_out and v != "null"}),
        user_id=_given(passage, "agent_id"),
        created_at=passage.get("created_at"),
        external_id=passage.get("id"),
    )


def _messages(agent: Members, notes: Notes) -> Iterator[Draft]:
    for number, text in enumerate(elements(agent.get("messages", "[]"))):
        message = members(text)
        if decoded(message.get("role", "null")) not in LETTA_ROLES:
            notes["messages of the system and of tools left out"] += 1
            continue
        yield Draft(
            raw_data=text,
            user_id=_name_of(agent),
            created_at=message.get("created_at"),
            external_id=message.get("id") or _id("message", _name_of(agent), str(number)),
        )


def _name_of(agent: Members) -> str:
    return agent.get("id") or _needed(agent, "name")


def _block_ids(agent: Members) -> list[str]:
    return elements(agent.get("block_ids", "[]"))


# ---- MCP: memory.jsonl of the memory server, a graph of entities and relations


def mcp(text: str, _notes: Notes) -> Iterator[Draft]:
    """Make a draft of an entity or a relation. Raises ValueError."""
    found = members(text)
    kind = decoded(_needed(found, "type"))
    keys = {"entity": ("name",), "relation": ("from", "relationType", "to")}.get(str(kind))
    if keys is None:
        raise ValueError(f"type {str(kind)[:40]!r} is neither entity nor relation")
    identity = _id(str(kind), *(_needed(found, key) for key in keys))
    yield Draft(raw_data=text, external_id=identity)


# ---- LongMemEval: questions, each with the sessions that a user has had


def longmemeval(text: str, _notes: Notes) -> Iterator[Draft]:
    """Make a draft of each turn of a question's sessions. Raises ValueError."""
    found = members(text)
    sessions = elements(_needed(found, "haystack_sessions"))
    dates = elements(found.get("haystack_dates", "[]"))
    names = elements(found.get("haystack_session_ids", "[]"))
    for number, session in enumerate(sessions):
        name = names[number] if number < len(names) else str(number)
        for place, turn in enumerate(elements(session)):
            yield Draft(
                raw_data=turn,
                user_id=found.get("question_id"),
                created_at=dates[number] if number < len(dates) else None,
                external_id=_id("turn", name, str(number), str(place)),
            )


# ---- what the presets share


def _needed(found: Members, key: str) -> str:
    value = _given(found, key)
    if value is None:
        raise ValueError(f"{key} is missing; the file is of another kind than its preset")
    return value


def _given(found: Members, key: str) -> str | None:
    """Return a value as it is written; None where it is null or missing."""
    value = found.get(key, "null")
    return None if value in {"null", '""'} else value


def _id(kind: str, *parts: str | None) -> str:
    """Return an external id as JSON, made of values that are JSON."""
    return json.dumps(f"{kind} {json.dumps([*parts])}")


def _any_of(*keys: str) -> Callable[[Members], bool]:
    return lambda found: found.keys() >= set(keys)


def _either(choices: Iterable[Callable[[Members], bool]]) -> Callable[[Members], bool]:
    tested = tuple(choices)
    return lambda found: any(test(found) for test in tested)


PresetName = Literal["chatgpt", "mem0", "letta", "mcp", "longmemeval"]

PRESETS: dict[PresetName, Preset] = {
    "chatgpt": Preset(
        "an export of ChatGPT (conversations.json)", chatgpt, _any_of("mapping", "current_node")
    ),
    "mem0": Preset(
        "memories of mem0",
        mem0,
        _either([_any_of("memory", "hash"), _any_of("results")]),
        needs_user=False,
    ),
    "letta": Preset(
        "an agent file of Letta, or passages",
        letta,
        _either([_any_of("agents", "blocks"), _any_of("text", "embedding")]),
    ),
    "mcp": Preset(
        "the memory of an MCP server (memory.jsonl)",
        mcp,
        _either([_any_of("type", "entityType"), _any_of("type", "relationType")]),
    ),
    "longmemeval": Preset(
        "LongMemEval", longmemeval, _any_of("haystack_sessions"), needs_user=False
    ),
}
