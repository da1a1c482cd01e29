"""The checks of every tenant's index, and the verify that evaluates them.

The checks are partitioned, so the UI shows which tenant is red. The verify compares while writes go
on and repairs nothing (`memory-pipeline verify --repair` does).
"""

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import islice
from uuid import UUID

import dagster as dg
from dagster._core.storage.asset_check_execution_record import (  # not public
    AssetCheckExecutionRecordStatus,
)

from memory_pipeline.defs.check_reports import shown_at_end
from memory_pipeline.defs.check_results import (
    DEAD_LETTERS,
    FRESHNESS,
    LAST_REBUILD,
    PARITY,
    REACHABILITY,
    SHOWN_TENANTS,
    Evaluations,
    failed_rebuilds,
    freshness_of,
    letters_of,
    of_all,
)
from memory_pipeline.defs.materializations import INDEX, LOGS
from memory_pipeline.defs.partitions import tenants
from memory_pipeline.defs.resources import PipelineResource
from memory_pipeline.domain.dead_letters import DeadLetters
from memory_pipeline.domain.outcomes import Verified
from memory_pipeline.domain.types import TenantId
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.verify.tenant import Verify
from memory_pipeline.verify.tenants import SkippedTenant, verify_one

CAPTURE = "capture"
RED = AssetCheckExecutionRecordStatus.FAILED
# After so many failures a server is taken for down: the run does not wait for each of its tenants.
MOST_FAILURES_A_SERVER = 2

DESCRIPTIONS = {
    PARITY: "Every memory has its current document, and every document its memory; the "
    "collection exists, is sound, and was built with the current settings and model.",
    REACHABILITY: "The collection lists all its documents, and a search by a document's own vector "
    "finds it.",
    DEAD_LETTERS: "No memory is a dead letter, except waived ones.",
    LAST_REBUILD: "The newest ended rebuild did not fail.",
    FRESHNESS: "No pending change is old; and how soon changes became searchable recently.",
}


def _specs() -> list[dg.AssetCheckSpec]:
    with warnings.catch_warnings():
        # Partitioned checks are new in 1.13, which says so each time they are defined.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        of_tenants = [
            dg.AssetCheckSpec(name, asset=INDEX, description=text, partitions_def=tenants)
            for name, text in DESCRIPTIONS.items()
        ]
    capture = "Every trigger that captures changes is there and always fires."
    return [*of_tenants, dg.AssetCheckSpec(CAPTURE, asset=LOGS, description=capture)]


@dg.multi_asset_check(
    name="verify_tenants",
    specs=_specs(),
    can_subset=True,  # so that the UI offers to run one of them alone
    description="Compares the collections of the chosen tenants, or of all, with Postgres.",
)
def verify_tenants(
    context: dg.AssetCheckExecutionContext, pipeline_resource: PipelineResource
) -> Iterator[dg.AssetCheckEvaluation]:
    """Verify the run's tenants; yield the evaluations of each one's checks, then those of all."""
    run = context.op_execution_context
    chosen = {key.name for key in run.selected_asset_check_keys}
    of_some = run.has_partition_key or run.has_partition_key_range
    with pipeline_resource.opened() as pipeline:
        keys = pipeline.registry.keys()
        mine = set(run.partition_keys if of_some else keys.values())
        verifying = _Verifying(pipeline, pipeline.verify(), run.instance)
        wanted = {t: key for t, key in keys.items() if key in mine}
        evaluations = (e for e in verifying.run(wanted) if e.check_name in chosen)
        yield from shown_at_end(run, pipeline, wanted, evaluations)
        unknown = {keys[tenant] for tenant in verifying.skipped}
        for evaluation in _of_all(run.instance, pipeline, list(keys.values()), unknown):
            if evaluation.check_name in chosen:
                yield from _newest_of_check(run.instance, evaluation, of_some=of_some)
    verifying.raise_if_skipped(len(mine))


