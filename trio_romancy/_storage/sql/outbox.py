"""SQL about the outbox: the events that activities sent, on their way to a broker.

An event is pending until it was sent, or nobody will try any more; then it has no ``due_at``. Events of one instance
go one after the other, in the order of their key. What holds an instance back is a pending event of it whose
``due_at`` lies in the future: it is being sent by somebody, or waits to be tried again. So a relayer takes the first
pending events of an instance that is not held back, and by moving their ``due_at`` to the end of its claim holds the
instance back for all others. If it dies, they are due again then, by themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from attrs import frozen
from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Select,
    and_,
    bindparam,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)

from ..._data.codec import dumps, loads
from ...clock import Microseconds, to_datetime
from ...model import OutboxEvent, OutboxStatus
from .rows import OutboxRow, StoredEvent, fetch_all, fetch_first
from .tables import outbox

DEAD = (OutboxStatus.FAILED, OutboxStatus.INVALID, OutboxStatus.EXPIRED)
"""Nobody tries these any more, unless they are retried by hand."""

_WINDOW = 4
"""Due events that are looked at, for each instance that is wanted: others may take some of them first."""
_MOST_HELD_BACK = 20_000
"""Events that are being sent or wait for their next attempt, above which no others are taken: the broker takes little,
and PostgreSQL could not keep the list of their instances in the memory that it grants by default."""
_LONGEST_RUN = 10
"""The most events of one instance in a claim."""
_LARGEST_RUN = 1024 * 1024
"""Characters of data after which a run ends: a relayer holds them in memory."""

Key = tuple[str, int, int]
"""Instance id, ``seq`` and ``number`` of an event."""


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
    """Those before this one."""
    created_at: Microseconds
    claimed_until: Microseconds


@frozen
class Outcome:
    """What became of a claimed event."""

    event: Claimed
    status: OutboxStatus
    """Pending: it is to be tried again."""
    error: str | None = None
    """Why it was not sent."""
    due_at: Microseconds | None = None
    """When to try it again."""
    was_tried: bool = True
    """Whether it counts as an attempt."""


# -- writing -----------------------------------------------------------------------------------------------------------


def new_row(
    *,
    instance_id: str,
    seq: int,
    number: int,
    event_id: str,
    source: str,
    type: str,
    subject: str | None,
    time: Microseconds,
    data_text: str,
    now: Microseconds,
) -> OutboxRow:
    """A new event, to be sent now. What :func:`insert_outbox` takes."""
    return {
        "instance_id": instance_id,
        "seq": seq,
        "number": number,
        "event_id": event_id,
        "source": source,
        "type": type,
        "subject": subject,
        "time": time,
        "data": data_text,
        "status": OutboxStatus.PENDING,
        "attempts": 0,
        "due_at": now,
        "created_at": now,
    }


def insert_outbox(connection: Connection, rows: Sequence[OutboxRow]) -> None:
    """Store new events. A key that is taken is an error: an instance has one writer."""
    if rows:
        connection.execute(insert(outbox), rows)


# -- claiming ----------------------------------------------------------------------------------------------------------


def _due(now: Microseconds) -> Select[Any]:
    """The due events of instances that nothing holds back, the oldest first."""
    # Every database computes this list once and looks it up by hash. As a join, or with EXISTS, one or the other of
    # them compares every event with every other in the worst case.
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
    """When to look for something to claim: ``now`` if there is something, None if nothing ever is due by itself."""
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
    """Take due events to send: of each instance a run, which must be sent one after the other.

    Whoever has the first pending event of an instance has the instance. Nobody else takes anything of it before
    ``until``, or before the whole run is finished.

    Args:
      me: who claims.
      until: when others may take what is not finished. Different for each claim of one relayer; if a claim is
        repeated with the same, what it has taken already is returned again.
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
    """Take the first pending events of an instance, unless somebody else does so now."""
    instance = {"instance": instance_id}
    if (first := fetch_first(connection, _Number, _first, instance)) is None:
        return False
    key = instance | {"seq_": first.seq, "number_": first.number, "now": now}
    # The lock of the first event is that of the instance. What is skipped is the instance, never the event alone.
    if connection.execute(_lock, key).first() is None:
        return False
    run = list(_limited(fetch_all(connection, _Candidate, _run, instance), now))
    if not run or run[0] != (first.seq, first.number):
        return False
    seq, number = run[-1]
    values = key | {"seq_": seq, "number_": number, "me": me, "until": until}
    if connection.execute(_claim, values).rowcount == len(run):
        return True
    # A database without row locks: somebody else was quicker with some of them.
    hand_back(connection, me, until, now, instance_id)
    return False


def _limited(rows: Iterable[_Candidate], now: Microseconds) -> Iterable[tuple[int, int]]:
    size = 0
    for seq, number, due_at, length in rows:
        size += length
        if due_at > now or (size > _LARGEST_RUN and size > length):
            return
        yield seq, number


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
_release = update(outbox).values(claimed_by=None, claimed_until=None, due_at=bindparam("now"))


