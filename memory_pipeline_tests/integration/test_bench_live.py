"""The benchmarks of the resident process measure, on services of their own, and lose nothing."""

from pathlib import Path
from typing import Any

from memory_pipeline.benchmarks.freshness import bench_freshness
from memory_pipeline.benchmarks.sync import bench_sync


def test_freshness_is_measured_beside_its_floor(tmp_path: Path) -> None:
    """Every kind of change is seen on both sides, and none is lost."""
    figures: Any = bench_freshness(tmp_path, rate=10, tenants=2, seconds=6, model="none")
    assert (figures["lost"], figures["floor_lost"]) == (0, 0)
    for kind in ("inserts", "updates", "deletes"):
        assert 0 < figures[kind]["p50_ms"] <= figures[kind]["max_ms"]
        assert figures["floors"][kind]["changes"] == figures[kind]["changes"] > 0
    assert figures["changes"] == 60
    assert figures["ratio_to_floor"] > 0


def test_a_backlog_is_drained_beside_its_limit(tmp_path: Path) -> None:
    """Both bring every document; a pass leaves no difference, an idle one writes nothing."""
    figures: Any = bench_sync(tmp_path, changes=400, tenants=2, turns=1)
    assert figures["changes_per_second"] > 0 < figures["limit_changes_per_second"]
    assert figures["pass_changes"] == 50
    assert figures["pass_findings"] == 0
    assert figures["idle_pass_wrote"] is False
