"""SQL about waits for messages, events and the ends of children, and about the messages for each.

:mod:`.messages` makes sure that a message and a wait do not miss each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from attrs import evolve, frozen
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    bindparam,
    case,
    delete,
    insert,
    select,
    true,
    union_all,
    update,
)

from ..._data.journal_format import ChildEnded, EventAttributes, received_text
from ...clock import Microseconds, at_once
from ...model import ChannelMode, Status
from ..dialects import notify_workers
from .chains import end_of
from .lock_order import LATER, WITH_ID, chunks
from .rows import StoredMessage, StoredWait, WaitRow, fetch_all, fetch_by_ids
from .statuses import read_status
from .tables import instances, messages, waits

_A_FEW = 10
"""The most messages to search for, unless the caller knows how many are needed."""
LOOKS = 100
"""The most waits to search messages for in a transaction that other transactions wait for."""
_WAKEABLE = (Status.PENDING, Status.RUNNING, Status.WAITING, Status.COMPENSATING)


class ChildMode(StrEnum):
    """Modes of waits that are not for a message."""

    CHILD = "child"
    """The end of a child. The wait's channel is the origin of the child's chain."""


@frozen
class Wait:
    """A wait of an operation, for messages or for the end of a child."""

    instance_id: str
    operation_id: str
    channel: str
    subject: str | None
    """Subject of the event; None for any."""
    mode: ChannelMode | ChildMode | None
    """Mode of the subscription to receive from; None for an event."""
    after: int
    """The number up to which messages are not for this wait."""
    origin: str | None = None
    """The origin of the instance's chain; None if it is the instance itself."""

    @property
    def addressee(self) -> str:
        """The instance that messages to the one that waits are addressed to: the first of its chain."""
        return self.origin or self.instance_id

    @property
    def row(self) -> WaitRow:
        """The wait as it is stored."""
        return {
            "instance_id": self.instance_id,
            "operation_id": self.operation_id,
            "channel": self.channel,
            "subject": self.subject,
            "after": self.after,
            "mode": self.mode,
            "is_open": True,
        }


@frozen
class Match:
    """A message for a wait. A query returns the first ones, in order."""

    seq: int
    sent_at: Microseconds
    payload: str
    """JSON text of the message as the journal records it."""


@frozen
class MatchResult:
    """The messages that one transaction has found for a wait."""

    wait: Wait
    found: Sequence[Match]
    is_all: bool
    """Whether there are no more messages."""
    looked_at: Microseconds

    def is_of(self, wait: Wait) -> bool:
        """Return whether the result is for that wait, as it was stored."""
        return evolve(wait, after=self.wait.after) == self.wait


# -- waits -------------------------------------------------------------------------------------------------------------

open_waits_of_all = (
    select(waits, instances.c.owner, instances.c.origin)
    .join(instances, instances.c.instance_id == waits.c.instance_id)
    .where(waits.c.is_open == true())
)
_of_some = waits.c.instance_id.in_(bindparam("ids", expanding=True))
open_waits_of_some = open_waits_of_all.where(_of_some)


def to_wait(row: StoredWait) -> Wait:
    """Return a row of :data:`open_waits_of_all` as a wait."""
    mode = None if row.mode is None else _modes.get(row.mode)  # a damaged one fits no wait of the instance
    return Wait(row.instance_id, row.operation_id, row.channel, row.subject, mode, row.after, row.origin)


_modes: dict[str, ChannelMode | ChildMode] = {mode.value: mode for mode in (*ChannelMode, *ChildMode)}


def wake(
    connection: Connection, instance_ids: Collection[str], now: Microseconds, owners: Collection[str | None] = (None,)
) -> None:
    """Make instances due now.

    An instance that is due already is written all the same. A transaction that claims it at the same time, and does not
    see yet what it is woken for, must conflict with this one, also on a cluster that certifies writes (Galera).

    Args:
      owners: the workers to notify: the owners of the instances, None for any worker.
    """
    for some in chunks(instance_ids):
        connection.execute(_wake, {"ids": some, "now": now, "at_once": at_once(now)})
    if instance_ids:
        notify_workers(connection, owners)


