"""SQL about the occurrences of schedules: one transaction fires what is due, whichever worker comes first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import define, field, frozen
from sqlalchemy import BigInteger, Connection, bindparam, delete, func, insert, or_, select, update

from ..._data.codec import dumps
from ..._schedules.firing import Skip, decide
from ..._schedules.rules import Rules
from ...clock import Microseconds, to_datetime
from ...model import Overlap, SkipReason, Status
from ..dialects import notify_workers
from .chains import last_of
from .instances import conflict_with, insert_instances_if_absent, new_row
from .lock_order import chunks
from .messages import last_message
from .rows import InstanceRow, OccurrenceRow, StoredOccurrence, StoredSchedule, fetch_all, fetch_first
from .schedules import OccurrenceState, PauseKind, lock
from .statuses import read_status
from .steering import request_cancel
from .tables import instances, occurrences, schedules

_KEEP_SKIPPED: Microseconds = 30 * 86_400 * 1_000_000
"""Time for which a skipped occurrence is kept."""
_AT_ONCE = 100
"""Most rows of one kind to act on in one transaction."""


@frozen
class Fired:
    """An occurrence that was started."""

    due: Microseconds
    instance_id: str
    jitter: Microseconds = 0
    """How much later than its time it was to start."""


@frozen
class Failed:
    """An instance of a schedule that has failed."""

    due: Microseconds
    instance_id: str
    pauses: bool
    """Whether the schedule was paused for that."""


@define
class Advance:
    """What one transaction has done for a schedule."""

    name: str
    workflow: str
    now: Microseconds
    fired: list[Fired] = field(factory=list)
    skipped: list[Skip] = field(factory=list)
    failed: list[Failed] = field(factory=list)
    has_ended: bool = False
    """Whether instances were noticed to have ended."""
    has_cancelled: bool = False
    """Whether instances were asked to end, for the next occurrence."""
    has_moved: bool = False
    """Whether the schedule has another next occurrence now."""

    @property
    def has_changed(self) -> bool:
        """Whether anything was done."""
        return bool(self.fired or self.skipped or self.has_ended or self.has_moved)


def occurrence_id(name: str, due: Microseconds) -> str:
    """Return the id of the instance for an occurrence of a schedule."""
    return f"{name}@{to_datetime(due).isoformat().replace('+00:00', 'Z')}"


# -- what is due -------------------------------------------------------------------------------------------------------

_next_firing = select(func.min(schedules.c.fires_at)).where(schedules.c.fires_at.is_not(None))
_due = (
    select(schedules.c.name)
    .where(schedules.c.fires_at <= bindparam("now"))
    .order_by(schedules.c.fires_at)
    .limit(_AT_ONCE)
)
_started = select(occurrences.c.schedule, occurrences.c.instance_id).where(
    occurrences.c.state == OccurrenceState.STARTED
)
_waiting = (
    select(occurrences.c.schedule)
    .join(schedules, schedules.c.name == occurrences.c.schedule)
    .where(occurrences.c.state == OccurrenceState.BUFFERED, schedules.c.paused_at.is_(None))
    .distinct()
)


@frozen
class Outlook:
    """What there is to do for schedules, now and later."""

    due: Sequence[str]
    """Names of the schedules to advance now."""
    next_firing: Microseconds | None
    """When the next schedule fires; None: none does."""
    running: frozenset[str]
    """Ids of the instances of schedules that have not ended, each the last of its chain."""


def look(connection: Connection, now: Microseconds) -> Outlook:
    """Return what there is to do for schedules."""
    next_firing: Microseconds | None = connection.execute(_next_firing).scalar()
    if not isinstance(next_firing, int):
        next_firing = None  # SQLite sorts a damaged one after all others
    due: list[str] = []
    if next_firing is not None and next_firing <= now:
        due += connection.execute(_due, {"now": now}).scalars()
    running, ended = _ends(connection, [(row.schedule, row.instance_id) for row in connection.execute(_started)])
    due += [schedule for schedule, _, _ in ended]
    busy = {schedule for schedule, _ in running}
    due += [name for name in connection.execute(_waiting).scalars() if name not in busy]
    return Outlook(list(dict.fromkeys(due)), next_firing, frozenset(id for _, id in running))


def _ends(
    connection: Connection, started: Sequence[tuple[str, str]]
) -> tuple[list[tuple[str, str]], list[tuple[str, str, Status | None]]]:
    """Tell apart the instances that run and those that have ended.

    Args:
      started: pairs of any key, and the id of an instance.

    Returns those that run, by the id of the last one of the chain; and those that have ended, by the id they were
    started under, with the status in which the chain has ended. That is None if the instance was deleted.
    """
    statuses: dict[str, Status] = {}
    for ids in chunks({id for _, id in started}):
        found = select(instances.c.instance_id, instances.c.status).where(instances.c.instance_id.in_(ids))
        statuses |= {id: read_status(status) for id, status in connection.execute(found)}
    running, ended = [], []
    for key, id in started:
        status, last = statuses.get(id), id
        if status is Status.RECURRED:
            last = last_of(connection, id) or id
            found = select(instances.c.status).where(instances.c.instance_id == last)
            status = read_status(connection.execute(found).scalar_one())
        if status is None or status.is_final:
            ended.append((key, id, status))
        else:
            running.append((key, last))
    return running, ended


# -- firing ------------------------------------------------------------------------------------------------------------

_locked_if_free = select(schedules).where(schedules.c.name == bindparam("name_")).with_for_update(skip_locked=True)
_open_occurrences = (
    select(occurrences)
    .where(occurrences.c.schedule == bindparam("name_"), occurrences.c.state != OccurrenceState.SKIPPED)
    .order_by(occurrences.c.due_at)
)
_advance = (
    update(schedules)
    .where(schedules.c.name == bindparam("name_"), schedules.c.revision == bindparam("revision_"))
    .values(
        next_at=bindparam("next_"),
        fires_at=bindparam("fires_"),
        last_at=bindparam("last_"),
        paused=bindparam("reason_"),
        paused_at=bindparam("since_"),
        pause_kind=bindparam("kind_"),
        revision=schedules.c.revision + 1,
        updated_at=bindparam("now_"),
    )
)
_forget = delete(occurrences).where(
    occurrences.c.schedule == bindparam("name_"), occurrences.c.due_at == bindparam("due_")
)
_forget_skipped = delete(occurrences).where(
    occurrences.c.schedule == bindparam("name_"),
    occurrences.c.state == OccurrenceState.SKIPPED,
    occurrences.c.recorded_at < bindparam("before_"),
)
_next = bindparam("next_", type_=BigInteger())
_forget_asked = delete(occurrences).where(
    occurrences.c.schedule == bindparam("name_"),
    occurrences.c.state == OccurrenceState.ASKED,
    or_(occurrences.c.due_at < _next, _next.is_(None)),
)


def advance(connection: Connection, name: str, now: Microseconds) -> Advance | None:
    """Fire what is due of a schedule, start what has waited, and note what has ended, all in this transaction.

    The row of the schedule is locked, and its revision is raised. So each occurrence is decided about once, whichever
    workers try; on a cluster that certifies writes only (Galera), the second one has to repeat its transaction.

    Returns None if there is no such schedule, or if another worker is about to do the same.
    """
    row = fetch_first(connection, StoredSchedule, _locked_if_free, {"name_": name})
    if row is None:
        return None
    rules = Rules.from_text(row.rules)
    done = Advance(name, row.workflow, now)
    known = fetch_all(connection, StoredOccurrence, _open_occurrences, {"name_": name})
    started = {one.instance_id: one.due_at for one in known if one.state == OccurrenceState.STARTED}
    running, ended = _ends(connection, [("", id) for id in started if id is not None])
    pause: tuple[str | None, Microseconds | None, str | None] = row.paused, row.paused_at, row.pause_kind
    for _, id, status in ended:
        done.has_ended = True
        connection.execute(_forget, {"name_": name, "due_": started[id]})
        if status is Status.FAILED:
            pauses = rules.pause_on_failure and pause[1] is None
            if pauses:
                pause = dumps(f"instance {id!r} has failed"), now, PauseKind.ON_FAILURE
            done.failed.append(Failed(started[id], id, pauses))
    next_at, last_at = row.next_at, row.last_at
    if pause[1] is None:
        buffered = [one.due_at for one in known if one.state == OccurrenceState.BUFFERED]
        free = len(buffered) if rules.overlap is Overlap.ALLOW_ALL else int(not running)
        first = buffered[: min(free, _AT_ONCE)]
        for when in first:
            connection.execute(_forget, {"name_": name, "due_": when})
        count = len(running) + _start(connection, row, rules, first, done)
        if next_at is not None:
            asked = {one.due_at for one in known if one.state == OccurrenceState.ASKED}
            waiting = buffered[len(first) :]
            decision = decide(name, rules, next_at, now, running=count, buffered=waiting, asked=asked)
            next_at = decision.next_at
            done.has_moved = next_at != row.next_at
            if decision.cancels:
                done.has_cancelled = True
                for _, id in running:
                    request_cancel(connection, id, f"the next occurrence of schedule {name!r} is due", now)
            _start(connection, row, rules, decision.starts, done)
            _put(connection, name, OccurrenceState.BUFFERED, decision.buffers, now)
            done.skipped += decision.skips
            if any(next_at is None or when < next_at for when in asked):
                connection.execute(_forget_asked, {"name_": name, "next_": next_at})
        _skip(connection, name, done.skipped, now)
        last_at = max([one.due for one in done.fired if one.due <= now], default=last_at)
    fires_at = None if next_at is None or pause[1] is not None else rules.fires_at(name, next_at)
    values: dict[str, Any] = {"next_": next_at, "fires_": fires_at, "last_": last_at, "now_": now}
    values |= zip(("reason_", "since_", "kind_"), pause, strict=True)
    if not connection.execute(_advance, {"name_": name, "revision_": row.revision, **values}).rowcount:
        raise RuntimeError(f"schedule {name!r} was changed although its row was locked")
    if done.fired:
        notify_workers(connection)
    return done


def _start(
    connection: Connection, row: StoredSchedule, rules: Rules, due: Sequence[Microseconds], done: Advance
) -> int:
    """Start instances for occurrences, for any worker. Returns how many of them have not ended."""
    if not due:
        return 0
    started_after = last_message(connection)
    rows: list[InstanceRow] = []
    for when in due:
        new = new_row(occurrence_id(row.name, when), row.workflow, row.input, done.now, owner=None)
        rows.append({**new, "started_after": started_after})
    holders = insert_instances_if_absent(connection, rows)
    running: list[OccurrenceRow] = []
    for new, when in zip(rows, due, strict=True):
        id = new["instance_id"]
        holder = holders[id]
        if conflict_with(new, holder) is not None:
            done.skipped.append(Skip(when, SkipReason.TAKEN))
            continue
        if holder.created_at == done.now:  # otherwise the occurrence was started before
            done.fired.append(Fired(when, id, rules.fires_at(row.name, when) - when))
        running.append(_row(row.name, when, OccurrenceState.STARTED, done.now, instance_id=id))
    if running:
        connection.execute(insert(occurrences), running)
    return len(running)


def _skip(connection: Connection, name: str, skips: Sequence[Skip], now: Microseconds) -> None:
    """Log occurrences that are skipped, in place of what is known of them, and forget old ones."""
    if not skips:
        return
    for skip in skips:
        connection.execute(_forget, {"name_": name, "due_": skip.due})
    rows = [_row(name, skip.due, OccurrenceState.SKIPPED, now, reason=skip.reason, until=skip.until) for skip in skips]
    connection.execute(insert(occurrences), rows)
    connection.execute(_forget_skipped, {"name_": name, "before_": now - _KEEP_SKIPPED})


def _put(
    connection: Connection, name: str, state: OccurrenceState, due: Sequence[Microseconds], now: Microseconds
) -> None:
    if due:
        connection.execute(insert(occurrences), [_row(name, when, state, now) for when in due])


def _row(
    name: str,
    due: Microseconds,
    state: OccurrenceState,
    now: Microseconds,
    *,
    instance_id: str | None = None,
    reason: str | None = None,
    until: Microseconds | None = None,
) -> OccurrenceRow:
    return {
        "schedule": name,
        "due_at": due,
        "state": state,
        "instance_id": instance_id,
        "reason": reason,
        "until": until,
        "recorded_at": now,
    }


# -- steering ---------------------------------------------------------------------------------------------------------


@define
class Trigger:
    """A request to start an instance of a schedule now. It can be made again if its answer was lost."""

    name: str
    now: Microseconds
    chosen: Microseconds | None = None
    """The time that names the instance, once one was tried."""


def trigger(connection: Connection, request: Trigger) -> Fired | None:
    """Start an instance of a schedule, whatever else runs. Returns None if there is no such schedule."""
    name, now = request.name, request.now
    row = lock(connection, name)
    if row is None:
        return None
    due = now if request.chosen is None else request.chosen
    ids = select(instances.c.created_at)
    while True:
        id = occurrence_id(name, due)
        found = connection.execute(ids.where(instances.c.instance_id == id)).scalar()
        if found == now and due == request.chosen:
            return Fired(due, id)
        if found is None and due != row.next_at:
            break
        due += 1
    request.chosen = due
    _start(connection, row, Rules.from_text(row.rules), [due], Advance(name, row.workflow, now))
    notify_workers(connection)
    return Fired(due, id)


def backfill(connection: Connection, name: str, due: Sequence[Microseconds], now: Microseconds) -> int | None:
    """Have past occurrences started, except those that were. Returns how many; None if there is no such schedule."""
    row = lock(connection, name)
    if row is None:
        return None
    rules = Rules.from_text(row.rules)
    ids = {occurrence_id(name, when): when for when in due}
    for some in chunks([*ids]):
        found = select(instances.c.instance_id).where(instances.c.instance_id.in_(some))
        for id in connection.execute(found).scalars():
            del ids[id]
    missing = sorted(ids.values())
    for times in chunks(missing):
        mine = occurrences.c.schedule == name, occurrences.c.due_at.in_(times)
        connection.execute(delete(occurrences).where(*mine))
        if rules.overlap is Overlap.ALLOW_ALL and row.paused_at is None:
            _start(connection, row, rules, times, Advance(name, row.workflow, now))
        else:
            _put(connection, name, OccurrenceState.BUFFERED, times, now)
    notify_workers(connection)
    return len(missing)


def ask_to_skip(connection: Connection, name: str, due: Microseconds, now: Microseconds) -> bool | None:
    """Have an occurrence skipped that is still to come. Returns whether it is; None if there is no such schedule."""
    row = lock(connection, name)
    if row is None:
        return None
    if row.next_at is None or due < row.next_at or Rules.from_text(row.rules).calendar.next_after(due - 1) != due:
        return False
    known = select(occurrences.c.state).where(occurrences.c.schedule == name, occurrences.c.due_at == due)
    if connection.execute(known).first() is None:
        _put(connection, name, OccurrenceState.ASKED, [due], now)
    return True


def skipped(connection: Connection, name: str | None, limit: int) -> Sequence[StoredOccurrence]:
    """Return the last occurrences that were skipped, the newest first.

    Args:
      name: only those of this schedule; None: of all.
    """
    query = select(occurrences).where(occurrences.c.state == OccurrenceState.SKIPPED)
    if name is not None:
        query = query.where(occurrences.c.schedule == name)
    query = query.order_by(occurrences.c.recorded_at.desc(), occurrences.c.due_at.desc()).limit(limit)
    return fetch_all(connection, StoredOccurrence, query)
