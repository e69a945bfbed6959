"""``list`` and ``find``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from typer import Argument, Option

from ..model import Page, Status
from .arguments import read_conditions, read_time
from .call import Call
from .failures import NOTHING
from .wording import count

WithWorkflow = Annotated[str | None, Option(help="A part of the workflow's name.", metavar="TEXT")]
WithStatus = Annotated[
    list[Status] | None,
    Option("--status", help=f"Where it stands; may be repeated: {', '.join(Status)}.", metavar="STATUS"),
]


async def list_instances(
    call: Call,
    workflow: WithWorkflow = None,
    status: WithStatus = None,
    instance_id: Annotated[str | None, Option("--id", help="A part of the instance id.", metavar="TEXT")] = None,
    parent: Annotated[str | None, Option(help="The instance whose children to list.", metavar="ID")] = None,
    since: Annotated[
        str | None, Option(help="Started then or later: 2026-01-31T12:00 (UTC), or 2h (ago).", metavar="TIME")
    ] = None,
    until: Annotated[str | None, Option(help="Started before that.", metavar="TIME")] = None,
    limit: Annotated[int, Option(help="The most to list.", min=1, metavar="NUMBER")] = 50,
    page_token: Annotated[str | None, Option(help="What the page before has ended with.", metavar="TOKEN")] = None,
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
    call.answer(page, lambda: _show_page(call, page))


def _show_page(call: Call, page: Page) -> None:
    from .instances import show_instances

    if not page.instances:
        call.screen.line("no instances")
        return
    show_instances(call.screen, page.instances)
    if page.next_page_token is not None:
        call.screen.whole("more: --page-token ", page.next_page_token)


async def find(
    call: Call,
    conditions: Annotated[
        list[str], Argument(help="What the input holds, as customer.id=42. All must hold.", metavar="PATH=VALUE...")
    ],
    workflow: WithWorkflow = None,
    status: WithStatus = None,
    limit: Annotated[int, Option(help="The most to find.", min=1, metavar="NUMBER")] = 100,
) -> int:
    """Find instances by what is in their input.

    A value is JSON: 42 is a number, '"42"' a string. What is no JSON is a string without its quotes.
    """
    where = read_conditions(conditions)
    async with call.open_app() as app:
        found = await app.find_instances(where, workflow=workflow, status=status or None, limit=limit)

    def show() -> None:
        from .instances import show_instances

        if not found:
            call.screen.line("no instance has that in its input")
            return
        show_instances(call.screen, found)
        if len(found) == limit:
            call.screen.line(f"these are {count(limit, 'instance')}; there may be more: --limit")

    call.answer({"instances": found}, show)
    return 0 if found else NOTHING
