"""Chaos: real processes under random faults, and a checker of what they have promised.

``run`` puts it together: ``stack`` (private services, every link through ``proxy``), ``workload``
(an application that writes), ``nemesis`` (breaks things and heals them), ``sampler`` (looks while
they are broken), ``checker`` (judges what was recorded; pure) and ``report``.
"""
