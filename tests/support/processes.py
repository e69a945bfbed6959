"""Processes of test modules, which say on their standard output how far they are."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def open_process(module: str, *arguments: str, says: str) -> Iterator[None]:
    """A process of ``python -m module``, from when it has said that line on. It is killed when the block ends."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"{says}\n"
            yield
        finally:
            process.kill()