def record_outcome(connection: Connection, me: str, outcome: Outcome, now: Microseconds) -> bool:
    """Record what became of a claimed event.

    Returns False, with nothing recorded, if it is no longer claimed by that claim: somebody else sends it then.
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


def hand_back(connection: Connection, me: str, until: Microseconds, now: Microseconds, instance_id: str) -> None:
    """Give up what is left of a run: it is due for anybody."""
    mine = _release.where(outbox.c.instance_id == bindparam("instance"), _still_claimed)
    connection.execute(mine, {"me": me, "until": until, "now": now, "instance": instance_id})


def hand_back_all(connection: Connection, me: str, now: Microseconds) -> int:
    """Give up all claims. Returns how many events are due for anybody by that."""
    mine = _release.where(outbox.c.due_at.is_not(None), outbox.c.claimed_by == bindparam("me"))
    return connection.execute(mine, {"me": me, "now": now}).rowcount


# -- what users see ----------------------------------------------------------------------------------------------------


def list_events(
    connection: Connection,
    *,
    status: OutboxStatus | None,
    instance_id: str | None,
    limit: int,
    after: str | None,
) -> list[OutboxEvent] | None:
    """Events, the oldest first, those of one instance in their order.

    Args:
      after: the id of the event behind which to begin. Returns None if there is no such event.
    """
    order = (outbox.c.created_at, outbox.c.instance_id, outbox.c.seq, outbox.c.number)
    found = select(outbox).order_by(*order).limit(limit)
    if status is not None:
        found = found.where(outbox.c.status == status)
    if instance_id is not None:
        found = found.where(outbox.c.instance_id == instance_id)
    if after is not None:
        last = fetch_first(connection, _Order, select(*order).where(outbox.c.event_id == after).order_by(*order))
        if last is None:
            return None
        found = found.where(_behind(order, last))
    return [_to_event(row) for row in fetch_all(connection, StoredEvent, found)]


class _Order(NamedTuple):
    created_at: Microseconds
    instance_id: str
    seq: int
    number: int


def _behind(columns: Sequence[ColumnElement[Any]], values: Sequence[Any]) -> ColumnElement[bool]:
    """Whether a row comes after those values. Not every database is quick at comparing tuples."""
    (column, *columns), (value, *values) = columns, values
    is_behind = column > literal(value, column.type)
    if not columns:
        return is_behind
    return or_(is_behind, and_(column == literal(value, column.type), _behind(columns, values)))


def _to_event(row: StoredEvent) -> OutboxEvent:
    return OutboxEvent(
        event_id=row.event_id,
        instance_id=row.instance_id,
        source=row.source,
        type=row.type,
        subject=row.subject,
        time=to_datetime(row.time),
        data=loads(row.data),
        status=OutboxStatus(row.status),
        attempts=row.attempts,
        error=None if row.error is None else loads(row.error),
        created_at=to_datetime(row.created_at),
        due_at=None if row.due_at is None else to_datetime(row.due_at),
        finished_at=None if row.finished_at is None else to_datetime(row.finished_at),
    )


_again = update(outbox).values(
    status=OutboxStatus.PENDING,
    attempts=0,
    due_at=bindparam("now"),
    error=None,
    created_at=bindparam("now"),  # its age is counted from here
    finished_at=None,
)


def retry(connection: Connection, event_id: str, now: Microseconds) -> bool:
    """Make a dead event, or one that waits for its next attempt, as if it were new.

    Returns whether there was one. What was sent, or is being sent, is left alone.
    """
    waiting = and_(outbox.c.status == OutboxStatus.PENDING, outbox.c.claimed_by.is_(None))
    again = _again.where(outbox.c.event_id == bindparam("id_"), or_(outbox.c.status.in_(DEAD), waiting))
    return bool(connection.execute(again, {"id_": event_id, "now": now}).rowcount)


def retry_all(connection: Connection, statuses: Sequence[OutboxStatus], now: Microseconds) -> int:
    """Make all dead events of these statuses as if they were new. Returns how many there were."""
    dead = [status for status in statuses if status in DEAD]
    return connection.execute(_again.where(outbox.c.status.in_(dead)), {"now": now}).rowcount


_delete = delete(outbox).where(
    outbox.c.instance_id == bindparam("instance"),
    outbox.c.seq == bindparam("seq_"),
    outbox.c.number == bindparam("number_"),
    outbox.c.finished_at < bindparam("before"),
)


def delete_finished(connection: Connection, statuses: Sequence[OutboxStatus], before: Microseconds, limit: int) -> int:
    """Delete up to that many events of these statuses that were finished before that time.

    Returns how many it found.
    """
    old = select(outbox.c.instance_id, outbox.c.seq, outbox.c.number).where(
        outbox.c.status.in_(statuses), outbox.c.finished_at < before
    )
    keys = connection.execute(old.limit(limit)).all()
    rows = [{"instance": key[0], "seq_": key[1], "number_": key[2], "before": before} for key in keys]
    if rows:
        connection.execute(_delete, rows)
    return len(rows)
