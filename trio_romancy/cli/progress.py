"""How far something long has come. On standard error, and only if somebody looks on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn


@contextmanager
def open_count(what: str) -> Iterator[Callable[[int], object]]:
    """Something that nobody knows the end of. Gives what is called with how many more are done, each time."""
    with _progress(SpinnerColumn(), TextColumn("{task.completed:,.0f} {task.description}")) as progress:
        task = progress.add_task(what, total=None)
        yield lambda number: progress.advance(task, number)


@contextmanager
def open_bar(total: float) -> Iterator[Callable[[float, str], object]]:
    """Something with an end. Gives what is called with how far it is, and what goes on there."""
    with _progress(BarColumn(bar_width=None), TextColumn("{task.description}")) as progress:
        task = progress.add_task("", total=total)
        yield lambda done, what: progress.update(task, completed=done, description=what)


def _progress(*columns: SpinnerColumn | TextColumn | BarColumn) -> Progress:
    console = Console(file=sys.stderr)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