@dataclass
class _Verifying:
    """Verifies tenants, one after the other, and records those that cannot be verified."""

    pipeline: Pipeline
    verify: Verify
    instance: dg.DagsterInstance
    skipped: dict[TenantId, str] = field(default_factory=dict)
    failures: Counter[UUID] = field(default_factory=Counter)

    def run(self, wanted: dict[TenantId, str]) -> Iterator[dg.AssetCheckEvaluation]:
        """Yield the evaluations of each tenant's checks."""
        letters = self.pipeline.dead_letters.of_tenants()  # few have any
        last = {r.tenant: r for r in self.pipeline.rebuilds.last(list(wanted))}
        fresh = self.pipeline.workers.freshness()
        for tenant, key in wanted.items():
            verified = self._verified(tenant)
            evaluations = Evaluations(self.instance, tenant, key)
            if verified is not None:
                unproven = tenant in self.pipeline.epochs.unproven().tenants
                yield evaluations.parity(verified, unproven=unproven)
                yield evaluations.reachability(verified)
            yield evaluations.dead_letters(
                letters_of(self.pipeline, tenant) if tenant in letters else DeadLetters()
            )
            yield evaluations.last_rebuild(last.get(tenant))
            yield freshness_of(self.pipeline, evaluations, tenant, fresh)

    def _verified(self, tenant: TenantId) -> Verified | None:
        live = self.pipeline.registry.live(tenant)
        if live is not None and self.failures[live.server] >= MOST_FAILURES_A_SERVER:
            self.skipped[tenant] = "its Chroma server did not answer for other tenants before"
            return None
        verified = verify_one(self.verify, tenant)
        if isinstance(verified, SkippedTenant):
            self.failures.update({live.server} if live else {})
            self.skipped[tenant] = verified.reason
            return None
        self.pipeline.status.record_verification(verified)
        return verified

    def raise_if_skipped(self, asked: int) -> None:
        """Fail the run where tenants could not be verified, so that their checks show red."""
        if self.skipped:
            reason = next(iter(self.skipped.values()))
            raise dg.Failure(
                f"{len(self.skipped)} of {asked} tenants could not be verified: {reason}",
                metadata=dict(islice(self.skipped.items(), SHOWN_TENANTS)),
            )


def _of_all(
    instance: dg.DagsterInstance, pipeline: Pipeline, keys: Sequence[str], unknown: AbstractSet[str]
) -> Iterator[dg.AssetCheckEvaluation]:
    """Evaluate each check of all tenants, those of other runs too, and the capture of changes.

    Tenants that could not be verified count as failed.
    """
    for check in (PARITY, REACHABILITY, DEAD_LETTERS, FRESHNESS):
        red = _red(instance, check) | (unknown if check in {PARITY, REACHABILITY} else set())
        yield of_all(check, [key for key in keys if key in red], tenants=len(keys))
    yield of_all(LAST_REBUILD, failed_rebuilds(pipeline), tenants=len(keys))
    broken = [*pipeline.status.broken_capture(), *pipeline.status.publications()]
    yield dg.AssetCheckEvaluation(
        asset_key=LOGS,
        check_name=CAPTURE,
        passed=not broken,
        description="; ".join(broken) or "every trigger exists and always fires",
    )


def _red(instance: dg.DagsterInstance, check: str) -> set[str]:
    """Return the partitions whose newest evaluation of a check has failed."""
    newest = instance.event_log_storage.get_asset_check_partition_info(
        [dg.AssetCheckKey(INDEX, check)]
    )
    return {i.partition_key for i in newest if i.partition_key and i.latest_execution_status is RED}


def _newest_of_check(
    instance: dg.DagsterInstance, evaluation: dg.AssetCheckEvaluation, *, of_some: bool
) -> Iterator[dg.AssetCheckEvaluation]:
    """Yield or report an evaluation of all tenants so that it is the newest of its check.

    The catalog shows the newest. A run without partitions has stored a planned evaluation of all
    tenants before those of each tenant, and would fill that one in: so it is reported outside the
    run.
    """
    if of_some or evaluation.check_name == CAPTURE:
        yield evaluation
    else:
        instance.report_runless_asset_event(evaluation)
