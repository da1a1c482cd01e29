"""Chroma, the derived index: over HTTP only, and trusted with nothing."""
