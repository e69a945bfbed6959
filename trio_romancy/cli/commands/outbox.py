"""``outbox``: the events on their way to the broker."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from typer import Argument, Option

from ...model import OutboxPage, OutboxStatus
from ..call import Call
from ..failures import NOTHING, StopError
from ..options import PageToken
from ..terminal.wording import Styled, ago, count

_STYLES = {OutboxStatus.SENT: "green", OutboxStatus.PENDING: ""}


async def list_events(
    call: Call,
    status: Annotated[OutboxStatus | None, Option(help=f"One of {', '.join(OutboxStatus)}.", metavar="STATUS")] = None,
    instance_id: Annotated[str | None, Option("--id", help="Only events of this instance.", metavar="ID")] = None,
    limit: Annotated[int, Option(help="The most events to list.", min=1, metavar="NUMBER")] = 100,
    page_token: PageToken = None,
) -> None:
    """List events that activities have sent, the oldest first."""
    async with call.open_app() as app:
        page = await app.outbox.list(status=status, instance_id=instance_id, limit=limit, page_token=page_token)
    call.answer(page, lambda: _show(call, page))


def _show(call: Call, page: OutboxPage) -> None:
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
        for event in page
    ]
    if not rows:
        call.screen.line("no events")
        return
    call.screen.table(("event", "type", "status", "attempts", "sent", "error"), rows)
    if page.next_page_token is not None:
        call.screen.whole("more: --page-token ", page.next_page_token)


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
