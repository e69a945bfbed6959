"""SQL about who waits for messages, for events, or for the end of a child, and what there is for each.

That who waits and who sends do not miss each other is seen to in :mod:`.messages`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import Any

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
from ...clock import Microseconds
from ...model import ChannelMode, Status
from ..dialects import notify_workers
from .chains import end_of
from .lock_order import LATER, NOW, WITH_ID, chunks
from .rows import StoredMessage, StoredWait, WaitRow, fetch_all
from .tables import instances, messages, waits

_A_FEW = 10
"""How many messages to look for, if there is nobody to say how many may be needed."""
LOOKS = 100
"""The most waits to look for in a transaction that locks something."""
_WAKEABLE = (Status.PENDING, Status.RUNNING, Status.WAITING, Status.COMPENSATING)


class FamilyMode(StrEnum):
    """What is waited for that is no message."""

    CHILD = "child"
    """The end of a child: in place of the channel stands the origin of the child's chain."""


@frozen
class Wait:
    """What an operation waits for."""

    instance_id: str
    operation_id: str
    channel: str
    subject: str | None
    """Of the event; None: any."""
    mode: ChannelMode | FamilyMode | None
    """Of the subscription that it receives from; None: it waits for an event."""
    after: int
    """Messages up to this number are not for it."""
    origin: str | None = None
    """The first of the chain that the instance belongs to; None: it is the first itself."""

    @property
    def row(self) -> WaitRow:
        """As it is stored."""
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
    """A message that is for a wait.

    What is found for a wait is always the first there is, in order.
    """

    seq: int
    sent_at: Microseconds
    payload: str
    """The message as the journal records it: JSON text."""


@frozen
class MatchResult:
    """What there is for a wait, as of the transaction that has looked."""

    wait: Wait
    found: Sequence[Match]
    is_all: bool
    """Whether there is nothing more."""
    looked_at: Microseconds

    def is_of(self, wait: Wait) -> bool:
        """Whether that is the wait, as it was stored."""
        return evolve(wait, after=self.wait.after) == self.wait


# -- who waits ---------------------------------------------------------------------------------------------------------

open_waits_of_all = (
    select(waits, instances.c.owner, instances.c.origin)
    .join(instances, instances.c.instance_id == waits.c.instance_id)
    .where(waits.c.is_open == true())
)
_of_some = waits.c.instance_id.in_(bindparam("ids", expanding=True))
open_waits_of_some = open_waits_of_all.where(_of_some)


def to_wait(row: StoredWait) -> Wait:
    """A row of :data:`open_waits_of_all`."""
    mode = None if row.mode is None else _modes[row.mode]
    return Wait(row.instance_id, row.operation_id, row.channel, row.subject, mode, row.after, row.origin)


_modes: dict[str, ChannelMode | FamilyMode] = {mode.value: mode for mode in (*ChannelMode, *FamilyMode)}


def wake(
    connection: Connection, instance_ids: Collection[str], now: Microseconds, owners: Collection[str | None] = (None,)
) -> None:
    """Make instances want attention now.

    One that wants it already is changed all the same: whoever claims it just now, and does not see yet what it is
    woken for, must meet this transaction, also on a cluster that certifies what has changed (Galera).

    Args:
      owners: the workers that own them.
    """
    for some in chunks(instance_ids):
        connection.execute(_wake, {"ids": some, "now": now})
    if instance_ids:
        notify_workers(connection, owners)


_wake = (
    update(instances)
    .where(WITH_ID, instances.c.status.in_(_WAKEABLE))
    .values(wake_at=case((instances.c.wake_at <= NOW, instances.c.wake_at), else_=NOW), updated_at=LATER)
)

insert_wait = insert(waits)
_close_wait = delete(waits).where(
    waits.c.instance_id == bindparam("instance"), waits.c.operation_id == bindparam("operation")
)
_forget_waits = delete(waits).where(_of_some)


def open_waits(connection: Connection, new: Sequence[Wait]) -> None:
    """Note that these are waited for. Their channels must be locked."""
    connection.execute(insert_wait, [wait.row for wait in new])


def close_waits(connection: Connection, keys: Sequence[tuple[str, str]]) -> None:
    """Note that nobody waits for these any more: instance and operation ids."""
    connection.execute(_close_wait, [{"instance": instance, "operation": operation} for instance, operation in keys])


def forget_waits(connection: Connection, instance_ids: Collection[str]) -> None:
    """Remove all waits and subscriptions of instances that have ended."""
    for some in chunks(instance_ids):
        connection.execute(_forget_waits, {"ids": some})


def stored_waits(connection: Connection, instance_ids: Collection[str]) -> list[Wait]:
    """The waits of these instances."""
    found = (fetch_all(connection, StoredWait, open_waits_of_some, {"ids": some}) for some in chunks(instance_ids))
    return [to_wait(row) for rows in found for row in rows]


def match_results(connection: Connection, waits: Sequence[Wait], now: Microseconds) -> list[MatchResult]:
    """What there is for each of these. Others wait for the transaction, so only some are looked for."""
    news = []
    for wait in waits[:LOOKS]:
        found = find(connection, wait, _A_FEW)
        news.append(MatchResult(wait, found, len(found) < _A_FEW, now))
    return news + [MatchResult(wait, (), False, now) for wait in waits[LOOKS:]]


def _in_order(*conditions: ColumnElement[bool]) -> Select[Any]:
    """The first messages of a channel for an instance. Each part is a range of one index, in its order."""
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


def find(connection: Connection, wait: Wait, most: int) -> list[Match]:
    """The first messages for a wait, in order."""
    me = wait.origin or wait.instance_id
    values: dict[str, Any] = {"channel_": wait.channel, "me": me, "after": wait.after, "most": most}
    if wait.mode is FamilyMode.CHILD:
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
    return [_to_match(row) for row in fetch_all(connection, StoredMessage, query, values)]


def _find_end(connection: Connection, child: str) -> list[Match]:
    """The end of a child, as if it were a message."""
    row = end_of(connection, child)
    if row is None or row.finished_at is None or not Status(row.status).is_final:
        return []
    payload = ChildEnded.text(child, row.workflow, row.status, row.output, row.error)
    return [Match(1, row.finished_at, payload)]


def find_all(connection: Connection, looks: Sequence[tuple[Wait, int]]) -> list[list[Match]]:
    """The same for many waits."""
    return [find(connection, wait, most) for wait, most in looks]


def _to_match(row: StoredMessage) -> Match:
    event = None
    if row.source is not None and row.event_id is not None:
        event = EventAttributes(row.event_id, row.source, row.subject, row.event_time)
    payload = received_text(row.seq, row.sent_at, row.sender, event, row.metadata, row.data)
    return Match(row.seq, row.sent_at, payload)
