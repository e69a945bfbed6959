"""``cancel``: the cancellation of an instance."""

from __future__ import annotations

from typing import Annotated

from typer import Option

from ..call import Call
from ..options import InstanceIds
from ..several import steer_each


async def cancel(
    call: Call,
    instance_ids: InstanceIds,
    reason: Annotated[str | None, Option(help="The reason; it is recorded.", metavar="TEXT")] = None,
) -> int:
    """Ask for the cancellation of an instance. Its completed activities are compensated."""
    async with call.open_app() as app:

        async def steer(id: str) -> bool:
            return await app.cancel(id, reason)

        return await steer_each(
            call,
            instance_ids,
            "cancelled",
            steer,
            yes="it will end as cancelled, or has",
            no="nothing to cancel: its workflow function had ended",
        )
