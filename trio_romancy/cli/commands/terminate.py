"""``terminate``: the end of an instance that does not end by itself."""

from __future__ import annotations

from typing import Annotated

from typer import Option

from ..call import Call
from ..failures import NOTHING
from ..options import InstanceId


async def terminate(
    call: Call,
    instance_id: InstanceId,
    reason: Annotated[str | None, Option(help="The reason; it is recorded.", metavar="TEXT")] = None,
    compensate: Annotated[bool, Option("--compensate", help="Compensate what it had completed.")] = False,
) -> int:
    """End an instance at once, whatever its code does. Running code is abandoned, and its outcome is not known."""
    async with call.open_app() as app:
        accepted = await app.terminate(instance_id, reason, compensate=compensate)
    said = "it is terminated, or will be by its worker" if accepted else "nothing to terminate: it had ended"
    call.answer({"instance_id": instance_id, "terminated": accepted}, lambda: call.screen.line(said))
    return 0 if accepted else NOTHING
