"""Nothing is parked without a cause of its own, and what has one is parked, and says which."""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Iterator

from trio_romancy import Status

from .disturbances import Disturbances
from .evidence import Evidence
from .load import Expected
from .notes import Notes
from .worker import MAX_RECOVERIES


def find_parked(expected: Expected, evidence: Evidence, notes: Notes, disturbances: Disturbances) -> Iterator[str]:
    """A sentence for each instance that is parked wrongly, or for the wrong reason, or too late."""
    # A worker that is told to end releases what it has just claimed, and by that the deaths before are forgotten.
    explosions = Counter((one.instance_id, bisect(disturbances.stops, one.at)) for one in notes.explosions)
    killed: Counter[str] = Counter()
    for (instance_id, _), times in explosions.items():
        killed[instance_id] = max(killed[instance_id], times)
    for row in evidence.instances:
        plan = expected.plans.get(row.instance_id)
        cause = None if plan is None else plan.stuck_because
        message = "no error" if row.error is None else row.error["message"]
        if row.status is Status.STUCK:
            if cause is None:
                yield f"{row.instance_id}: it is parked without a cause of its own: {message}"
            elif cause not in message:
                yield f"{row.instance_id}: it is parked, and its error does not say {cause!r}: {message}"
        if killed[row.instance_id] > MAX_RECOVERIES + 1:
            yield f"{row.instance_id}: it has killed {killed[row.instance_id]} workers"
