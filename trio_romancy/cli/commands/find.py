"""``find``: instances by the values in their input."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from ..arguments import read_conditions
from ..call import Call
from ..failures import NOTHING
from ..options import PageToken, WithStatus, WithWorkflow
from .list import show_page


async def find(
    call: Call,
    conditions: Annotated[
        list[str],
        Argument(help="A value in the input, as customer.id=42. All must match.", metavar="PATH=VALUE..."),
    ],
    workflow: WithWorkflow = None,
    status: WithStatus = None,
    limit: Annotated[int, Option(help="The most instances to find.", min=1, metavar="NUMBER")] = 100,
    page_token: PageToken = None,
) -> int:
    """Find instances by the values in their input.

    A value is JSON: 42 is a number, '"42"' a string. Anything that is not JSON is a string.
    """
    where = read_conditions(conditions)
    async with call.open_app() as app:
        page = await app.find_instances(
            where, workflow=workflow, status=status or None, limit=limit, page_token=page_token
        )
    call.answer(page, lambda: show_page(call, page, "no instance has that in its input"))
    return 0 if page else NOTHING
