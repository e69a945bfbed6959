"""All kinds of entries: their classes by kind, and how to read the payload of any."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, Self, final

from ..._tasks.fast_frozen import frozen
from ...errors import DataProblem, InvalidDataError
from ...model import EntryKind
from .. import patient_json
from ..codec import dumps, loads
from ..large import LARGE
from .activities import (
    ActivityCancelled,
    ActivityCompleted,
    CompensationCompleted,
    TimeoutFired,
    TimerFired,
)
from .children import ChildEnded, ChildStarted
from .failures import ActivityFailed, AttemptFailed, CompensationFailed, WorkflowFailed
from .instance import (
    CancelRequested,
    CarryOver,
    Patched,
    Resumed,
    Retried,
    RollbackRequested,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowRecurred,
    WorkflowTerminated,
)
from .messages import (
    EventReceived,
    MessageReceived,
    Published,
    Subscribed,
    Unsubscribed,
    WaitTimedOut,
)

NOTHING = "null"
"""The payload of an entry that records only that something has happened."""


class Payload(Protocol):
    """The payload of entries of one kind."""

    KIND: ClassVar[EntryKind]
    """The kind of entry."""

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """Return what this plain JSON data stands for. Call :func:`from_data` for data that may be wrong."""
        ...

    def to_text(self) -> str:
        """Return the payload as it is stored: JSON text."""
        ...


@final
@frozen
class Kept:
    """An outcome from after the operation that a retry starts from. It counts again when the workflow asks for it."""

    KIND: ClassVar[EntryKind] = EntryKind.KEPT

    kind: EntryKind
    """Kind of the entry that recorded the outcome."""
    payload: Payload
    """Payload of that entry."""

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """Return the entry that this plain JSON data stands for."""
        kind = EntryKind(data["kind"])
        return cls(kind, CLASSES[kind].from_data(data["payload"]))

    @staticmethod
    def text(kind: EntryKind, payload: str) -> str:
        """Return the payload that keeps another one, given as JSON text."""
        return f'{{"kind":{dumps(kind)},"payload":{payload}}}'

    def to_text(self) -> str:
        """Return the payload as it is stored: JSON text."""
        return self.text(self.kind, self.payload.to_text())


_all: tuple[type[Payload], ...] = (
    ActivityCompleted,
    ActivityFailed,
    ActivityCancelled,
    AttemptFailed,
    TimerFired,
    TimeoutFired,
    EventReceived,
    MessageReceived,
    WaitTimedOut,
    Published,
    Subscribed,
    Unsubscribed,
    ChildStarted,
    ChildEnded,
    CancelRequested,
    WorkflowCompleted,
    WorkflowFailed,
    WorkflowCancelled,
    WorkflowRecurred,
    WorkflowTerminated,
    CarryOver,
    RollbackRequested,
    CompensationCompleted,
    CompensationFailed,
    Patched,
    Retried,
    Kept,
    Resumed,
)
CLASSES: Mapping[EntryKind, type[Payload]] = {cls.KIND: cls for cls in _all}
"""The class of each kind."""


_readers: dict[str, tuple[EntryKind, Callable[[Any], Payload]]] = {
    kind.value: (kind, cls.from_data) for kind, cls in CLASSES.items()
}


def read(name: str, text: str | None) -> tuple[EntryKind, Payload]:
    """Return kind and payload of an entry as they are stored. A replay does this for every entry.

    Args:
      name: of the kind.
      text: JSON text; None is read like ``null``.

    Raises:
      InvalidDataError: if there is no such kind, the text is not JSON, or its data do not have the form of that kind.
    """
    try:
        kind, make = _readers[name]
        if text is None:
            return kind, make(None)
        return kind, make(loads(text) if len(text) < LARGE else patient_json.loads(text))
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise _unreadable(name, error) from error


def from_text(kind: EntryKind, text: str | None) -> Payload:
    """Return the payload of an entry of that kind: see :func:`read`."""
    return read(kind, text)[1]


def from_data(kind: EntryKind, data: Any) -> Payload:
    """Return the payload of an entry of that kind, from plain JSON data.

    Raises:
      InvalidDataError: if the data do not have the form of that kind.
    """
    try:
        return CLASSES[kind].from_data(data)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _unreadable(kind, error) from error


def _unreadable(name: str, error: Exception) -> InvalidDataError:
    if name not in _readers:
        problem = "this version does not know that kind"
    elif isinstance(error, KeyError):
        problem = f"missing or unknown: {error}"
    else:
        problem = str(error)
    return InvalidDataError(f"a journal entry of kind {name!s} cannot be read", [DataProblem("$", problem)])
