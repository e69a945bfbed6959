"""The modules of the user: imports, and the app that ``MODULE:APP`` names."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

from ..app import App
from .failures import StopError


def import_module(name: str) -> ModuleType:
    """Import a module, which may be in the current directory.

    Raises:
      StopError: if it does not exist, or cannot be imported.
    """
    if name.endswith(".py") or os.sep in name:
        suggested = name.removesuffix(".py").replace(os.sep, ".").strip(".")
        raise StopError(f"{name!r} is a file name; name the module as Python does: {suggested}")
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise StopError(f"there is no module {error.name!r} in {here}, nor is it installed") from None
        raise StopError(f"module {name!r} cannot be imported: {error}") from error
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        raise StopError(f"module {name!r} cannot be imported: {told}; --traceback shows where") from error


def load_app(target: str) -> App:
    """Return the app that ``MODULE:APP`` names: an :class:`App`, or a function without arguments that returns one.

    Raises:
      StopError: if it names anything else, or an app without a worker.
    """
    name, colon, path = target.partition(":")
    if not (name and colon and path):
        raise StopError(f"an app is named as MODULE:APP, such as orders:app, not as {target!r}")
    found: object = import_module(name)
    for attribute in path.split("."):
        if not hasattr(found, attribute):
            raise StopError(f"module {name!r} has no {path!r}")
        found = getattr(found, attribute)
    if callable(found) and not isinstance(found, App):
        try:
            found = found()
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
            raise StopError(f"{target} cannot be called: {told}; --traceback shows where") from error
    if not isinstance(found, App):
        raise StopError(
            f"{target} is not a trio_romancy.App, nor a function that returns one, but {type(found).__name__}"
        )
    if not found.runs_workflows:
        raise StopError(f"the app {target} is a client: it was made with worker=False")
    return found
