"""Nothing is parked without a cause of its own, and what has one is parked, and says which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from trio_romancy import Status

from .evidence import Evidence
from .load import Expected
from .notes import Notes
from .worker import MAX_RECOVERIES


def find_parked(expected: Expected, evidence: Evidence, notes: Notes) -> Iterator[str]:
    """A sentence for each instance that is parked wrongly, or for the wrong reason, or too late."""
    explosions = Counter(explosion.instance_id for explosion in notes.explosions)
    for row in evidence.instances:
        plan = expected.plans.get(row.instance_id)
        cause = None if plan is None else plan.stuck_because
        message = "no error" if row.error is None else row.error["message"]
        if row.status is Status.STUCK:
            if cause is None:
                yield f"{row.instance_id}: it is parked without a cause of its own: {message}"
            elif cause not in message:
                yield f"{row.instance_id}: it is parked, and its error does not say {cause!r}: {message}"
        if explosions[row.instance_id] > MAX_RECOVERIES + 1:
            yield f"{row.instance_id}: it has killed {explosions[row.instance_id]} workers"
