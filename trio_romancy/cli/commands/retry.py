"""``retry``: a failed instance, from the operation that failed."""

from __future__ import annotations

from ..call import Call
from ..options import InstanceIds
from ..several import steer_each


async def retry(call: Call, instance_ids: InstanceIds) -> int:
    """Run a failed instance again from what failed, and keep what succeeded. Only if nothing was compensated."""
    async with call.open_app() as app:

        async def steer(id: str) -> bool:
            return await app.retry(id)

        return await steer_each(
            call,
            instance_ids,
            "retried",
            steer,
            yes="it goes on from where it failed",
            no="nothing to retry: it has not failed",
        )
