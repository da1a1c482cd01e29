"""Dagster: the control plane. Thin adapters over the core, which never imports Dagster."""
