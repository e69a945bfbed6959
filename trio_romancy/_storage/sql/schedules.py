"""SQL about schedules: storing them, pausing them and finding them. Their occurrences are in :mod:`.occurrences`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import Any

from attrs import frozen
from sqlalchemy import Connection, bindparam, delete, select, update

from ..._data.codec import dumps
from ..._schedules.rules import Rules
from ...clock import Microseconds
from ..dialects.sql import insert_if_absent
from .rows import ScheduleRow, StoredOccurrence, StoredSchedule, fetch_all, fetch_first
from .tables import occurrences, schedules


class PauseKind(StrEnum):
    """Cause of the pause of a schedule."""

    BY_HAND = "by_hand"
    ON_FAILURE = "on_failure"
    UNDECLARED = "undeclared"
    """No app declares it any more."""


class OccurrenceState(StrEnum):
    """State of a row about an occurrence. One that has ended has no row."""

    STARTED = "started"
    BUFFERED = "buffered"
    SKIPPED = "skipped"
    ASKED = "asked"
    """To be skipped when it is due."""


_locked = select(schedules).where(schedules.c.name == bindparam("name_")).with_for_update()


def lock(connection: Connection, name: str) -> StoredSchedule | None:
    """Return a schedule, and keep other transactions from changing it; None if there is no such schedule."""
    return fetch_first(connection, StoredSchedule, _locked, {"name_": name})


@frozen
class NewSchedule:
    """A schedule as the code gives it."""

    name: str
    workflow: str
    input: str
    """JSON text."""
    rules: Rules


def put(connection: Connection, new: NewSchedule, now: Microseconds, *, is_declared: bool) -> None:
    """Store a schedule, or change it. One that stays as it is keeps its next occurrence, whenever that is due.

    After a change of its times, an occurrence that is due already still fires. One that was paused because no app had
    declared it goes on.
    """
    row: ScheduleRow = {
        "name": new.name,
        "workflow": new.workflow,
        "input": new.input,
        "rules": new.rules.to_text(),
        "is_declared": is_declared,
        "next_at": new.rules.calendar.next_after(now),
        "fires_at": None,
        "last_at": None,
        "paused": None,
        "paused_at": None,
        "pause_kind": None,
        "revision": 0,
        "updated_at": now,
    }
    if row["next_at"] is not None:
        row["fires_at"] = new.rules.fires_at(new.name, row["next_at"])
    found = lock(connection, new.name)
    if found is None:
        connection.execute(insert_if_absent(schedules), row)
        found = lock(connection, new.name)
        assert found is not None
    paused_at, next_at = found.paused_at, found.next_at
    if paused_at is not None and found.pause_kind == PauseKind.UNDECLARED and is_declared:
        paused_at = next_at = None
    held = _readable_rules(found)
    is_due = next_at is not None and next_at <= now
    if next_at is None or held is None or not (is_due or held.has_times_of(new.rules)):
        next_at = row["next_at"]
    is_same = (found.workflow, found.input, found.rules) == (new.workflow, new.input, row["rules"])
    if is_same and paused_at == found.paused_at and bool(found.is_declared) == is_declared:
        return
    changed: dict[str, Any] = {
        "workflow": row["workflow"],
        "input": row["input"],
        "rules": row["rules"],
        "is_declared": is_declared,
    }
    changed |= {"next_at": next_at, "updated_at": now, "revision": found.revision + 1}
    changed["fires_at"] = None
    if paused_at is None:
        changed |= {"paused": None, "paused_at": None, "pause_kind": None}
        if next_at is not None:
            changed["fires_at"] = new.rules.fires_at(new.name, next_at)
    connection.execute(update(schedules).where(schedules.c.name == new.name).values(changed))


def declare(
    connection: Connection, declared: Sequence[NewSchedule], workflows: Collection[str], now: Microseconds
) -> list[str]:
    """Store the schedules that an app declares, and pause those that no app declares any more.

    Args:
      workflows: the workflows of this process. Schedules of other workflows are those of other programs.

    Returns the names of the schedules that were paused.
    """
    for new in sorted(declared, key=lambda one: one.name):
        put(connection, new, now, is_declared=True)
    names = {new.name for new in declared}
    found = select(schedules.c.name, schedules.c.workflow).where(
        schedules.c.is_declared.is_(True), schedules.c.paused_at.is_(None)
    )
    missing = sorted(
        name for name, workflow in connection.execute(found) if name not in names and workflow in workflows
    )
    for name in missing:
        pause(connection, name, "no app declares it any more", now, PauseKind.UNDECLARED)
    return missing


def pause(
    connection: Connection, name: str, reason: str, now: Microseconds, kind: PauseKind = PauseKind.BY_HAND
) -> bool | None:
    """Pause a schedule. Returns whether it was not paused before; None if there is no such schedule."""
    row = lock(connection, name)
    if row is None:
        return None
    if row.paused_at is not None and row.pause_kind == PauseKind.BY_HAND:
        return False
    values = {"fires_at": None, "paused": dumps(reason), "paused_at": now, "pause_kind": kind}
    _change(connection, row, now, values)
    return row.paused_at is None


def resume(connection: Connection, name: str, now: Microseconds) -> bool | None:
    """Let a paused schedule go on with the next occurrence from now on. Returns whether it was paused."""
    row = lock(connection, name)
    if row is None:
        return None
    if row.paused_at is None:
        return False
    rules = Rules.from_text(row.rules)
    next_at = rules.calendar.next_after(now)
    fires_at = None if next_at is None else rules.fires_at(name, next_at)
    values = {"next_at": next_at, "fires_at": fires_at, "paused": None, "paused_at": None, "pause_kind": None}
    _change(connection, row, now, values)
    return True


def _change(connection: Connection, row: StoredSchedule, now: Microseconds, values: dict[str, Any]) -> None:
    values |= {"revision": row.revision + 1, "updated_at": now}
    connection.execute(update(schedules).where(schedules.c.name == row.name).values(values))


def remove(connection: Connection, name: str) -> bool:
    """Delete a schedule, and what is known of its occurrences. Returns whether there was one."""
    lock(connection, name)
    connection.execute(delete(occurrences).where(occurrences.c.schedule == name))
    return bool(connection.execute(delete(schedules).where(schedules.c.name == name)).rowcount)


@frozen
class Found:
    """A schedule, and what is known of its occurrences."""

    row: StoredSchedule
    rules: Rules | None
    """None: they are damaged."""
    running: Sequence[str] = ()
    buffered: int = 0
    asked: frozenset[Microseconds] = frozenset()


def find(connection: Connection, name: str | None = None) -> list[Found]:
    """Return one schedule, or all in the order of their names."""
    query = select(schedules).order_by(schedules.c.name)
    details = select(occurrences).where(occurrences.c.state != OccurrenceState.SKIPPED)
    if name is not None:
        query, details = query.where(schedules.c.name == name), details.where(occurrences.c.schedule == name)
    known: dict[str, list[StoredOccurrence]] = {}
    for one in fetch_all(connection, StoredOccurrence, details.order_by(occurrences.c.due_at)):
        known.setdefault(one.schedule, []).append(one)
    return [_found(row, known.get(row.name, [])) for row in fetch_all(connection, StoredSchedule, query)]


def _found(row: StoredSchedule, known: Sequence[StoredOccurrence]) -> Found:
    running = [one.instance_id for one in known if one.instance_id is not None]
    buffered = sum(one.state == OccurrenceState.BUFFERED for one in known)
    asked = frozenset(one.due_at for one in known if one.state == OccurrenceState.ASKED)
    return Found(row, _readable_rules(row), running, buffered, asked)


def _readable_rules(row: StoredSchedule) -> Rules | None:
    try:
        rules = Rules.from_text(row.rules)
        _ = rules.calendar
    except (KeyError, TypeError, ValueError):
        return None
    return rules
