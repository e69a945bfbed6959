"""``retry``: a failed instance, from the operation that failed."""

from __future__ import annotations

from ..call import Call
from ..failures import NOTHING
from ..options import InstanceId


async def retry(call: Call, instance_id: InstanceId) -> int:
    """Run a failed instance again from what failed, and keep what succeeded. Only if nothing was compensated."""
    async with call.open_app() as app:
        retried = await app.retry(instance_id)
    said = "it goes on from where it failed" if retried else "nothing to retry: it has not failed"
    call.answer({"instance_id": instance_id, "retried": retried}, lambda: call.screen.line(said))
    return 0 if retried else NOTHING
