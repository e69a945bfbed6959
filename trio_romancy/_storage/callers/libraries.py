"""Types of libraries that are not imported here: an object of one is there only if its caller has imported it."""

from __future__ import annotations

import sys


def is_instance(given: object, module: str, *names: str) -> bool:
    """Return whether an object is of one of these classes of a module that may not have been imported."""
    imported = sys.modules.get(module)
    kinds = tuple(kind for name in names if isinstance(kind := getattr(imported, name, None), type))
    return isinstance(given, kinds)
