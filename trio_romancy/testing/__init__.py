"""Tools for tests of workflows: virtual time, and crash exploration. The tests of trio_romancy use them, too.

Under :func:`run` time is virtual: a month of sleep takes milliseconds. ``App(":memory:")`` keeps its database in the
trio thread, so that such a test does the same on every machine.
"""

from .._definitions.registry import Registry, registry
from .crashes import Crash, How
from .exploration import Exploration, Run, explore_crashes, run, run_with_crashes
from .guarantees import broken_guarantees

__all__ = [
    "Crash",
    "Exploration",
    "How",
    "Registry",
    "Run",
    "broken_guarantees",
    "explore_crashes",
    "registry",
    "run",
    "run_with_crashes",
]
