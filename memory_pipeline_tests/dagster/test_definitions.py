"""The definitions load, say what a person wants to know, and stay light."""

import subprocess
import sys

import dagster as dg

from memory_pipeline.definitions import defs


def test_the_definitions_are_valid() -> None:
    """Everything resolves: assets, jobs, sensors, schedules, resources."""
    dg.Definitions.validate_loadable(defs)


def test_the_lineage_is_table_then_embeddings_then_index() -> None:
    """Each asset depends on the one before it and is partitioned by tenant."""
    graph = defs.resolve_asset_graph()
    parents = {
        key.to_user_string(): {p.to_user_string() for p in graph.get(key).parent_keys}
        for key in graph.get_all_asset_keys()
    }
    assert parents == {
        "memory_logs": set(),
        "memory_embeddings": {"memory_logs"},
        "memory_index": {"memory_embeddings"},
    }
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert isinstance(node.partitions_def, dg.DynamicPartitionsDefinition)
        assert node.partitions_def.name == "tenants"
        assert node.description
        assert node.owners
        assert node.kinds


def test_what_starts_by_itself_is_running_from_the_start() -> None:
    """A new user need not switch anything on."""
    sensor = defs.resolve_sensor_def("memory_changes")
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    schedule = defs.resolve_schedule_def("sync_sweep")
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING


def _imported_by(module: str) -> set[str]:
    listing = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    )
    return {name.partition(".")[0] for name in listing.stdout.split()}


def test_the_core_never_imports_dagster() -> None:
    """It runs, tests and benchmarks without it."""
    imported = _imported_by("memory_pipeline.store, memory_pipeline.cli")
    assert "dagster" not in imported


def test_loading_the_definitions_loads_no_model_and_no_chroma() -> None:
    """Each run and each tick would pay seconds for them."""
    imported = _imported_by("memory_pipeline.definitions")
    assert not {"torch", "sentence_transformers", "chromadb", "alembic"} & imported
