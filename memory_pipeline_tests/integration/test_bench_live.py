"""The benchmarks of the worker measure, on private services, and lose no change."""

from pathlib import Path
from typing import Any

import pytest

from memory_pipeline.testing.benchmarks.freshness import bench_freshness
from memory_pipeline.testing.benchmarks.neighbours import BATCH, TROUBLES, bench_neighbours
from memory_pipeline.testing.benchmarks.sync import bench_sync


def test_freshness_is_measured_with_its_floor(tmp_path: Path) -> None:
    """Every kind of change is visible on both sides, and none is lost."""
    figures: Any = bench_freshness(tmp_path, rate=10, tenants=2, seconds=6, model="none")
    assert (figures["lost"], figures["floor_lost"]) == (0, 0)
    for kind in ("inserts", "updates", "deletes"):
        assert 0 < figures[kind]["p50_ms"] <= figures[kind]["max_ms"]
        assert figures["floors"][kind]["changes"] == figures[kind]["changes"] > 0
    assert figures["changes"] == 60
    assert figures["ratio_to_floor"] > 0


def test_a_backlog_is_drained_and_measured_with_its_limit(tmp_path: Path) -> None:
    """Both write every document; a pass leaves no difference, an idle one writes nothing."""
    figures: Any = bench_sync(tmp_path, changes=400, tenants=2, turns=1)
    assert figures["changes_per_second"] > 0 < figures["limit_changes_per_second"]
    assert figures["pass_changes"] == 50
    assert figures["pass_findings"] == 0
    assert figures["idle_pass_wrote"] is False


@pytest.mark.faults
@pytest.mark.timeout(400)
def test_neighbours_of_a_tenant_in_trouble_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each trouble is real, its tenant gets settled, and no other tenant loses a change."""
    monkeypatch.setenv("MEMORY_PIPELINE_RETRY_SECONDS", "0.2")
    figures: Any = bench_neighbours(tmp_path, rate=10, tenants=2, seconds=2, blocks=1)
    assert figures["lost"] == 0
    assert [figures[name]["changes"] for name in TROUBLES] == [20] * len(TROUBLES)
    poison = {name: trouble.poison for name, trouble in TROUBLES.items()}
    troubled = figures["troubled"]
    assert {n: t["written"] for n, t in troubled.items()} == dict.fromkeys(TROUBLES, BATCH)
    assert {n: t["documents"] for n, t in troubled.items()} == {
        n: BATCH - bad for n, bad in poison.items()
    }
    assert {n: t["dead_letters"] for n, t in troubled.items()} == poison
