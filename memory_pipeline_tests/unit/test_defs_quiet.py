"""How often Dagster touches Postgres where a setting lets it sleep."""

import pytest

from memory_pipeline.defs.quiet import at_least, sweep_cron


@pytest.mark.parametrize(
    ("quiet_seconds", "cron"),
    [
        (0, "*/10 * * * *"),
        (600, "*/10 * * * *"),
        (601, "*/12 * * * *"),
        (1800, "*/30 * * * *"),
        (1801, "0 */1 * * *"),
        (3600, "0 */1 * * *"),
        (5 * 3600, "0 */6 * * *"),
        (12 * 3600, "0 */12 * * *"),
    ],
)
def test_the_sweep_is_as_rare_as_the_setting_says(quiet_seconds: float, cron: str) -> None:
    """Steps that are even: cron begins anew with each hour and each day."""
    assert sweep_cron(quiet_seconds) == cron


def test_a_sensor_is_as_rare_as_the_setting_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing changes without it, and a sensor that is rarer already stays so."""
    assert at_least(5) == 5
    monkeypatch.setenv("MEMORY_PIPELINE_QUIET_SECONDS", "899.5")
    assert at_least(5) == 900
    assert at_least(3600) == 3600
