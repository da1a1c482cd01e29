"""Benchmarks: each figure with the physical limit that was measured in the same run."""
