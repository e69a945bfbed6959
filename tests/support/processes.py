"""Processes of test modules, which say on their standard output how far they are."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from .fork_server import Process, fork_server_for


@contextmanager
def open_process(module: str, database: str, *arguments: str, says: str) -> Iterator[Process]:
    """A process of ``python -m module DATABASE ARGUMENTS``, from when it has said that line on.

    It is killed when the block ends.
    """
    with fork_server_for(database).start(module, database, *arguments, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{says}\n"
        yield process
