"""Each measurement in a fresh process and a fresh directory, so that none inherits another's memory or files."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent


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
        command = [sys.executable, str(_HERE / script), *map(str, arguments)]
        try:
            done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired:
            raise MeasurementError(f"{script} took longer than {timeout:g} s") from None
    if done.returncode != 0:
        raise MeasurementError(f"{script} ended with {done.returncode}: {done.stderr[-2000:].strip()}")
    return json.loads(done.stdout)


def answer(measure: Callable[[], Any]) -> None:
    """Give the result of a measurement to the process that asked, and nothing else that anybody prints."""
    with redirect_stdout(sys.stderr):
        result = measure()
    print(json.dumps(result))
