"""The worker: its loop, the order of tenants, the background tasks, the figures."""
