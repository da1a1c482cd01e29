"""Postgres: the source of truth, the outbox, the leases and the registry."""
