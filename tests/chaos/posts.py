"""Events for the broker: each is posted if and only if its activity is recorded, those of an instance in order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from trio_romancy import EntryKind

from .evidence import Evidence
from .load import Expected
from .workflows import BROKEN_ID, event_id


def find_posts(expected: Expected, evidence: Evidence, taken: Sequence[str]) -> Iterator[str]:
    """A sentence for each event that was not posted, or wrongly, or before an earlier one of its instance.

    Args:
      taken: ids of the events that the broker has taken, in that order. An event may be there more than once.
    """
    sent: dict[str, list[str]] = defaultdict(list)
    for entry in evidence.entries:
        if entry.kind is EntryKind.ACTIVITY_COMPLETED and "tell" in entry.operation_id:
            sent[entry.instance_id].append(event_id(entry.instance_id, entry.operation_id))
    posted: dict[str, list[str]] = defaultdict(list)
    for id in dict.fromkeys(taken):
        posted[id.partition(" ")[0]].append(id)
    for instance_id in sorted(sent.keys() | posted.keys()):
        if posted[instance_id] != sent[instance_id]:
            yield f"{instance_id}: the broker has received {posted[instance_id]}, and not {sent[instance_id]}"
    for instance_id, event, status in evidence.outbox:
        if event == BROKEN_ID:
            if status != "invalid" or instance_id not in expected.damaged:
                yield f"{instance_id}: its event in the outbox cannot be read, and is {status}"
        elif status != "sent":
            yield f"{instance_id}: event {event!r} is {status} in the outbox"
