"""``find``: instances by the values in their input."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from ..arguments import read_conditions
from ..call import Call
from ..failures import NOTHING
from ..options import WithStatus, WithWorkflow
from ..terminal.wording import count


async def find(
    call: Call,
    conditions: Annotated[
        list[str],
        Argument(help="A value in the input, as customer.id=42. All must match.", metavar="PATH=VALUE..."),
    ],
    workflow: WithWorkflow = None,
    status: WithStatus = None,
    limit: Annotated[int, Option(help="The most instances to find.", min=1, metavar="NUMBER")] = 100,
) -> int:
    """Find instances by the values in their input.

    A value is JSON: 42 is a number, '"42"' a string. Anything that is not JSON is a string.
    """
    where = read_conditions(conditions)
    async with call.open_app() as app:
        found = await app.find_instances(where, workflow=workflow, status=status or None, limit=limit)

    def show() -> None:
        from ..terminal.instances import show_instances

        if not found:
            call.screen.line("no instance has that in its input")
            return
        show_instances(call.screen, found)
        if len(found) == limit:
            call.screen.line(f"these are {count(limit, 'instance')}; there may be more: --limit")

    call.answer({"instances": found}, show)
    return 0 if found else NOTHING
