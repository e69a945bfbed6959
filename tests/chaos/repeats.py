"""No activity runs twice without a death: what may repeat one, and what must not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from .disturbances import Disturbances
from .notes import Notes, Run


def find_repeats(notes: Notes, disturbances: Disturbances) -> Iterator[str]:
    """A sentence for each attempt that followed another one of the same operation without a reason.

    There are three reasons. The earlier attempt has raised, and the policy asks for another one. Or its worker died,
    stood still, or was cut off while others were not, so that it lost its lease before the outcome was recorded. Or the
    worker of the later attempt had stood still or been cut off, had lost the instance, and did not know that yet.
    An outage for all, a killed statement, a lock, a blocked loop and a clock that was set are none.
    """
    runs: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in notes.runs:
        runs[run.instance_id, run.operation_id].append(run)
    for (instance_id, operation_id), attempts in runs.items():
        for first, second in pairwise(attempts):
            if first.end == "raised" or disturbances.explain(first.worker_id, first.begun_at, second.begun_at):
                continue
            if disturbances.had_lost(second.worker_id, first.begun_at):
                continue
            yield (
                f"{instance_id}: {operation_id} ran twice without a death: on {first.worker_id} ({first.end}) "
                f"at {first.begun_at:.3f}, and on {second.worker_id} {second.begun_at - first.begun_at:.3f} s later"
            )
