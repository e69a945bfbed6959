"""Progress of a long command. Written to standard error, and only if that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn


@contextmanager
def open_count(what: str) -> Iterator[Callable[[int], object]]:
    """Show a counter without a known end. Yields a function that adds to it."""
    with _progress(SpinnerColumn(), TextColumn("{task.completed:,.0f} {task.description}")) as progress:
        task = progress.add_task(what, total=None)
        yield lambda number: progress.advance(task, number)


@contextmanager
def open_bar(total: float) -> Iterator[Callable[[float, str], object]]:
    """Show a bar. Yields a function that takes the progress, up to ``total``, and a description."""
    with _progress(BarColumn(bar_width=None), TextColumn("{task.description}")) as progress:
        task = progress.add_task("", total=total)
        yield lambda done, what: progress.update(task, completed=done, description=what)


def _progress(*columns: SpinnerColumn | TextColumn | BarColumn) -> Progress:
    console = Console(file=sys.stderr)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
