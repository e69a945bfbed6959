"""``purge``: the deletion of instances that have ended."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from typer import Option

from ...model import Status
from ..arguments import read_duration
from ..call import Call
from ..failures import NOTHING, StopError
from ..terminal.wording import count


async def purge(
    call: Call,
    older_than: Annotated[str, Option(help="Ended longer ago than this: 12h, 30d, 8w.", metavar="DURATION")],
    status: Annotated[
        list[Status] | None, Option("--status", help="Only this status; may be repeated.", metavar="STATUS")
    ] = None,
    yes: Annotated[bool, Option("--yes", help="Do not ask.")] = False,
) -> int:
    """Delete instances that have ended, with their journals."""
    from ..terminal.progress import open_count

    age = read_duration(older_than)
    async with call.open_app() as app:
        if not yes:
            _confirm(f"Delete what ended more than {older_than} ago in {call.shown_database}?")
        with open_count("instances deleted") as advance:
            purged = await app.purge(older_than=age, status=status or None, on_batch=advance)
    said = f"{count(purged, 'instance')} deleted" if purged else "nothing to delete"
    call.answer({"purged": purged}, lambda: call.screen.line(said))
    return 0 if purged else NOTHING


def _confirm(question: str) -> None:
    """Return if the user answers yes.

    Raises:
      StopError: if the answer is no, or if standard input is not a terminal.
    """
    if not sys.stdin.isatty():
        raise StopError("nothing is deleted without a confirmation: give --yes")
    if not typer.confirm(question, err=True):
        raise StopError("nothing was deleted", NOTHING)
