"""The rows of the tables as types: what is written, what parameters a statement takes, and what a query returns.

Rows that are written are plain dictionaries, and rows that are read are SQLAlchemy's own: the types here cost nothing
at run time, and let a type checker find a misspelt column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NotRequired, TypedDict, TypeVar, cast

from sqlalchemy import Connection, Executable

from ...clock import Microseconds
from ...model import ChannelMode, EntryKind, OutboxStatus, Status

# -- rows that are written ---------------------------------------------------------------------------------------------


class InstanceRow(TypedDict):
    """A new instance."""

    instance_id: str
    workflow: str
    status: Status
    input: str
    owner: str | None
    wake_at: Microseconds | None
    recoveries: int
    started_after: int
    trace: str | None
    created_at: Microseconds
    updated_at: Microseconds
    not_before: NotRequired[Microseconds | None]
    deadline: NotRequired[Microseconds | None]


class ChildRow(InstanceRow):
    """A new instance that another one has started."""

    parent_id: str


class SuccessorRow(InstanceRow):
    """A new instance that continues a chain."""

    origin: str
    continued_from: str
    parent_id: str | None


class OpenEntryRow(TypedDict):
    """A journal entry whose payload is not known yet."""

    instance_id: str
    seq: int
    operation_id: str
    kind: EntryKind
    recorded_at: Microseconds


class EntryRow(OpenEntryRow):
    """A journal entry."""

    payload: str


class MessageRow(TypedDict):
    """A message, or an event."""

    seq: NotRequired[int]
    channel: str
    addressee: str
    subject: str | None
    source: str | None
    event_id: str | None
    event_time: Microseconds | None
    sender: str | None
    data: str
    metadata: str | None
    sent_at: Microseconds


class WaitRow(TypedDict):
    """A wait, or a subscription."""

    instance_id: str
    operation_id: str
    channel: str
    subject: str | None
    after: int
    mode: str | None
    is_open: bool


class ChannelRow(TypedDict):
    """A channel that is used for the first time."""

    channel: str
    last: int
    mode: ChannelMode | None
    touched_at: Microseconds


class OutboxRow(TypedDict):
    """An event for the broker."""

    instance_id: str
    seq: int
    number: int
    event_id: str
    source: str
    type: str
    subject: str | None
    time: Microseconds
    data: str
    status: OutboxStatus
    attempts: int
    due_at: Microseconds | None
    created_at: Microseconds


class WorkerRow(TypedDict):
    """A worker that joins for the first time."""

    worker_id: str
    epoch: int
    batch: int
    expires_at: Microseconds
    joined_at: Microseconds
    process: str
    version: str | None
    clock: Microseconds | None


class IncompatibleRow(TypedDict):
    """An instance whose journal does not fit the code of a version."""

    instance_id: str
    version: str
    error: str
    found_at: Microseconds


class ScheduleRow(TypedDict):
    """A new schedule."""

    name: str
    workflow: str
    input: str
    rules: str
    is_declared: bool
    next_at: Microseconds | None
    fires_at: Microseconds | None
    last_at: Microseconds | None
    paused: str | None
    paused_at: Microseconds | None
    pause_kind: str | None
    revision: int
    updated_at: Microseconds


class OccurrenceRow(TypedDict):
    """What is known of an occurrence of a schedule."""

    schedule: str
    due_at: Microseconds
    state: str
    instance_id: str | None
    reason: str | None
    until: Microseconds | None
    recorded_at: Microseconds


# -- parameters of statements ------------------------------------------------------------------------------------------


class StatusUpdate(TypedDict):
    """Values for the change of one instance's status: see :func:`.instances.update_instances`."""

    id: str
    status_: Status
    error_: str | None
    owner_: str | None
    wake: Microseconds | None
    settled: bool
    no_progress: bool
    waits_for_: str | None
    now: Microseconds
    finished: Microseconds | None


class ClosingRow(TypedDict):
    """Values for the end of one workflow function: see :func:`.instances.close_instances`."""

    id: str
    status_: Status
    output_: str | None
    error_: str | None
    owner_: str | None
    now: Microseconds
    finished: Microseconds | None


class EndRow(ClosingRow, EntryRow):
    """The end of one workflow function together with its journal entry: see :func:`.single_statement.write_at_once`."""


# -- rows that are read ------------------------------------------------------------------------------------------------


