"""Compares the index with Postgres, and repairs it: one tenant, many, or the installation."""
