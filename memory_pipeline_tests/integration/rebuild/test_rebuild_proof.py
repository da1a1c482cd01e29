"""What a rebuild does with a generation that does not pass its proof."""

from typing import Any

import psycopg
import pytest

from memory_pipeline.domain.outcomes import Finding, Verified
from memory_pipeline.domain.types import Generation, TenantId
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.pipeline import opened
from memory_pipeline.settings import Settings
from memory_pipeline.verify.tenant import Verify
from memory_pipeline_tests.words import ADA, drained_due, remember


def test_a_generation_that_does_not_pass_its_proof_is_given_up_for_another(
    settings: Settings,
    unmarked_chroma: None,
    db: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Filling the same damaged collection again and again never ends in a flip.

    What broke: the next attempt, and every later rebuild, went on with the generation that had
    just been found damaged, because it still was the building one and could be counted.
    """
    quick = settings.model_copy(update={"lease_seconds": 2.0, "request_seconds": 1.0})
    looked_at: list[Generation] = []
    verify = Verify.run

    def damaged_once(
        self: Verify, tenant: TenantId, *, generation: Generation | None = None, **more: Any
    ) -> Verified:
        if generation is not None:
            looked_at.append(generation)
            if generation.id == looked_at[0].id:
                finding = Finding("damaged", tenant, detail="it answers nothing but errors")
                return Verified(tenant, generation.id, findings=(finding,))
        return verify(self, tenant, generation=generation, **more)

    with opened(quick, embedder=HashingEmbedder()) as pipeline:
        memory = remember(db, summary="a walk")
        drained_due(pipeline)
        monkeypatch.setattr(Verify, "run", damaged_once)
        rebuilt = pipeline.rebuild_alone(ADA)
        assert (rebuilt.verdict, rebuilt.reason) == ("done", "")
        assert len({generation.id for generation in looked_at}) == 2
        assert pipeline.registry.building(ADA) is None
        assert [h.memory_id for h in pipeline.search.search(ADA, "a walk")] == [memory]


def test_a_reset_that_waits_excuses_nothing_that_it_would_not_mend(
    settings: Settings,
    unmarked_chroma: None,
    db: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a generation that is being built it takes what went, and compares nothing else.

    What broke: a document went missing between the load and the proof, a TRUNCATE and what followed
    it had the tenant wait for a reset, the proof let it pass, and searches went to the gap.
    """
    verify = Verify.run
    lost: list[str] = []

    def after_a_loss(
        self: Verify, tenant: TenantId, *, generation: Generation | None = None, **more: Any
    ) -> Verified:
        if generation is not None and not lost:
            with pipeline.servers.client(generation.server).collection(generation, 5.0) as building:
                lost.append(building.get(limit=1)["ids"][0])
                building.delete(ids=lost)
            db.execute(
                "INSERT INTO memory_pipeline.change (tenant, memory_id) VALUES (%s, NULL)", (ADA,)
            )
        return verify(self, tenant, generation=generation, **more)

    with opened(settings, embedder=HashingEmbedder()) as pipeline:
        memory = remember(db, summary="a walk")
        drained_due(pipeline)
        monkeypatch.setattr(Verify, "run", after_a_loss)
        rebuilt = pipeline.rebuild_alone(ADA)
        assert (rebuilt.verdict, rebuilt.repaired) == ("done", 1)
        assert lost
        assert [h.memory_id for h in pipeline.search.search(ADA, "a walk")] == [memory]