_at_once = bindparam("at_once", type_=BigInteger())
_wake = (
    update(instances)
    .where(WITH_ID, instances.c.status.in_(_WAKEABLE))
    .values(wake_at=case((instances.c.wake_at < 0, instances.c.wake_at), else_=_at_once), updated_at=LATER)
)

insert_wait = insert(waits)
_close_wait = delete(waits).where(
    waits.c.instance_id == bindparam("instance"), waits.c.operation_id == bindparam("operation")
)
_forget_waits = delete(waits).where(_of_some)


def open_waits(connection: Connection, new: Sequence[Wait]) -> None:
    """Store waits. Their channels must be locked."""
    connection.execute(insert_wait, [wait.row for wait in new])


def close_waits(connection: Connection, keys: Sequence[tuple[str, str]]) -> None:
    """Remove waits, given by instance and operation ids."""
    connection.execute(_close_wait, [{"instance": instance, "operation": operation} for instance, operation in keys])


def forget_waits(connection: Connection, instance_ids: Collection[str]) -> None:
    """Remove all waits and subscriptions of instances."""
    for some in chunks(instance_ids):
        connection.execute(_forget_waits, {"ids": some})


def stored_waits(connection: Connection, instance_ids: Collection[str]) -> list[Wait]:
    """Return the open waits of these instances."""
    found = (fetch_all(connection, StoredWait, open_waits_of_some, {"ids": some}) for some in chunks(instance_ids))
    return [to_wait(row) for rows in found for row in rows]


def match_results(connection: Connection, waits: Sequence[Wait], now: Microseconds) -> list[MatchResult]:
    """Return the messages for each wait. Beyond :data:`LOOKS` waits the results are empty: other transactions wait."""
    results = []
    for wait in waits[:LOOKS]:
        found = find_matches(connection, wait, _A_FEW)
        results.append(MatchResult(wait, found, len(found) < _A_FEW, now))
    return results + [MatchResult(wait, (), False, now) for wait in waits[LOOKS:]]


def _in_order(*conditions: ColumnElement[bool]) -> Select[Any]:
    """Query the first messages of a channel for an instance. Each part is a range of an index, in order."""
    there = select(messages).where(
        messages.c.channel == bindparam("channel_"), messages.c.seq > bindparam("after"), *conditions
    )
    addressees: list[Any] = ["", bindparam("me")]
    parts = [
        select(there.where(messages.c.addressee == addressee).order_by(messages.c.seq).limit(_most).subquery())
        for addressee in addressees
    ]
    both = union_all(*parts).subquery()
    return select(both).order_by(both.c.seq).limit(_most)


_most = bindparam("most", type_=BigInteger())
_is_event = messages.c.source.is_not(None)
_messages = _in_order()
_events = _in_order(_is_event)
_events_about = _in_order(_is_event, messages.c.subject == bindparam("subject_"))
_untaken = _in_order(messages.c.taken_by.is_(None))
_addressed = (
    select(messages)
    .where(
        messages.c.channel == bindparam("channel_"),
        messages.c.addressee == bindparam("me"),
        messages.c.seq > bindparam("after"),
    )
    .order_by(messages.c.seq)
    .limit(_most)
)


def find_matches(connection: Connection, wait: Wait, most: int) -> list[Match]:
    """Return the first messages for a wait, in order."""
    values: dict[str, Any] = {"channel_": wait.channel, "me": wait.addressee, "after": wait.after, "most": most}
    if wait.mode is ChildMode.CHILD:
        return _find_end(connection, wait.channel)
    elif wait.mode is ChannelMode.BROADCAST:
        query = _messages
    elif wait.mode is ChannelMode.COMPETING:
        query = _untaken
    elif wait.mode is ChannelMode.DIRECT:
        query = _addressed
    elif wait.subject is None:
        query = _events
    else:
        query, values["subject_"] = _events_about, wait.subject
    return [to_match(row) for row in fetch_all(connection, StoredMessage, query, values)]


