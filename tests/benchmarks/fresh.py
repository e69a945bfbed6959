"""Measurements in fresh processes and empty directories, so that none inherits another's memory or files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent.parent
"""The checkout that contains this package."""

_GRACE = 60.0
"""Seconds that an interrupted process has to drop its databases."""


class MeasurementError(Exception):
    """A measurement failed. The message ends with the last output of its process."""


def ask(module: str, *arguments: object, timeout: float = 900.0, library: Path | None = None) -> Any:
    """Run a module of this package in an empty directory, and return the value that it gave to :func:`answer`.

    The directory is made in the current one, which should be on the disk that is measured.

    Args:
      module: its name, such as ``"latency"``.
      timeout: seconds.
      library: a directory with the ``trio_romancy`` to measure; by default the one of this checkout.

    Raises:
      MeasurementError: if the process failed, or took longer than ``timeout``.
    """
    with tempfile.TemporaryDirectory(prefix="bench-", dir=Path.cwd()) as directory:
        process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.{module}", *map(str, arguments)],
            cwd=directory,
            env=os.environ | {"PYTHONPATH": python_path(library)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C must reach this process only, which then ends the other
        )
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise MeasurementError(f"{module} took longer than {timeout:g} s") from None
        finally:
            _end(process)
    if process.returncode != 0:
        raise MeasurementError(f"{module} ended with {process.returncode}: {errors[-2000:].strip()}")
    return json.loads(output)


def python_path(library: Path | None) -> str:
    """Return the ``PYTHONPATH`` of a measurement: ``library`` comes before this checkout."""
    return os.pathsep.join(str(path) for path in (library, _ROOT) if path is not None)


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def answer(measure: Callable[[], Any]) -> None:
    """Write the result of a measurement to the process that asked. Everything else printed goes to standard error."""
    with redirect_stdout(sys.stderr):
        result = measure()
    print(json.dumps(result))
