"""``worker``: a process that only runs workflows."""

from __future__ import annotations

import logging
import sys
from enum import StrEnum
from typing import Annotated, Any

import trio
from attrs import frozen
from typer import Argument, Option

from ...app import App
from ...worker_process import run_worker
from ..call import Call
from ..failures import StopError
from ..modules import load_app


class Level(StrEnum):
    """Severity of log records."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


async def worker(
    call: Call,
    target: Annotated[str, Argument(metavar="MODULE:APP", help="An App in a module, or a function that makes one.")],
    log_level: Annotated[
        Level, Option(help=f"The lowest level that is logged: {', '.join(Level)}.", metavar="LEVEL")
    ] = Level.INFO,
) -> None:
    """Run a worker until SIGTERM or Ctrl-C. A second signal does not wait for running activities.

    The module may be in the current directory. The app names the database.
    """
    if call.given_database is not None:
        raise StopError("the app of a worker says which database it works on: leave --database away")
    app = load_app(target)
    # Has no effect if the module has configured logging.
    form = "%(asctime)s %(levelname)-7s %(name)s %(message)s"
    logging.basicConfig(level=log_level.name, stream=sys.stderr, format=form)
    await run_worker(app, task_status=_Announcement(call))
    if call.as_json:
        call.add_line({"worker_id": app.worker_id, "works": False})


@frozen
class _Announcement(trio.TaskStatus[App]):
    """Announces the worker as soon as it runs."""

    _call: Call

    def started(self, value: Any = None) -> None:
        if self._call.as_json:
            self._call.add_line({"worker_id": value.worker_id, "works": True})
