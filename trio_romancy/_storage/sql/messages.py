"""SQL about events and messages: sending them, taking them, and the channels that they go by.

Messages are numbered in the order in which they are committed: who sends holds the counter (the row of the channel
``''``) until its transaction ends. So whoever has seen a number has seen every smaller one, and an instance that notes
the counter when it is started knows exactly what was sent before.

Who sends to a channel and who begins to wait on it both write the channel's row first (:func:`lock_channels`), in
the same order everywhere. A message and a wait therefore never cross in flight: whoever comes second sees the other.
It is a write and not a locked read, so that a cluster which certifies writes only (Galera) sees it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from attrs import define, field
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    bindparam,
    delete,
    insert,
    or_,
    select,
    union_all,
    update,
)

from ...clock import Microseconds
from ...errors import InstanceNotFoundError
from ...model import ChannelMode
from ..dialects.sql import insert_if_absent, update_and_get
from .chains import LASTS
from .entries import insert_entries
from .lock_order import WITH_ID, chunks
from .rows import ChannelRow, EntryRow, MessageRow, StoredWait, fetch_all
from .tables import channels, instances, messages, waits
from .waits import (
    FamilyMode,
    MatchResult,
    Wait,
    insert_wait,
    match_results,
    open_waits_of_all,
    open_waits_of_some,
    to_wait,
    wake,
)

COUNTER = ""
"""The channel whose row counts all messages. No other can have this name."""


@define(eq=False)
class Outgoing:
    """One message on its way to be stored, and what became of it."""

    row: MessageRow
    must_exist: bool = False
    """Whether to refuse it if the instance that it is for does not exist."""
    is_new: bool = False
    """Whether nothing of its id has been stored before, unless a try to store it has left that open."""
    is_duplicate: bool = False
    waiting: set[str] = field(factory=set)
    """Instances that wait for it."""
    failure: Exception | None = None


def new_message(
    channel: str,
    data: str,
    now: Microseconds,
    *,
    addressee: str | None = None,
    subject: str | None = None,
    source: str | None = None,
    event_id: str | None = None,
    event_time: Microseconds | None = None,
    sender: str | None = None,
    metadata: str | None = None,
) -> MessageRow:
    """The row of a new message. ``data`` and ``metadata`` are JSON text."""
    return {
        "channel": channel,
        "addressee": addressee or "",
        "subject": subject,
        "source": source,
        "event_id": event_id,
        "event_time": event_time,
        "sender": sender,
        "data": data,
        "metadata": metadata,
        "sent_at": now,
    }


# -- the meeting of those who send and those who wait ------------------------------------------------------------------

_the_channel = update(channels).where(channels.c.channel == bindparam("name"))
_touched = bindparam("now", type_=BigInteger())
_touch = _the_channel.values(touched_at=_touched)
_count = _the_channel.values(last=channels.c.last + bindparam("more", type_=BigInteger()), touched_at=_touched)
LAST_MESSAGE = select(channels.c.last).where(channels.c.channel == COUNTER)
"""The number of the last message that has been sent, if there was one."""
_insert_channel = insert_if_absent(channels)


def lock_channels(connection: Connection, names: Iterable[str], now: Microseconds) -> None:
    """Keep others from sending to these channels, and from beginning to wait on them, until the transaction ends.

    The counter comes after all of them, and the rows of instances after that: one order for all, so that nobody waits
    in a circle.
    """
    for name in sorted(names):
        values = {"name": name, "now": now}
        if not connection.execute(_touch, values).rowcount:
            _insert(connection, name, now)
            connection.execute(_touch, values)


def _insert(connection: Connection, name: str, now: Microseconds) -> None:
    row: ChannelRow = {"channel": name, "last": 0, "mode": None, "touched_at": now}
    connection.execute(_insert_channel, row)


def count_messages(connection: Connection, more: int, now: Microseconds) -> int:
    """Count so many more, in the name of :func:`send`. Returns the number of the first of them."""
    values = {"name": COUNTER, "more": more, "now": now}
    last: int | None = update_and_get(connection, _count, channels.c.last, values)
    if last is None:
        _insert(connection, COUNTER, now)
        last = update_and_get(connection, _count, channels.c.last, values)
    assert last is not None
    return last - more + 1


def last_message(connection: Connection) -> int:
    """The number of the last message that has been sent."""
    return connection.execute(LAST_MESSAGE).scalar() or 0


# -- sending -----------------------------------------------------------------------------------------------------------

_insert_message = insert(messages)


def send(
    connection: Connection, outgoing: Sequence[Outgoing], first: int, now: Microseconds, me: str | None
) -> tuple[list[MatchResult], bool]:
    """Store messages, and wake the instances that wait for them. Their channels must be locked.

    Args:
      first: the number of the first of them, as :func:`count_messages` gave it.
      me: the worker that sends. Its own instances are not woken through the database: it must tell them itself what
        this returns, before it can give one of them back.

    Returns what there is now for the waits of its own instances, and whether others were woken.
    """
    known = _known_events(connection, outgoing)
    origins = _origins(connection, outgoing)
    fresh: list[Outgoing] = []
    for seq, one in enumerate(outgoing, first):
        row = one.row
        event = (row["source"], row["event_id"])
        one.is_duplicate = event[1] is not None and event in known
        one.waiting, one.failure = set(), None  # whatever an attempt that was rolled back has found
        if row["addressee"]:
            one_of_them = origins.get(row["addressee"])
            row["addressee"] = one_of_them or row["addressee"]
        else:
            one_of_them = ""
        if one.must_exist and one_of_them is None:
            one.failure = InstanceNotFoundError(row["addressee"])
        elif not one.is_duplicate:
            known.add(event)
            row["seq"] = seq
            fresh.append(one)
        one.is_new = False  # should this try be repeated, nobody may know what became of it
    if not fresh:
        return [], False
    connection.execute(_insert_message, [one.row for one in fresh])
    return _wake_waiting(connection, fresh, now, me)


def send_apart(connection: Connection, outgoing: Sequence[Outgoing], now: Microseconds) -> None:
    """The same, in a transaction of its own."""
    lock_channels(connection, {one.row["channel"] for one in outgoing}, now)
    send(connection, outgoing, count_messages(connection, len(outgoing), now), now, None)


def _known_events(connection: Connection, outgoing: Sequence[Outgoing]) -> set[tuple[str | None, str | None]]:
    """Source and id of those events that were sent before."""
    ids = {one.row["event_id"] for one in outgoing if one.row["event_id"] is not None and not one.is_new}
    found = (fetch_all(connection, _EventKey, _with_event_ids, {"ids": some}) for some in chunks(ids))
    return {(row.source, row.event_id) for rows in found for row in rows}


class _EventKey(NamedTuple):
    source: str | None
    event_id: str | None


_with_event_ids = select(messages.c.source, messages.c.event_id).where(
    messages.c.event_id.in_(bindparam("ids", expanding=True))
)


def _origins(connection: Connection, outgoing: Sequence[Outgoing]) -> dict[str, str]:
    """Of each addressee that there is, the origin of its chain: whoever goes on gets what was sent to those before."""
    ids = {one.row["addressee"] for one in outgoing if one.row["addressee"]}
    origins: dict[str, str] = {}
    for some in chunks(ids):
        found = fetch_all(connection, _Member, _members, {"ids": some})
        origins |= {row.instance_id: row.origin or row.instance_id for row in found}
    for some in chunks(ids - origins.keys()):  # the first may have been deleted, while the last still runs
        chains = select(instances.c.origin).where(instances.c.origin.in_(some), instances.c.status.in_(LASTS))
        origins |= {origin: origin for origin in connection.execute(chains).scalars()}
    return origins


class _Member(NamedTuple):
    instance_id: str
    origin: str | None


_members = select(instances.c.instance_id, instances.c.origin).where(WITH_ID)


def _wake_waiting(
    connection: Connection, fresh: Sequence[Outgoing], now: Microseconds, me: str | None
) -> tuple[list[MatchResult], bool]:
    for_all: dict[tuple[str, str | None], list[Outgoing]] = defaultdict(list)
    for_one: dict[tuple[str, str], list[Outgoing]] = defaultdict(list)
    for one in fresh:
        channel, subject, addressee = one.row["channel"], one.row["subject"], one.row["addressee"]
        if addressee:
            for_one[addressee, channel].append(one)
        else:
            for_all[channel, None].append(one)
            if subject is not None:
                for_all[channel, subject].append(one)
    mine: list[Wait] = []
    others: dict[str, str | None] = {}
    for wait in _waiting(connection, for_all.keys(), {addressee for addressee, _ in for_one}):
        if wait.mode == FamilyMode.CHILD:
            continue  # it is no message that it waits for
        sent_to_it = for_one[wait.origin or wait.instance_id, wait.channel]
        matching = [one for one in sent_to_it if wait.subject in (None, one.row["subject"])]
        if wait.mode != ChannelMode.DIRECT:
            matching += for_all[wait.channel, wait.subject]
        if wait.mode is None:
            matching = [one for one in matching if one.row["source"] is not None]
        for one in matching:
            one.waiting.add(wait.instance_id)
        if matching and me is not None and wait.owner == me:
            mine.append(to_wait(wait))
        elif matching:
            others[wait.instance_id] = wait.owner
    wake(connection, others, now, others.values())
    return match_results(connection, mine, now), bool(others)


def _waiting(
    connection: Connection, about: Collection[tuple[str, str | None]], addressees: Collection[str]
) -> Iterable[StoredWait]:
    """Who waits on these channels, for any subject or one of these; and for what the addressees wait."""
    subjects = list(chunks({subject for _, subject in about if subject is not None}))
    found: dict[tuple[str, str], StoredWait] = {}
    for names in chunks({channel for channel, _ in about}):
        for some in subjects or [[]]:
            query = _for_these_subjects_too if some else _for_any_subject
            for row in fetch_all(connection, StoredWait, query, {"names": names, "subjects": some}):
                found[row.instance_id, row.operation_id] = row
    for some in chunks(addressees):
        for query in (open_waits_of_some, _of_chains):
            for row in fetch_all(connection, StoredWait, query, {"ids": some}):
                found[row.instance_id, row.operation_id] = row
    return found.values()


_on_channels = open_waits_of_all.where(waits.c.channel.in_(bindparam("names", expanding=True)))
_for_any_subject = _on_channels.where(waits.c.subject.is_(None))
# One statement, and yet each part of it a range of the index.
_for_these_subjects_too = union_all(
    _for_any_subject, _on_channels.where(waits.c.subject.in_(bindparam("subjects", expanding=True)))
)
_of_chains = open_waits_of_all.where(
    instances.c.origin.in_(bindparam("ids", expanding=True)), instances.c.status.in_(LASTS)
)


# -- channels ----------------------------------------------------------------------------------------------------------

_take = (
    update(messages)
    .where(messages.c.seq == bindparam("number"), messages.c.taken_by.is_(None))
    .values(taken_by=bindparam("taker"))
)


def take(connection: Connection, seq: int, entry: EntryRow) -> bool:
    """Take a message that only one gets, and record that. Returns False if somebody else was first."""
    if not connection.execute(_take, {"number": seq, "taker": entry["instance_id"]}).rowcount:
        return False
    insert_entries(connection, [entry])
    return True


def subscribe(
    connection: Connection, instance_id: str, operation_id: str, channel: str, mode: ChannelMode
) -> tuple[ChannelMode, int]:
    """Subscribe to a channel, which must be locked.

    Returns the mode that the channel has, and the last message before the subscription. If the mode is another one,
    there is no subscription.
    """
    stored = connection.execute(select(channels.c.mode).where(channels.c.channel == channel)).scalar_one()
    held = mode if stored is None else ChannelMode(stored)
    if held is mode:
        if stored is None:
            connection.execute(update(channels).where(channels.c.channel == channel).values(mode=mode))
        wait = Wait(instance_id, operation_id, channel, None, mode, 0)
        connection.execute(insert_wait, {**wait.row, "is_open": False})
    # Whoever sends to the channel waits for us, so what it sends will have a larger number.
    return held, last_message(connection)


# -- keeping the tables small ------------------------------------------------------------------------------------------


def delete_old_messages(connection: Connection, before: Microseconds, most: int) -> int:
    """Delete up to that many of the messages that were sent before that time. Returns how many."""
    oldest = select(messages.c.seq, messages.c.sent_at).order_by(messages.c.seq).limit(most)
    old = [seq for seq, sent_at in connection.execute(oldest) if sent_at < before]
    for some in chunks(old):
        connection.execute(delete(messages).where(messages.c.seq.in_(some)))
    return len(old)


def delete_idle_channels(connection: Connection, before: Microseconds, most: int) -> int:
    """Delete channels that hold no message, have no subscriber, and were not touched since. Returns how many."""
    is_used = or_(
        select(waits.c.channel).where(waits.c.channel == channels.c.channel).exists(),
        select(messages.c.channel).where(messages.c.channel == channels.c.channel).exists(),
    )
    idle: list[ColumnElement[bool]] = [channels.c.channel != COUNTER, channels.c.touched_at < before]
    names = connection.execute(select(channels.c.channel).where(*idle, ~is_used).limit(most)).scalars().all()
    for name in names:  # the time is looked at again, once the row is locked
        connection.execute(delete(channels).where(channels.c.channel == name, *idle))
    return len(names)


def oldest_message(connection: Connection) -> Microseconds | None:
    """When the oldest message was sent; None if there is none."""
    return connection.execute(select(messages.c.sent_at).order_by(messages.c.seq).limit(1)).scalar()
