"""The vocabulary and the pure decisions over it. No I/O."""
