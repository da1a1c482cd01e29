"""Versions, one file each."""
