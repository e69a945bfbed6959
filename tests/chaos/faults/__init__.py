"""What can happen to workers, to their databases and to rows: a module for each family of faults."""

from __future__ import annotations

from . import clocks, loops, network, poison, processes, rows, servers, statements, user_code
from .fault import Fault, Scene, ServerFault, SmallFault, WorkerFault

__all__ = ["FAMILIES", "Fault", "Scene", "ServerFault", "SmallFault", "WorkerFault"]

FAMILIES = [poison, processes, network, servers, statements, clocks, loops, rows, user_code]
"""Each has a function ``faults(target)`` that returns those that fit the target."""
