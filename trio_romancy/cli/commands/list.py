"""``list``: instances by name, status and time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from typer import Option

from ...model import InstancePage
from ..arguments import read_time
from ..call import Call
from ..options import PageToken, WithStatus, WithWorkflow


async def list_instances(
    call: Call,
    workflow: WithWorkflow = None,
    status: WithStatus = None,
    instance_id: Annotated[str | None, Option("--id", help="A part of the instance id.", metavar="TEXT")] = None,
    parent: Annotated[str | None, Option(help="The instance whose children to list.", metavar="ID")] = None,
    since: Annotated[
        str | None, Option(help="Started then or later: 2026-01-31T12:00 (UTC), or 2h (ago).", metavar="TIME")
    ] = None,
    until: Annotated[str | None, Option(help="Started before that time.", metavar="TIME")] = None,
    limit: Annotated[int, Option(help="The most instances to list.", min=1, metavar="NUMBER")] = 50,
    page_token: PageToken = None,
) -> None:
    """List instances, the newest first."""
    now = datetime.now(UTC)
    filters: dict[str, Any] = {
        "workflow": workflow,
        "status": status or None,
        "instance_id": instance_id,
        "created_from": None if since is None else read_time(since, now),
        "created_before": None if until is None else read_time(until, now),
        "limit": limit,
        "page_token": page_token,
    }
    if parent is not None:
        filters["parent"] = parent
    async with call.open_app() as app:
        page = await app.list_instances(**filters)
    call.answer(page, lambda: show_page(call, page, "no instances"))


def show_page(call: Call, page: InstancePage, if_empty: str) -> None:
    """Write a page of instances for people."""
    from ..terminal.instances import show_instances

    if not page:
        call.screen.line(if_empty)
        return
    show_instances(call.screen, page.instances)
    if page.next_page_token is not None:
        call.screen.whole("more: --page-token ", page.next_page_token)
