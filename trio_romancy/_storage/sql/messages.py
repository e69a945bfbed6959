"""SQL about events and messages: sending them, taking them, and subscribing to channels.

Messages are numbered in the order in which they are committed: a transaction that sends holds the counter (the row of
the channel ``''``) until it ends. So a reader that has seen a number has seen every smaller one, and an instance that
stores the counter when it is started knows exactly what was sent before.

A transaction that sends to a channel, and one that begins to wait on it, both write the channel's row first
(:func:`lock_channels`). A message and a wait therefore never miss each other: the second transaction sees what the
first has done. It is a write and not a locked read, so that a cluster which certifies writes only (Galera) sees it.
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
    ChildMode,
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
"""The channel whose row counts all messages. No user can give a channel this name."""


@define(eq=False)
class Outgoing:
    """One message to send, and its result."""

    row: MessageRow
    """Row to store. :func:`send` replaces it by the row that it has stored."""
    must_exist: bool = False
    """Whether to refuse the message if its addressee does not exist."""
    is_new: bool = False
    """Whether the id is certainly new. False after the first try to store the message."""
    is_duplicate: bool = False
    """Whether an event of the same source and id was stored before."""
    failure: Exception | None = None
    gathered: list[set[str]] = field(factory=list)
    """Sets of instances that wait for the message. Messages for which the same ones wait share a set."""

    @property
    def waiting(self) -> set[str]:
        """Instances that wait for the message."""
        return set().union(*self.gathered)


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
    """Return the row of a new message. ``data`` and ``metadata`` are JSON text."""
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


# -- locking -----------------------------------------------------------------------------------------------------------

_the_channel = update(channels).where(channels.c.channel == bindparam("name"))
_touched = bindparam("now", type_=BigInteger())
_touch = _the_channel.values(touched_at=_touched)
_count = _the_channel.values(last=channels.c.last + bindparam("more", type_=BigInteger()), touched_at=_touched)
LAST_MESSAGE = select(channels.c.last).where(channels.c.channel == COUNTER)
"""A query for the number of the last message. It has no row before the first message."""
_insert_channel = insert_if_absent(channels)


def lock_channels(connection: Connection, names: Iterable[str], now: Microseconds) -> None:
    """Keep other transactions from sending to these channels, and from beginning to wait on them.

    The counter is locked after the channels, and rows of instances after the counter: see :mod:`.lock_order`.
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
    """Reserve numbers for ``more`` messages. Returns the first number, for :func:`send`."""
    values = {"name": COUNTER, "more": more, "now": now}
    last: int | None = update_and_get(connection, _count, channels.c.last, values)
    if last is None:
        _insert(connection, COUNTER, now)
        last = update_and_get(connection, _count, channels.c.last, values)
    assert last is not None
    return last - more + 1


def last_message(connection: Connection) -> int:
    """Return the number of the last message."""
    return connection.execute(LAST_MESSAGE).scalar() or 0


# -- sending -----------------------------------------------------------------------------------------------------------

_insert_message = insert(messages)


def send(
    connection: Connection, outgoing: Sequence[Outgoing], first: int, now: Microseconds, me: str | None
) -> tuple[list[MatchResult], bool]:
    """Store messages, and wake the instances that wait for them. Their channels must be locked.

    Args:
      first: the number of the first message, from :func:`count_messages`.
      me: the worker that sends. Its own instances are not woken through the database: the worker must offer them the
        returned results before it can release one of them.

    Returns the results for waits of the worker's own instances, and whether other instances were woken.
    """
    known = _known_events(connection, outgoing)
    origins = _origins(connection, outgoing)
    fresh: list[Outgoing] = []
    for seq, one in enumerate(outgoing, first):
        row = one.row
        event = (row["source"], row["event_id"])
        one.is_duplicate = event[1] is not None and event in known
        one.gathered, one.failure = [], None  # a transaction that was rolled back may have set them
        origin = origins.get(row["addressee"]) if row["addressee"] else ""
        if one.must_exist and origin is None:
            one.failure = InstanceNotFoundError(row["addressee"])
        elif not one.is_duplicate:
            known.add(event)
            one.row = {**row, "seq": seq, "addressee": origin or row["addressee"]}
            fresh.append(one)
        one.is_new = False  # the transaction may be repeated without knowing whether it was committed
    if not fresh:
        return [], False
    connection.execute(_insert_message, [one.row for one in fresh])
    return _wake_waiting(connection, fresh, now, me)


def send_apart(connection: Connection, outgoing: Sequence[Outgoing], now: Microseconds) -> None:
    """Send messages like :func:`send`, with all locks, as the only thing that the transaction does."""
    lock_channels(connection, {one.row["channel"] for one in outgoing}, now)
    send(connection, outgoing, count_messages(connection, len(outgoing), now), now, None)


