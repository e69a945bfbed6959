"""What an instance waits for, as its row shows it to people: the first operations in flight."""

from __future__ import annotations

from itertools import islice
from typing import Any

from ..._data.codec import dumps
from ..._storage.sql.instances import OPERATIONS_SHOWN
from ...model import EntryKind
from .message_table import MessageFilter
from .operation import InFlight, Operation

_KINDS = {
    EntryKind.ACTIVITY_COMPLETED: "activity",
    EntryKind.COMPENSATION_COMPLETED: "compensation",
    EntryKind.EVENT_RECEIVED: "event",
    EntryKind.MESSAGE_RECEIVED: "message",
    EntryKind.TIMER_FIRED: "sleep",
    EntryKind.TIMEOUT_FIRED: "timeout",
    EntryKind.CHILD_ENDED: "child",
}

Shown = tuple[tuple[str, int, tuple[str, str] | None], ...]
"""Ids, attempts and limits of operations."""


def shown(in_flight: InFlight) -> Shown:
    """Return what distinguishes the operations that are shown from those shown before."""
    return tuple((one.id, one.attempt, one.limit) for one in islice(in_flight.by_id.values(), OPERATIONS_SHOWN))


def described(in_flight: InFlight) -> str | None:
    """Return the first operations in flight as JSON text; None without any."""
    operations = [_described(one) for one in islice(in_flight.by_id.values(), OPERATIONS_SHOWN)]
    return dumps(operations) if operations else None


def _described(operation: Operation) -> dict[str, Any]:
    kind = next((_KINDS[kind] for kind in operation.kinds if kind in _KINDS), "operation")
    about = operation.about
    filter = about if isinstance(about, MessageFilter) else None
    found = {
        "id": operation.id,
        "kind": kind,
        "name": about if filter is None else filter.channel,
        "subject": None if filter is None else filter.subject,
        "due": operation.wake_at,
        "limit": None if operation.limit is None else operation.limit[0],
        "key": None if operation.limit is None else operation.limit[1] or None,
        "attempt": operation.attempt or None,
        "since": operation.attempted_at if operation.is_executing else None,
    }
    return {name: value for name, value in found.items() if value is not None}
