"""Steps that show each planted bug, written down: chance comes upon some of them too seldom."""

from typing import Any

from memory_pipeline_tests.stateful.application import TEXTS, Statement, Verb
from memory_pipeline_tests.stateful.faults import POISON, Kind, Plan
from memory_pipeline_tests.stateful.machine import Step
from memory_pipeline_tests.stateful.world import Act

ADA, BOB = 0, 1
[POISONED] = [i for i, text in enumerate(TEXTS) if POISON in text]


def _begin(*, trust: bool = False) -> Step:
    return Step("begin", {"trust": trust, "chance": 0})


def _do(verb: Verb, id_: int, tenant: int = ADA, text: int = 0) -> Step:
    return Step("change", {"statement": Statement(verb, id_, tenant, text)})


def _work(number: int = 0) -> Step:
    return Step("work", {"number": number, "tenant": ADA})


def _fail(kind: Kind, call: str) -> Step:
    how: dict[str, Any] = {"some": [], "number": 0, "tenant": ADA}
    return Step("work_and_fail", how | {"plan": Plan(kind, 0, call)})


def _freeze(call: str, *acts: Act) -> Step:
    how: dict[str, Any] = {"some": [], "number": 0, "tenant": ADA, "acts": list(acts)}
    return Step("work_as_a_zombie", how | {"plan": Plan("meanwhile", 0, call)})


def _rebuild_and_fail(kind: Kind, call: str) -> Step:
    how: dict[str, Any] = {"tenant": ADA, "chunk": 1, "resume": False}
    return Step("rebuild_and_fail", how | {"plan": Plan(kind, 0, call)})


SCRIPTED: dict[str, list[Step]] = {
    "ack_before_write": [
        _begin(),
        _do("write", 1),
        _fail("crash before", "send"),
    ],
    "ack_by_key": [
        _begin(),
        _do("write", 1),
        _freeze("ack", Statement("write", 1, ADA, text=1)),
    ],
    "ack_up_to_a_watermark": [
        _begin(),
        _do("write", 1, text=POISONED),
        _work(),
        _do("write", 2),
        _work(),
    ],
    "ack_without_a_token": [
        _begin(),
        _do("write", 1),
        _freeze("ack", "expire"),
    ],
    "forget_the_old_tenant_of_a_move": [
        _begin(),
        _do("write", 1),
        _work(),
        _do("move", 1, BOB),
    ],
    "ignore_truncate": [
        _begin(),
        _do("write", 1),
        _work(),
        Step("truncate", {"restart": False, "then": []}),
    ],
    "no_read_after_the_claim": [
        _begin(),
        _do("write", 1),
        _work(),
        _freeze("claim", Statement("metadata", 1, ADA, text=1)),
    ],
    "no_confirm_after_a_takeover": [
        _begin(),
        _do("write", 1),
        _fail("late and crash", "send"),
        _do("write", 1, text=1),
        Step("expire", {}),
        _work(1),
        Step("land", {}),
    ],
    "a_timeout_is_a_success": [
        _begin(),
        _do("write", 1),
        _work(),  # the first of a tenant compares all of it in the end
        _do("write", 1, text=1),
        _fail("lost before", "send"),
    ],
    "an_outage_is_charged": [
        _begin(),
        _do("write", 1),
        _fail("lost before", "send"),
    ],
    "a_rebuild_without_double_writes": [
        _begin(),
        _do("write", 1),
        _do("write", 2),
        _work(),
        _rebuild_and_fail("crash after", "record_chunk"),
        _do("write", 1, text=1),
        Step("expire", {}),
        _work(1),
    ],
    "a_chunk_is_done_though_its_reply_is_lost": [
        _begin(),
        _do("write", 1),
        _do("write", 2),
        _work(),
        _rebuild_and_fail("lost before", "send"),
    ],
    "the_backup_goes_by_id_alone": [
        _begin(trust=True),
        _do("write", 1),
        _freeze("back_up", Statement("vector", 1, ADA, text=1)),
    ],
    "search_believes_chroma": [
        _begin(),
        _do("write", 1),
        _work(),
        _do("move", 1, BOB),
        Step("search", {"tenant": ADA, "text": 0}),
    ],
}