def _known_events(connection: Connection, outgoing: Sequence[Outgoing]) -> set[tuple[str | None, str | None]]:
    """Return source and id of those events that were sent before."""
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
    """Return the origin of the chain of each addressee that exists."""
    ids = {one.row["addressee"] for one in outgoing if one.row["addressee"]}
    origins: dict[str, str] = {}
    for some in chunks(ids):
        found = fetch_all(connection, _Member, _members, {"ids": some})
        origins |= {row.instance_id: row.origin or row.instance_id for row in found}
    for some in chunks(ids - origins.keys()):  # the first of a chain may have been deleted while the last still runs
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
    sent: dict[_Place, list[Outgoing]] = defaultdict(list)
    for one in fresh:
        row = one.row
        for subject in {None, row["subject"]}:
            for only_events in {False, row["source"] is not None}:
                sent[row["addressee"], row["channel"], subject, only_events].append(one)
    # Each of many instances may wait for each of many messages, and other transactions wait for this one's locks: so
    # those that wait at the same place are gathered, and no pair of an instance and a message is looked at.
    waiting: dict[_Place, set[str]] = defaultdict(set)
    mine: list[Wait] = []
    others: dict[str, str | None] = {}
    about = {(channel, subject) for addressee, channel, subject, _ in sent if not addressee}
    for wait in _waiting(connection, about, {addressee for addressee, *_ in sent if addressee}):
        if wait.mode == ChildMode.CHILD:
            continue  # it waits for no message
        itself = wait.origin or wait.instance_id
        addressees = [itself] if wait.mode == ChannelMode.DIRECT else [itself, ""]
        places = [(addressee, wait.channel, wait.subject, wait.mode is None) for addressee in addressees]
        matching = [place for place in places if place in sent]
        for place in matching:
            waiting[place].add(wait.instance_id)
        if matching and me is not None and wait.owner == me:
            mine.append(to_wait(wait))
        elif matching:
            others[wait.instance_id] = wait.owner
    for place, instance_ids in waiting.items():
        for one in sent[place]:
            one.gathered.append(instance_ids)
    wake(connection, others, now, others.values())
    return match_results(connection, mine, now), bool(others)


_Place = tuple[str, str, str | None, bool]
"""Where messages are waited for: addressee (``""`` for all), channel, subject (None for any), and whether only events
are."""


def _waiting(
    connection: Connection, about: Collection[tuple[str, str | None]], addressees: Collection[str]
) -> Iterable[StoredWait]:
    """Return open waits on these channels, for any subject or one of these, and all open waits of the addressees."""
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
# In one statement each part is still a range of the index.
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
    """Take a message that only one instance gets, and record that. Returns False if another instance was first."""
    if not connection.execute(_take, {"number": seq, "taker": entry["instance_id"]}).rowcount:
        return False
    insert_entries(connection, [entry])
    return True


def subscribe(
    connection: Connection, instance_id: str, operation_id: str, channel: str, mode: ChannelMode
) -> tuple[ChannelMode, int]:
    """Subscribe to a channel, which must be locked.

    Returns the mode of the channel, and the number of the last message before the subscription. If the channel has
    another mode, nothing is subscribed.
    """
    stored = connection.execute(select(channels.c.mode).where(channels.c.channel == channel)).scalar_one()
    held = mode if stored is None else ChannelMode(stored)
    if held is mode:
        if stored is None:
            connection.execute(update(channels).where(channels.c.channel == channel).values(mode=mode))
        wait = Wait(instance_id, operation_id, channel, None, mode, 0)
        connection.execute(insert_wait, {**wait.row, "is_open": False})
    # A transaction that sends to the channel waits for this one, so its messages will have larger numbers.
    return held, last_message(connection)


# -- keeping the tables small ------------------------------------------------------------------------------------------


def delete_old_messages(connection: Connection, before: Microseconds, most: int) -> int:
    """Delete up to ``most`` messages that were sent before that time. Returns how many."""
    oldest = select(messages.c.seq, messages.c.sent_at).order_by(messages.c.seq).limit(most)
    old = [seq for seq, sent_at in connection.execute(oldest) if sent_at < before]
    for some in chunks(old):
        connection.execute(delete(messages).where(messages.c.seq.in_(some)))
    return len(old)


def delete_idle_channels(connection: Connection, before: Microseconds, most: int) -> int:
    """Delete up to ``most`` channels that have no message, no subscriber, and no use since that time.

    Returns how many were found.
    """
    is_used = or_(
        select(waits.c.channel).where(waits.c.channel == channels.c.channel).exists(),
        select(messages.c.channel).where(messages.c.channel == channels.c.channel).exists(),
    )
    idle: list[ColumnElement[bool]] = [channels.c.channel != COUNTER, channels.c.touched_at < before]
    names = connection.execute(select(channels.c.channel).where(*idle, ~is_used).limit(most)).scalars().all()
    for name in names:  # the condition is checked again once the row is locked
        connection.execute(delete(channels).where(channels.c.channel == name, *idle))
    return len(names)


def oldest_message(connection: Connection) -> Microseconds | None:
    """Return when the oldest message was sent; None if there is no message."""
    return connection.execute(select(messages.c.sent_at).order_by(messages.c.seq).limit(1)).scalar()
