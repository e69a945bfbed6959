"""``cancel``: the cancellation of an instance."""

from __future__ import annotations

from typing import Annotated

from typer import Option

from ..call import Call
from ..failures import NOTHING
from ..options import InstanceId


async def cancel(
    call: Call,
    instance_id: InstanceId,
    reason: Annotated[str | None, Option(help="The reason; it is recorded.", metavar="TEXT")] = None,
) -> int:
    """Ask for the cancellation of an instance. Its completed activities are compensated."""
    async with call.open_app() as app:
        accepted = await app.cancel(instance_id, reason)
    said = "it will end as cancelled, or has" if accepted else "nothing to cancel: its workflow function had ended"
    call.answer({"instance_id": instance_id, "cancelled": accepted}, lambda: call.screen.line(said))
    return 0 if accepted else NOTHING
