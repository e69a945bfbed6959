"""What user code writes down itself while it runs: each attempt, and each process that it takes down.

A line is one call of write(2), so it outlives the death of its process. Only the death of the machine could lose it,
and no chaos does that: so nothing is synchronized with the disk, which would hold up the event loop of the worker.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from attrs import define, field

from trio_romancy import current_activity

REMARKABLE_GAP = 0.5
"""Seconds for which a process must have stood still for that to be written down."""

_PULSE = 0.05

_file: int | None = None
_worker_id = ""
_numbers = count(1)


# -- written by a worker -----------------------------------------------------------------------------------------------


def write_notes(directory: Path, worker_id: str) -> None:
    """Write notes of this process into a file of its own, and watch for gaps in its life, until it ends."""
    global _file, _worker_id
    _worker_id = worker_id
    _file = os.open(_path(directory, worker_id), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    threading.Thread(target=_watch_for_gaps, name="chaos: pulse", daemon=True).start()


def note(what: str, **fields: Any) -> None:
    """Write one line. Does nothing in a process that writes no notes."""
    if _file is not None:
        os.write(_file, json.dumps({"what": what, "at": time.monotonic(), **fields}).encode() + b"\n")


@contextmanager
def attempt_noted() -> Iterator[None]:
    """Note that an attempt of the current activity begins, and how it ends."""
    context, number = current_activity(), next(_numbers)
    note(
        "begun",
        run=number,
        instance=context.instance_id,
        operation=context.activity_id,
        attempt=context.attempt,
    )
    try:
        yield
    except Exception:
        note("raised", run=number)
        raise
    except BaseException:
        note("interrupted", run=number)
        raise
    note("returned", run=number)


def _watch_for_gaps() -> None:
    last = time.monotonic()
    while True:
        time.sleep(_PULSE)
        now = time.monotonic()
        if now - last > REMARKABLE_GAP:
            note("gap", since=last)
        last = now


# -- read when all is over ---------------------------------------------------------------------------------------------


@define
class Run:
    """One attempt of one activity. Times are those of the machine's monotonic clock, which all processes share."""

    instance_id: str
    operation_id: str
    attempt: int
    worker_id: str
    begun_at: float
    end: str = "nothing more was heard of it"
    """``"raised"``, ``"interrupted"``, ``"returned"``, or that its process has not told."""


@define
class Explosion:
    """A compensation is about to kill its process."""

    instance_id: str
    worker_id: str
    at: float


@define
class Notes:
    runs: list[Run] = field(factory=list)
    """In the order in which they began."""
    explosions: list[Explosion] = field(factory=list)
    gaps: list[tuple[str, float, float]] = field(factory=list)
    """When processes stood still: worker ids, beginnings and ends."""


def read_notes(directory: Path, worker_ids: list[str]) -> Notes:
    """Read what workers have noted."""
    notes = Notes()
    for worker_id in worker_ids:
        runs: dict[int, Run] = {}
        for line in lines(directory, worker_id):
            match line["what"]:
                case "begun":
                    runs[line["run"]] = Run(line["instance"], line["operation"], line["attempt"], worker_id, line["at"])
                case "explosion":
                    notes.explosions.append(Explosion(line["instance"], worker_id, line["at"]))
                case "gap":
                    notes.gaps.append((worker_id, line["since"], line["at"]))
                case end:
                    runs[line["run"]].end = end
        notes.runs += runs.values()
    notes.runs.sort(key=lambda run: run.begun_at)
    return notes


def lines(directory: Path, worker_id: str) -> Iterator[dict[str, Any]]:
    """The lines of one worker, so far."""
    path = _path(directory, worker_id)
    if path.exists():
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)


def _path(directory: Path, worker_id: str) -> Path:
    return directory / f"{worker_id}.notes"
