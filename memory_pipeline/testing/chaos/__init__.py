"""Chaos: real processes under random faults, and a checker of their promises.

``run`` joins the parts: ``stack`` (private services, every link through a proxy), ``workload`` (an
application that writes), ``nemesis`` (injects faults and heals them), ``sampler`` (searches and
compares during the faults), ``checker`` (judges the recorded history; pure) and ``report``.
"""
