"""``resume``: a stuck instance, or failed compensations."""

from __future__ import annotations

from ..call import Call
from ..options import InstanceIds
from ..several import steer_each


async def resume(call: Call, instance_ids: InstanceIds) -> int:
    """Let a stuck instance go on, or run failed compensations again."""
    async with call.open_app() as app:

        async def steer(id: str) -> bool:
            return await app.resume(id)

        return await steer_each(
            call,
            instance_ids,
            "resumed",
            steer,
            yes="it goes on",
            no="nothing to resume: it is not stuck, and has no failed compensations",
        )
