"""The resident process: who is next, what runs in the background, its metrics."""
