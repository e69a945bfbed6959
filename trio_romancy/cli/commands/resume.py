"""``resume``: a stuck instance, or failed compensations."""

from __future__ import annotations

from ..call import Call
from ..failures import NOTHING
from ..options import InstanceId


async def resume(call: Call, instance_id: InstanceId) -> int:
    """Let a stuck instance go on, or run failed compensations again."""
    async with call.open_app() as app:
        resumed = await app.resume(instance_id)
    said = "it goes on" if resumed else "nothing to resume: it is not stuck, and has no failed compensations"
    call.answer({"instance_id": instance_id, "resumed": resumed}, lambda: call.screen.line(said))
    return 0 if resumed else NOTHING
