"""Chaos and benchmarks, which break and measure the product; only `chaos` and `bench` load them.

The modules at the top are shared by both: a TCP proxy with faults, Chroma's own client, the facts
of this machine. Neither ``chaos`` nor ``benchmarks`` imports the other.
"""