def _find_end(connection: Connection, child: str) -> list[Match]:
    """Return the end of a child in the form of a message."""
    row = end_of(connection, child)
    if row is None or row.finished_at is None or not read_status(row.status).is_final:
        return []
    payload = ChildEnded.text(child, row.workflow, row.status, row.output, row.error)
    return [Match(1, row.finished_at, payload)]


def find_all_matches(connection: Connection, looks: Sequence[tuple[Wait, int]]) -> list[list[Match]]:
    """Return the first messages for each of many waits and numbers of messages.

    Waits for the ends of children take one query, and so do waits of an instance for events about different subjects.
    """
    found: list[list[Match] | None] = [None] * len(looks)
    children = [number for number, (wait, _) in enumerate(looks) if wait.mode is ChildMode.CHILD]
    if len(children) > 1:
        running = _unended(connection, {looks[number][0].channel for number in children})
        for number in children:
            if looks[number][0].channel in running:
                found[number] = []
    about: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, (wait, _) in enumerate(looks):
        if wait.mode is None and wait.subject is not None:
            about[wait.addressee, wait.channel].append(number)
    for numbers in about.values():
        if len(numbers) > 1:
            _find_by_subject(connection, looks, numbers, found)
    return [find_matches(connection, *looks[number]) if one is None else one for number, one in enumerate(found)]


def _unended(connection: Connection, children: Collection[str]) -> set[str]:
    """Return those children that run, or are to run. Others have ended, or recurred, or are gone."""
    found = fetch_by_ids(connection, _ChildStatus, _statuses, [*children])
    statuses = ((row.instance_id, read_status(row.status)) for row in found)
    return {id for id, status in statuses if not status.is_final and status is not Status.RECURRED}


def _find_by_subject(
    connection: Connection, looks: Sequence[tuple[Wait, int]], numbers: Sequence[int], found: list[list[Match] | None]
) -> None:
    """Find the events for waits of one instance for the same type, unless there are too many to read at once."""
    waits = [looks[number][0] for number in numbers]
    subjects = {wait.subject for wait in waits if wait.subject is not None}
    after = min(wait.after for wait in waits)
    one = waits[0]
    matches: dict[str, list[Match]] = {}
    for some in chunks(subjects):
        most = 2 * len(some) + _A_FEW
        values = {"channel_": one.channel, "me": one.addressee, "after": after, "subjects": some, "most": most}
        rows = fetch_all(connection, StoredMessage, _events_about_some, values)
        if len(rows) == most:
            continue
        matches |= {subject: [] for subject in some}
        for row in rows:
            matches[row.subject or ""].append(to_match(row))
    for number in numbers:
        wait, most = looks[number]
        if wait.subject in matches:
            found[number] = [match for match in matches[wait.subject] if match.seq > wait.after][:most]


class _ChildStatus(NamedTuple):
    instance_id: str
    status: str


_statuses = select(instances.c.instance_id, instances.c.status).where(WITH_ID)
_events_about_some = (
    select(messages)
    .where(
        messages.c.subject.in_(bindparam("subjects", expanding=True)),
        messages.c.channel == bindparam("channel_"),
        messages.c.seq > bindparam("after"),
        messages.c.addressee.in_(["", bindparam("me")]),
        _is_event,
    )
    # In the order of the index, so that the limit does not tempt the database to read all messages of the channel.
    .order_by(messages.c.subject, messages.c.seq)
    .limit(_most)
)


def to_match(row: StoredMessage) -> Match:
    """Return a message as the journal records it."""
    event = None
    if row.source is not None and row.event_id is not None:
        event = EventAttributes(row.event_id, row.source, row.subject, row.event_time)
    payload = received_text(row.seq, row.sent_at, row.sender, event, row.metadata, row.data)
    return Match(row.seq, row.sent_at, payload)
