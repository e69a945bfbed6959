"""``outbox``: the events on their way to the broker."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from typer import Argument, Option

from ...model import OutboxEvent, OutboxStatus
from ..call import Call
from ..failures import NOTHING, StopError
from ..terminal.wording import Styled, ago, count

_STYLES = {OutboxStatus.SENT: "green", OutboxStatus.PENDING: ""}


async def list_events(
    call: Call,
    status: Annotated[OutboxStatus | None, Option(help=f"One of {', '.join(OutboxStatus)}.", metavar="STATUS")] = None,
    instance_id: Annotated[str | None, Option("--id", help="Only events of this instance.", metavar="ID")] = None,
    limit: Annotated[int, Option(help="The most events to list.", min=1, metavar="NUMBER")] = 100,
    after: Annotated[str | None, Option(help="The last event of the previous page.", metavar="EVENT")] = None,
) -> None:
    """List events that activities have sent, the oldest first."""
    async with call.open_app() as app:
        found = await app.outbox.list(status=status, instance_id=instance_id, limit=limit, after=after)
    call.answer({"events": found}, lambda: _show(call, found, limit))


def _show(call: Call, events: list[OutboxEvent], limit: int) -> None:
    now = datetime.now(UTC)
    rows: list[tuple[Styled, ...]] = [
        (
            event.event_id,
            event.type,
            (event.status.value, _STYLES.get(event.status, "red")),
            str(event.attempts),
            ago(event.created_at, now),
            event.error or "",
        )
        for event in events
    ]
    if not rows:
        call.screen.line("no events")
        return
    call.screen.table(("event", "type", "status", "attempts", "sent", "error"), rows)
    if len(rows) == limit:
        call.screen.line("more: --after ", events[-1].event_id, hang=2)


async def retry_events(
    call: Call,
    event_id: Annotated[str | None, Argument(metavar="[EVENT]", help="The id of an event.")] = None,
    all_of_them: Annotated[bool, Option("--all", help="All that are not tried any more.")] = False,
    status: Annotated[
        OutboxStatus | None, Option(help="With --all: only failed, invalid or expired ones.", metavar="STATUS")
    ] = None,
) -> int:
    """Send events again, as if they were new."""
    if (event_id is None) != all_of_them or (status is not None and not all_of_them):
        raise StopError("name an event, or give --all, with or without --status")
    async with call.open_app() as app:
        if event_id is not None:
            number = int(await app.outbox.retry(event_id))
        else:
            number = await app.outbox.retry_all(status)
    said = f"{count(number, 'event')} to be sent again" if number else "nothing to send again"
    call.answer({"retried": number}, lambda: call.screen.line(said))
    return 0 if number else NOTHING