class StoredInstance(NamedTuple):
    """An instance."""

    instance_id: str
    workflow: str
    status: str
    input: str
    output: str | None
    error: str | None
    owner: str | None
    wake_at: Microseconds | None
    cancel_requested: str | None
    recoveries: int
    parent_id: str | None
    continued_from: str | None
    created_at: Microseconds
    updated_at: Microseconds
    finished_at: Microseconds | None
    started_after: int
    origin: str | None
    details: str | None
    trace: str | None
    has_begun: bool | None
    waits_for: str | None
    held: int
    queue: str | None
    queue_key: str | None
    priority: int | None
    weight: int | None
    not_before: Microseconds | None
    deadline: Microseconds | None
    paused_until: Microseconds | None
    pause_reason: str | None
    keep_until: Microseconds | None
    version: str | None


class StoredEntry(NamedTuple):
    """A journal entry."""

    instance_id: str
    seq: int
    operation_id: str
    kind: str
    payload: str | None
    recorded_at: Microseconds


class StoredMessage(NamedTuple):
    """A message, or an event."""

    seq: int
    channel: str
    addressee: str
    subject: str | None
    source: str | None
    event_id: str | None
    event_time: Microseconds | None
    sender: str | None
    data: str
    metadata: str | None
    sent_at: Microseconds
    taken_by: str | None


class StoredWait(NamedTuple):
    """A wait, with the owner and the origin of its instance."""

    instance_id: str
    operation_id: str
    channel: str
    subject: str | None
    after: int
    mode: str | None
    is_open: bool
    owner: str | None
    origin: str | None


class StoredEvent(NamedTuple):
    """An event for the broker."""

    instance_id: str
    seq: int
    number: int
    event_id: str
    source: str
    type: str
    subject: str | None
    time: Microseconds
    data: str
    status: str
    attempts: int
    due_at: Microseconds | None
    claimed_by: str | None
    claimed_until: Microseconds | None
    error: str | None
    created_at: Microseconds
    finished_at: Microseconds | None


class StoredWorker(NamedTuple):
    """A worker and its lease."""

    worker_id: str
    epoch: int
    batch: int
    expires_at: Microseconds
    joined_at: Microseconds
    process: str
    version: str | None
    clock: Microseconds | None


class StoredSchedule(NamedTuple):
    """A schedule."""

    name: str
    workflow: str
    input: str
    rules: str
    is_declared: bool
    next_at: Microseconds | None
    fires_at: Microseconds | None
    last_at: Microseconds | None
    paused: str | None
    paused_at: Microseconds | None
    pause_kind: str | None
    revision: int
    updated_at: Microseconds


class StoredOccurrence(NamedTuple):
    """An occurrence of a schedule that has not ended, that was skipped, or that is to be skipped."""

    schedule: str
    due_at: Microseconds
    state: str
    instance_id: str | None
    reason: str | None
    until: Microseconds | None
    recorded_at: Microseconds


R = TypeVar("R", bound=NamedTuple)

IN_LIST = 500
"""The most values in one IN list."""


def fetch_all(
    connection: Connection, row: type[R], query: Executable, values: Mapping[str, Any] | None = None
) -> Sequence[R]:
    """Execute a query whose columns are the fields of ``row``, in their order, and return its rows.

    The rows are SQLAlchemy's, which have the same attributes and positions as ``row``; ``row`` itself is never made.
    """
    result = connection.execute(query, values)
    assert row._fields == tuple(result.keys()), f"{row.__name__} does not fit {tuple(result.keys())}"
    return cast("Sequence[R]", result.all())


def fetch_first(
    connection: Connection, row: type[R], query: Executable, values: Mapping[str, Any] | None = None
) -> R | None:
    """Execute a query like :func:`fetch_all`, and return only the first row; None if there is no row."""
    result = connection.execute(query, values)
    assert row._fields == tuple(result.keys()), f"{row.__name__} does not fit {tuple(result.keys())}"
    return cast("R | None", result.first())


def fetch_by_ids(connection: Connection, row: type[R], query: Executable, ids: Sequence[str]) -> list[R]:
    """Execute a query like :func:`fetch_all`, with an IN list for its parameter ``ids``, for any number of ids."""
    found: list[R] = []
    for start in range(0, len(ids), IN_LIST):
        found += fetch_all(connection, row, query, {"ids": ids[start : start + IN_LIST]})
    return found
