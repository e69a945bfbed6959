"""Each measurement in a fresh process and a fresh directory, so that none inherits another's memory or files."""

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

_HERE = Path(__file__).resolve().parent
_ROOT = _HERE.parent.parent

_FAREWELL = 60.0
"""Seconds that a process has to drop its databases when it is told to end."""


class MeasurementError(Exception):
    """A measurement failed. Its message is what the process said last."""


def ask(script: str, *arguments: object, timeout: float = 900.0) -> Any:
    """Run a script beside this one, in an empty directory, and return what it gave to :func:`answer`.

    The directory is made in the current one, which should be on the disk that is to be measured.

    Args:
      timeout: seconds.

    Raises:
      MeasurementError: if the script failed, or took too long.
    """
    with tempfile.TemporaryDirectory(prefix="bench-", dir=Path.cwd()) as directory:
        process = subprocess.Popen(
            [sys.executable, str(_HERE / script), *map(str, arguments)],
            cwd=directory,
            env=os.environ | {"PYTHONPATH": str(_ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # one that we end ends as we do, not as Ctrl-C has it
        )
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise MeasurementError(f"{script} took longer than {timeout:g} s") from None
        finally:
            _end(process)
    if process.returncode != 0:
        raise MeasurementError(f"{script} ended with {process.returncode}: {errors[-2000:].strip()}")
    return json.loads(output)


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=_FAREWELL)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def answer(measure: Callable[[], Any]) -> None:
    """Give the result of a measurement to the process that asked, and nothing else that anybody prints."""
    with redirect_stdout(sys.stderr):
        result = measure()
    print(json.dumps(result))
