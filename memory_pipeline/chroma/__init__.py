"""Chroma: the derived index. Reached over HTTP only, and trusted with nothing."""
