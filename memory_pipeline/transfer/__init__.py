"""Brings memories in from the files that people have, and gives them out again.

A file goes source → json_values (or tables) → mapping (or presets) → importing → Postgres. What
stands in ``raw_data`` is cut out of the file as it is written: no number passes through a float.
"""
