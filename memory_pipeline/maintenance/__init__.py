"""Keeps an installation tidy and watched: cleanup, restores, alerts."""
