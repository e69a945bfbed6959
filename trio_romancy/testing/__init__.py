"""Tools to test workflows with: virtual time, and crash exploration. This project tests itself with them.

Under :func:`run` time is virtual: a month of sleeping takes milliseconds. With ``App(":memory:")``, which keeps its
database in the trio thread, the same test also does the same on every machine.
"""

from .crashes import Crash, How
from .exploration import Exploration, Run, explore_crashes, run, run_with_crashes
from .guarantees import broken_guarantees

__all__ = ["Crash", "Exploration", "How", "Run", "broken_guarantees", "explore_crashes", "run", "run_with_crashes"]
