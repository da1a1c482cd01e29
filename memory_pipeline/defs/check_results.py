"""Evaluations of the checks: one a tenant, and one of all tenants at the end of a run.

For a range run Dagster records only one evaluation of everything, so those of tenants are yielded
as events of their own. The UI shows a tenant's evaluation only if it targets the newest
materialization of its partition: so each materialization of a tenant is followed by new ones.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import (  # not public
    AssetCheckEvaluationTargetMaterializationData as Target,
)

from memory_pipeline.defs.materializations import INDEX, newest_materialization, searchable_after
from memory_pipeline.domain.dead_letters import DeadLetter, DeadLetterFilter, DeadLetters
from memory_pipeline.domain.lags import Lags
from memory_pipeline.domain.outcomes import Finding, Verified
from memory_pipeline.domain.status import LastRebuild
from memory_pipeline.domain.types import TenantId
from memory_pipeline.pipeline import Pipeline

PARITY = "parity"
REACHABILITY = "reachability"
DEAD_LETTERS = "dead_letters"
LAST_REBUILD = "last_rebuild"
FRESHNESS = "freshness"

UNREACHABLE = "unreachable"
SHOWN_FINDINGS = 20
SHOWN_TENANTS = 50
UNPROVEN = "Postgres went back in time, and the whole collection was not compared with it yet"
NEVER_REBUILT = "no rebuild of the tenant has ended yet"

Figure = str | int | float | dg.JsonMetadataValue


class Evaluations:
    """Evaluates the checks of one tenant; all of them target its newest materialization."""

    def __init__(self, instance: dg.DagsterInstance, tenant: TenantId, key: str) -> None:
        self._tenant = tenant
        self._key = key
        newest = newest_materialization(instance, key)
        self._target = newest and Target(
            storage_id=newest.storage_id, run_id=newest.run_id, timestamp=newest.timestamp
        )

    def parity(self, verified: Verified, *, unproven: bool) -> dg.AssetCheckEvaluation:
        """Evaluate whether every memory has its document and every document its memory.

        ``unproven``: Postgres went back in time, and the tenant was not wholly compared since.
        """
        wrong = [f for f in verified.findings if f.kind != UNREACHABLE]
        figures = {
            "memories": verified.memories,
            "documents": verified.documents,
            "pending changes": verified.pending,
            "dates not read": verified.unread_dates,
            "seconds": round(verified.seconds, 3),
        }
        return self._of(
            PARITY,
            not wrong and not unproven,
            UNPROVEN if unproven else _kinds(wrong),
            {**figures, **_shown(wrong)},
        )

    def reachability(self, verified: Verified) -> dg.AssetCheckEvaluation:
        """Evaluate whether the checked documents are found by their own vectors."""
        unreachable = [f for f in verified.findings if f.kind == UNREACHABLE]
        figures = {
            "documents searched by their own vector": verified.sampled,
            "seconds": round(verified.reach_seconds, 3),
        }
        return self._of(
            REACHABILITY, not unreachable, _kinds(unreachable), {**figures, **_shown(unreachable)}
        )

    def dead_letters(self, letters: DeadLetters) -> dg.AssetCheckEvaluation:
        """Warn of dead letters that are not waived."""
        waived = f", {letters.waived} of them waived" if letters.waived else ""
        description = (
            f"{letters.count} memories are dead letters{waived}" if letters.count else "none"
        )
        newest = [_letter(letter) for letter in letters.newest]
        return self._of(
            DEAD_LETTERS,
            letters.count == letters.waived,
            description,
            {
                "dead letters": letters.count,
                "waived": letters.waived,
                **({"newest": dg.MetadataValue.json(newest)} if newest else {}),
            },
            dg.AssetCheckSeverity.WARN,
        )

    def last_rebuild(self, last: LastRebuild | None) -> dg.AssetCheckEvaluation:
        """Evaluate how the newest rebuild ended, whatever was synced since."""
        if last is None:
            return self._of(LAST_REBUILD, passed=True, description=NEVER_REBUILT, figures={})
        error = last.error or ""
        return self._of(
            LAST_REBUILD,
            last.state != "failed",
            f"it failed: {error}" if last.state == "failed" else "it succeeded",
            {"ended at": last.ended_at.isoformat()},
        )

    def freshness(
        self, lags: Lags | None, waits: float, *, most: float, unproven: bool
    ) -> dg.AssetCheckEvaluation:
        """Evaluate whether changes become searchable soon; ``waits`` and ``most`` in seconds."""
        late = f"the oldest change is {waits:.0f} s old" if waits > most else ""
        return self._of(
            FRESHNESS,
            not late and not unproven,
            UNPROVEN if unproven else late or "in time",
            {
                "age of the oldest change in seconds": round(waits, 3),
                **searchable_after(lags),
            },
            dg.AssetCheckSeverity.WARN,
        )

    def _of(
        self,
        check: str,
        passed: bool,  # noqa: FBT001 - every caller is above
        description: str,
        figures: Mapping[str, Figure],
        severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
    ) -> dg.AssetCheckEvaluation:
        return dg.AssetCheckEvaluation(
            asset_key=INDEX,
            check_name=check,
            passed=passed,
            partition=self._key,
            description=description,
            severity=severity,
            metadata={"tenant": self._tenant, **figures},
            target_materialization_data=self._target,
        )


def after_sync(
    instance: dg.DagsterInstance, pipeline: Pipeline, tenant: TenantId, key: str
) -> Iterator[dg.AssetCheckEvaluation]:
    """Evaluate the checks that a new materialization hides: rebuild, dead letters, freshness."""
    evaluations = Evaluations(instance, tenant, key)
    last = pipeline.rebuilds.last([tenant])
    yield evaluations.last_rebuild(last[0] if last else None)
    yield evaluations.dead_letters(letters_of(pipeline, tenant))
    yield freshness_of(pipeline, evaluations, tenant, pipeline.workers.freshness([tenant]))


def letters_of(pipeline: Pipeline, tenant: TenantId) -> DeadLetters:
    """Return the number of dead letters of a tenant, and the newest."""
    return pipeline.dead_letters.newest(DeadLetterFilter(tenants=[tenant]), limit=SHOWN_FINDINGS)


def freshness_of(
    pipeline: Pipeline,
    evaluations: Evaluations,
    tenant: TenantId,
    measured: Mapping[TenantId | None, Lags],
) -> dg.AssetCheckEvaluation:
    """Evaluate how fresh a tenant is, from measured lags and the oldest pending change."""
    waits = pipeline.workers.waits([tenant]).get(tenant, 0.0)
    most = pipeline.settings.run_takeover_seconds
    unproven = tenant in pipeline.epochs.unproven().tenants
    return evaluations.freshness(measured.get(tenant), waits, most=most, unproven=unproven)


def failed_rebuilds(pipeline: Pipeline) -> list[str]:
    """Return the partition keys of all tenants whose newest rebuild failed."""
    keys = pipeline.registry.keys()
    return [keys[r.tenant] for r in pipeline.rebuilds.last(list(keys)) if r.state == "failed"]


def of_all(check: str, failed: Sequence[str], *, tenants: int) -> dg.AssetCheckEvaluation:
    """Evaluate a check of all tenants, given those that fail."""
    warns = check in {DEAD_LETTERS, FRESHNESS}
    shown = f": {', '.join(failed[:SHOWN_TENANTS])}" if failed else ""
    more = f" and {len(failed) - SHOWN_TENANTS} more" if len(failed) > SHOWN_TENANTS else ""
    return dg.AssetCheckEvaluation(
        asset_key=INDEX,
        check_name=check,
        passed=not failed,
        severity=dg.AssetCheckSeverity.WARN if warns else dg.AssetCheckSeverity.ERROR,
        description=f"{len(failed)} of {tenants} tenants fail{shown}{more}",
        metadata={"tenants": tenants, "tenants that fail": len(failed)},
    )


def _kinds(findings: Sequence[Finding]) -> str:
    counted = Counter(f.kind for f in findings)
    return ", ".join(f"{number} {kind}" for kind, number in counted.items()) or "nothing found"


def _shown(findings: Sequence[Finding]) -> dict[str, Figure]:
    """Return the first findings as metadata: kind, memory, detail of tenant-wide ones. No text."""
    if not findings:
        return {}
    shown: dict[str, Figure] = {
        "findings": dg.MetadataValue.json(list(_lines(findings[:SHOWN_FINDINGS])))
    }
    more = len(findings) - SHOWN_FINDINGS
    return {**shown, "findings not shown": more} if more > 0 else shown


def _letter(letter: DeadLetter) -> dict[str, object]:
    """Return a dead letter as metadata: which memory and why. No text."""
    return {
        "memory": letter.memory_id,
        "class": letter.kind,
        "reason": letter.last_error,
        "buried at": letter.buried_at.isoformat(timespec="seconds"),
        **({"waived by": letter.waived_by} if letter.waived_at else {}),
    }


def _lines(findings: Iterable[Finding]) -> Iterator[dict[str, object]]:
    for finding in findings:
        whole = {"detail": finding.detail} if finding.memory_id is None else {}
        yield {"kind": finding.kind, "memory": finding.memory_id, **whole}
