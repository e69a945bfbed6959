"""``cancel``, ``resume``, ``retry`` and ``purge``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from typer import Option

from ..model import Status
from .arguments import read_duration
from .call import Call
from .failures import NOTHING, StopError
from .showing import InstanceId
from .wording import count


async def cancel(
    call: Call,
    instance_id: InstanceId,
    reason: Annotated[str | None, Option(help="Why; it is recorded.", metavar="TEXT")] = None,
) -> int:
    """Ask for the cancellation of an instance. What it has done is undone."""
    async with call.open_app() as app:
        accepted = await app.cancel(instance_id, reason)
    said = "it will end as cancelled, or has" if accepted else "nothing to cancel: its workflow function had ended"
    call.answer({"instance_id": instance_id, "cancelled": accepted}, lambda: call.screen.line(said))
    return 0 if accepted else NOTHING


async def resume(call: Call, instance_id: InstanceId) -> int:
    """Set a stuck instance going again, or try failed compensations again."""
    async with call.open_app() as app:
        resumed = await app.resume(instance_id)
    said = "it goes on" if resumed else "nothing to resume: it is not stuck, and has no failed compensations"
    call.answer({"instance_id": instance_id, "resumed": resumed}, lambda: call.screen.line(said))
    return 0 if resumed else NOTHING


async def retry(call: Call, instance_id: InstanceId) -> int:
    """Start a failed instance again from what failed, keeping what succeeded. Only if nothing was undone."""
    async with call.open_app() as app:
        retried = await app.retry(instance_id)
    said = "it goes on from where it failed" if retried else "nothing to retry: it has not failed"
    call.answer({"instance_id": instance_id, "retried": retried}, lambda: call.screen.line(said))
    return 0 if retried else NOTHING


async def purge(
    call: Call,
    older_than: Annotated[str, Option(help="How long ago they must have ended: 12h, 30d, 8w.", metavar="DURATION")],
    status: Annotated[
        list[Status] | None, Option("--status", help="Only these; may be repeated.", metavar="STATUS")
    ] = None,
    yes: Annotated[bool, Option("--yes", help="Do not ask.")] = False,
) -> int:
    """Delete instances that have ended, with their journals."""
    from .progress import open_count

    age = read_duration(older_than)
    async with call.open_app() as app:
        if not yes:
            _ask(f"Delete what ended more than {older_than} ago in {call.shown_database}?")
        with open_count("instances deleted") as advance:
            purged = await app.purge(older_than=age, status=status or None, on_batch=advance)
    said = f"{count(purged, 'instance')} deleted" if purged else "nothing to delete"
    call.answer({"purged": purged}, lambda: call.screen.line(said))
    return 0 if purged else NOTHING


def _ask(question: str) -> None:
    """Go on only if somebody says yes.

    Raises:
      StopError: if nobody is there, or says no.
    """
    if not sys.stdin.isatty():
        raise StopError("nothing is deleted without being asked for: say --yes")
    if not typer.confirm(question, err=True):
        raise StopError("nothing was deleted", NOTHING)
