"""SQL by which relayers claim events of the outbox, in the order of each instance, and record the outcomes.

An event is pending until it was sent or is dead; after that its ``due_at`` is NULL. Events of one instance are sent one
after the other, in the order of their keys. A pending event whose ``due_at`` lies in the future holds its instance
back: a relayer is sending the event, or the event waits for its next attempt. So a relayer claims the first pending
events of an instance that is not held back, and moves their ``due_at`` to the end of the claim, which holds the
instance back for all other relayers. If the relayer dies, the events become due again by themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from attrs import frozen
from sqlalchemy import Connection, Integer, Select, and_, bindparam, func, or_, select, update

from ..._data.codec import dumps
from ...clock import Microseconds, at_once
from ...model import OutboxStatus
from .rows import fetch_all, fetch_first
from .tables import outbox

_NEVER: Microseconds = 2**60
"""A time after which no event is ever due. SQLite sorts a damaged one, such as text, after it."""
_DAMAGED_AT_ONCE = 100
"""The most damaged events to park in one transaction."""
_WINDOW = 4
"""Due events to read for each instance that is wanted: other relayers may claim some of them first."""
_MOST_HELD_BACK = 20_000
"""The most events that are being sent or wait for their next attempt. Above that nothing is claimed: the broker accepts
little then, and PostgreSQL could not keep the list of their instances in the memory that it grants by default."""
_LONGEST_RUN = 10
"""The most events of one instance in a claim."""
_LARGEST_RUN = 1024 * 1024
"""Characters of data after which a run ends, because a relayer holds the run in memory."""


DAMAGED_DUE = "its row cannot be read: $.due_at is no time"
"""Error of an event whose ``due_at`` is damaged."""


@frozen
class Claimed:
    """An event that a relayer may send until its claim ends."""

    instance_id: str
    seq: int
    number: int
    event_id: str
    source: str
    type: str
    subject: str | None
    time: Microseconds
    data: str
    """JSON text."""
    attempts: int
    """The number of attempts before this claim."""
    created_at: Microseconds
    claimed_until: Microseconds


@frozen
class Outcome:
    """The outcome of a claimed event."""

    event: Claimed
    status: OutboxStatus
    """``PENDING`` if the event is to be tried again."""
    error: str | None = None
    """The reason why the event was not sent."""
    due_at: Microseconds | None = None
    """Time of the next attempt."""
    was_tried: bool = True
    """Whether this counts as an attempt."""


# -- claiming ----------------------------------------------------------------------------------------------------------


def _due(now: Microseconds) -> Select[Any]:
    """Return a query for the due events of instances that are not held back, the oldest first."""
    # Every database computes this list once and looks instances up in it by hash. As a join, or with EXISTS, one or
    # another database would compare every event with every other in the worst case.
    held_back = select(_other.c.instance_id).where(_other.c.due_at > now)
    return (
        select(outbox.c.instance_id)
        .where(outbox.c.due_at <= now, outbox.c.instance_id.not_in(held_back))
        .order_by(outbox.c.due_at, outbox.c.instance_id, outbox.c.seq, outbox.c.number)
    )


_other = outbox.alias("other")
_held_back = select(func.count()).select_from(
    select(outbox.c.due_at).where(outbox.c.due_at > bindparam("now")).limit(_MOST_HELD_BACK).subquery()
)


def _is_crowded(connection: Connection, now: Microseconds) -> bool:
    return (connection.execute(_held_back, {"now": now}).scalar() or 0) >= _MOST_HELD_BACK


def next_due(connection: Connection, now: Microseconds) -> Microseconds | None:
    """Return when to claim: ``now`` if something is due, None if nothing will be due by itself."""
    if not _is_crowded(connection, now) and connection.execute(_due(now).limit(1)).first() is not None:
        return now
    return connection.execute(select(func.min(outbox.c.due_at)).where(outbox.c.due_at > now)).scalar()


class _Number(NamedTuple):
    seq: int
    number: int


class _Candidate(NamedTuple):
    seq: int
    number: int
    due_at: Microseconds
    length: int


class _ClaimedRow(NamedTuple):
    instance_id: str
    seq: int
    number: int
    event_id: str
    source: str
    type: str
    subject: str | None
    time: Microseconds
    data: str
    attempts: int
    created_at: Microseconds
    claimed_until: Microseconds


_pending = and_(outbox.c.instance_id == bindparam("instance"), outbox.c.due_at.is_not(None))
_first = select(outbox.c.seq, outbox.c.number).where(_pending).order_by(outbox.c.seq, outbox.c.number).limit(1)
_lock = (
    select(outbox.c.seq)
    .where(
        outbox.c.instance_id == bindparam("instance"),
        outbox.c.seq == bindparam("seq_"),
        outbox.c.number == bindparam("number_"),
        outbox.c.due_at <= bindparam("now"),
    )
    .with_for_update(skip_locked=True)
)
_run = (
    select(outbox.c.seq, outbox.c.number, outbox.c.due_at, func.length(outbox.c.data).label("length"))
    .where(_pending)
    .order_by(outbox.c.seq, outbox.c.number)
    .limit(_LONGEST_RUN)
)
_claim = (
    update(outbox)
    .where(
        _pending,
        outbox.c.due_at <= bindparam("now"),
        or_(
            outbox.c.seq < bindparam("seq_"),
            and_(outbox.c.seq == bindparam("seq_"), outbox.c.number <= bindparam("number_")),
        ),
    )
    .values(claimed_by=bindparam("me"), claimed_until=bindparam("until"), due_at=bindparam("until"))
)
_claimed = (
    select(
        outbox.c.instance_id,
        outbox.c.seq,
        outbox.c.number,
        outbox.c.event_id,
        outbox.c.source,
        outbox.c.type,
        outbox.c.subject,
        outbox.c.time,
        outbox.c.data,
        outbox.c.attempts,
        outbox.c.created_at,
        outbox.c.claimed_until,
    )
    .where(
        outbox.c.due_at == bindparam("until"),
        outbox.c.claimed_by == bindparam("me"),
        outbox.c.claimed_until == bindparam("until"),
    )
    .order_by(outbox.c.instance_id, outbox.c.seq, outbox.c.number)
)


def claim_due(
    connection: Connection, me: str, now: Microseconds, until: Microseconds, limit: int
) -> list[list[Claimed]]:
    """Claim due events: a run of each instance, to be sent one after the other.

    The relayer that holds the first pending event of an instance holds the instance. No other relayer claims anything
    of it before ``until``, or before the whole run is finished.

    Args:
      me: the relayer.
      until: when other relayers may claim what is not finished. Each claim of one relayer must have another value: a
        claim that is repeated with the same value returns what it has claimed before.
      limit: the most instances.
    """
    candidates: Iterable[str] = ()
    if not _is_crowded(connection, now):
        candidates = connection.execute(_due(now).limit(limit * _WINDOW)).scalars().all()
    runs = 0
    for instance_id in dict.fromkeys(candidates):
        runs += _claim_run(connection, me, now, until, instance_id)
        if runs == limit:
            break
    taken: dict[str, list[Claimed]] = {}
    for row in fetch_all(connection, _ClaimedRow, _claimed, {"me": me, "until": until}):
        taken.setdefault(row.instance_id, []).append(Claimed(*row))
    return list(taken.values())


def _claim_run(connection: Connection, me: str, now: Microseconds, until: Microseconds, instance_id: str) -> bool:
    """Claim the first pending events of an instance, unless another relayer does so now."""
    instance = {"instance": instance_id}
    if (first := fetch_first(connection, _Number, _first, instance)) is None:
        return False
    key = instance | {"seq_": first.seq, "number_": first.number, "now": now}
    # The lock of the first event stands for the instance. So a locked instance is skipped, and never one event of it.
    if connection.execute(_lock, key).first() is None:
        return False
    run = list(_limited(fetch_all(connection, _Candidate, _run, instance), now))
    if not run or run[0] != (first.seq, first.number):
        return False
    seq, number = run[-1]
    values = key | {"seq_": seq, "number_": number, "me": me, "until": until}
    if connection.execute(_claim, values).rowcount == len(run):
        return True
    # The database has no row locks, and another relayer was first with some of the events.
    release(connection, me, until, now, instance_id)
    return False


def _limited(rows: Iterable[_Candidate], now: Microseconds) -> Iterable[tuple[int, int]]:
    size = 0
    for seq, number, due_at, length in rows:
        size += length
        if due_at > now or (size > _LARGEST_RUN and size > length):
            return
        yield seq, number


@frozen
class Damaged:
    """An event that would never be sent, and would hold back its instance, because its ``due_at`` is damaged."""

    instance_id: str
    seq: int
    number: int
    event_id: str


class _Key(NamedTuple):
    instance_id: str
    seq: int
    number: int
    event_id: str


_is_damaged = outbox.c.due_at > _NEVER
_damaged = (
    select(outbox.c.instance_id, outbox.c.seq, outbox.c.number, outbox.c.event_id)
    .where(_is_damaged)
    .limit(_DAMAGED_AT_ONCE)
)
_park = (
    update(outbox)
    .where(
        outbox.c.instance_id == bindparam("instance"),
        outbox.c.seq == bindparam("seq_"),
        outbox.c.number == bindparam("number_"),
        _is_damaged,
    )
    .values(
        status=OutboxStatus.INVALID,
        due_at=None,
        claimed_by=None,
        claimed_until=None,
        error=dumps(DAMAGED_DUE),
        finished_at=bindparam("now"),
    )
)


def park_damaged(connection: Connection, now: Microseconds) -> list[Damaged]:
    """Park events whose ``due_at`` is damaged: they become invalid. Returns some; there may be more."""
    parked = [Damaged(*row) for row in fetch_all(connection, _Key, _damaged)]
    for one in parked:
        key = {"instance": one.instance_id, "seq_": one.seq, "number_": one.number}
        connection.execute(_park, key | {"now": now})
    return parked


# -- finishing ---------------------------------------------------------------------------------------------------------

_still_claimed = and_(
    outbox.c.claimed_by == bindparam("me"),
    outbox.c.claimed_until == bindparam("until"),
    outbox.c.due_at.is_not(None),
)
_finish = (
    update(outbox)
    .where(
        outbox.c.instance_id == bindparam("instance"),
        outbox.c.seq == bindparam("seq_"),
        outbox.c.number == bindparam("number_"),
        _still_claimed,
    )
    .values(
        status=bindparam("status_"),
        attempts=outbox.c.attempts + bindparam("tried", type_=Integer),
        due_at=bindparam("due"),
        claimed_by=None,
        claimed_until=None,
        error=bindparam("error_"),
        finished_at=bindparam("finished"),
    )
)
_release = update(outbox).values(claimed_by=None, claimed_until=None, due_at=bindparam("at_once"))


def record_outcome(connection: Connection, me: str, outcome: Outcome, now: Microseconds) -> bool:
    """Record the outcome of a claimed event.

    Returns False, with nothing recorded, if the claim has ended: another relayer sends the event then.
    """
    event = outcome.event
    values = {
        "instance": event.instance_id,
        "seq_": event.seq,
        "number_": event.number,
        "me": me,
        "until": event.claimed_until,
        "status_": outcome.status,
        "tried": int(outcome.was_tried),
        "due": outcome.due_at,
        "error_": None if outcome.error is None else dumps(outcome.error),
        "finished": None if outcome.status is OutboxStatus.PENDING else now,
    }
    return bool(connection.execute(_finish, values).rowcount)


def release(connection: Connection, me: str, until: Microseconds, now: Microseconds, instance_id: str) -> None:
    """Release what is left of a run: it becomes due for any relayer."""
    mine = _release.where(outbox.c.instance_id == bindparam("instance"), _still_claimed)
    connection.execute(mine, {"me": me, "until": until, "at_once": at_once(now), "instance": instance_id})


def release_all(connection: Connection, me: str, now: Microseconds) -> int:
    """Release all claims of a relayer. Returns how many events become due by that."""
    mine = _release.where(outbox.c.due_at.is_not(None), outbox.c.claimed_by == bindparam("me"))
    return connection.execute(mine, {"me": me, "at_once": at_once(now)}).rowcount
