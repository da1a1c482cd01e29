"""What a batch does with each row that it has read, decided without I/O."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from memory_pipeline.content.document import compose, recipe_from, vector_hash
from memory_pipeline.domain.types import (
    DIMENSION,
    Memory,
    MemoryId,
    Provenance,
    ProvenanceUpdate,
    TenantId,
    Vector,
)
from memory_pipeline.settings import Settings
from memory_pipeline.sync.plan import EmbeddedDraft, Plan, plan_batch

ADA, BOB = TenantId("ada"), TenantId("bob")
RECIPE = recipe_from(Settings())
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


def a_vector(seed: int = 1) -> Vector:
    """Return some vector."""
    return np.full(DIMENSION, seed, np.float32)


def a_memory(number: int, text: str = "a memory", **changes: object) -> Memory:
    """Return a row of ada's without a vector."""
    memory = Memory(MemoryId(number), ADA, "ada", None, f'"{text}"', None, MOMENT, MOMENT, "7")
    return replace(memory, **changes)  # type: ignore[arg-type]


def known(memory: Memory, *, model: str = "m") -> Memory:
    """Return the memory with a vector that this model has computed for its text."""
    vector = a_vector()
    made = Provenance(compose(memory, RECIPE).text_hash, model, vector_hash(vector))
    return replace(memory, embedding=vector, provenance=made)


def plan(
    *memories: Memory, ids: tuple[int, ...] = (), trust: bool = False, re_embed: bool = False
) -> Plan:
    """Plan a batch of these rows for ada; ``ids``: the claim, where rows are missing."""
    rows = {m.id: m for m in memories}
    claimed = [MemoryId(i) for i in ids] or list(rows)
    return plan_batch(ADA, claimed, rows, recipe=RECIPE, model="m", trust=trust, re_embed=re_embed)


def test_a_row_that_is_gone_is_deleted() -> None:
    """The change does not say so: the row's absence does."""
    assert plan(ids=(1, 2)).deletes == (1, 2)


def test_a_row_of_another_tenant_is_deleted_from_this_one() -> None:
    """P3: a memory that has moved leaves its old tenant's collection."""
    planned = plan(a_memory(1, tenant=BOB), a_memory(2, tenant=None))
    assert (planned.deletes, planned.covered, planned.to_embed) == ((1, 2), (), ())


def test_a_vector_of_the_text_and_the_model_is_reused() -> None:
    """The model is slow: whatever has changed but the text, its vector stays."""
    planned = plan(known(a_memory(1)))
    assert [d.memory.id for d in planned.covered] == [1]
    assert planned.to_embed == ()


def test_a_vector_of_another_text_or_model_is_computed_again() -> None:
    """Both are part of where a vector comes from."""
    changed = replace(known(a_memory(1)), raw='"another text"')
    planned = plan(changed, known(a_memory(2), model="other"), a_memory(3))
    assert planned.covered == ()
    assert {d.memory.id for d in planned.to_embed} == {1, 2, 3}


def test_an_applications_vector_is_reused_where_it_is_trusted() -> None:
    """It has no provenance: only the settings know its model."""
    theirs = a_memory(1, embedding=a_vector())
    assert [d.memory.id for d in plan(theirs, trust=True).covered] == [1]
    assert [d.memory.id for d in plan(theirs, trust=False).to_embed] == [1]


def test_with_re_embed_no_vector_is_reused() -> None:
    """A rebuild that computes everything again trusts no stored vector."""
    planned = plan(known(a_memory(1)), re_embed=True)
    assert [d.memory.id for d in planned.to_embed] == [1]


def test_an_unreadable_row_is_refused_and_the_others_are_not() -> None:
    """P5: one memory never holds up its batch."""
    planned = plan(a_memory(1, raw="{broken"), a_memory(2))
    assert [(f.memory_id, f.kind) for f in planned.refused] == [(1, "content")]
    assert [d.memory.id for d in planned.to_embed] == [2]


def test_texts_to_embed_come_shortest_first() -> None:
    """Texts of one length embed together fastest."""
    planned = plan(a_memory(1, "long " * 9), a_memory(2, "a"), a_memory(3, "in between"))
    assert [d.memory.id for d in planned.to_embed] == [2, 3, 1]


def test_a_document_of_an_old_vector_is_looked_up_after_the_write() -> None:
    """A memory with provenance was written before, perhaps with another vector."""
    [new], [old] = plan(a_memory(1)).to_embed, plan(known(a_memory(2))).covered
    assert not new.embedded(a_vector(), "m").document.rewritten
    assert old.document.rewritten


def test_provenance_is_recorded_once_and_only_of_the_rows_own_vector() -> None:
    """What is recorded of another vector than the row's would be a lie by the next sync."""
    [draft] = plan(a_memory(1)).to_embed
    computed = draft.embedded(a_vector(), "m")
    assert computed.provenance_update == ProvenanceUpdate(computed.provenance)
    [covered] = plan(known(a_memory(2))).covered
    assert covered.provenance_update is None
    theirs = a_memory(3, embedding=a_vector(3))
    beside = EmbeddedDraft(theirs, compose(theirs, RECIPE), a_vector(), computed.provenance)
    assert beside.provenance_update is None
