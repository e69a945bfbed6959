"""The entries of the journal: one class for each kind of entry, with its payload, and nothing else.

A payload is stored as JSON text. Each class says which fields that has, reads what is stored (``from_data``), and
writes it (``to_text``); :func:`read` reads an entry of any kind. The page ``docs/explanation/journal-format.md`` lists
the same for readers.

A value that is JSON text already, such as the result that its codec has encoded, is put into the text of a payload as
it is: see ``text`` of the classes, :func:`received_text` and :func:`receipt_text`. These are the only places where JSON
text is spliced.

What other versions have written is read. A key that is not known is passed over.
"""

from __future__ import annotations

from .activities import (
    ActivityCancelled,
    ActivityCompleted,
    CompensationCompleted,
    PlannedCompensation,
    TimeoutFired,
    TimerFired,
)
from .children import ChildEnded, ChildStarted
from .failures import (
    ActivityFailed,
    AttemptFailed,
    CompensationFailed,
    Failure,
    WorkflowFailed,
    error_from_data,
    error_text,
)
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
    EventAttributes,
    EventReceived,
    MessageReceived,
    Published,
    Subscribed,
    Unsubscribed,
    WaitTimedOut,
    receipt_text,
    received_text,
)
from .payloads import CLASSES, NOTHING, Kept, Payload, from_data, from_text, read

__all__ = [
    "CLASSES",
    "NOTHING",
    "ActivityCancelled",
    "ActivityCompleted",
    "ActivityFailed",
    "AttemptFailed",
    "CancelRequested",
    "CarryOver",
    "ChildEnded",
    "ChildStarted",
    "CompensationCompleted",
    "CompensationFailed",
    "EventAttributes",
    "EventReceived",
    "Failure",
    "Kept",
    "MessageReceived",
    "Patched",
    "Payload",
    "PlannedCompensation",
    "Published",
    "Resumed",
    "Retried",
    "RollbackRequested",
    "Subscribed",
    "TimeoutFired",
    "TimerFired",
    "Unsubscribed",
    "WaitTimedOut",
    "WorkflowCancelled",
    "WorkflowCompleted",
    "WorkflowFailed",
    "WorkflowRecurred",
    "WorkflowTerminated",
    "error_from_data",
    "error_text",
    "from_data",
    "from_text",
    "read",
    "receipt_text",
    "received_text",
]
