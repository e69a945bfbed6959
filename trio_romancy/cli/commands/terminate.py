"""``terminate``: the end of an instance that does not end by itself."""

from __future__ import annotations

from typing import Annotated

from typer import Option

from ..call import Call
from ..options import InstanceIds
from ..several import steer_each


async def terminate(
    call: Call,
    instance_ids: InstanceIds,
    reason: Annotated[str | None, Option(help="The reason; it is recorded.", metavar="TEXT")] = None,
    compensate: Annotated[bool, Option("--compensate", help="Compensate what it had completed.")] = False,
) -> int:
    """End an instance at once, whatever its code does. Running code is abandoned, and its outcome is not known."""
    async with call.open_app() as app:

        async def steer(id: str) -> bool:
            return await app.terminate(id, reason, compensate=compensate)

        return await steer_each(
            call,
            instance_ids,
            "terminated",
            steer,
            yes="it is terminated, or will be by its worker",
            no="nothing to terminate: it had ended",
        )
