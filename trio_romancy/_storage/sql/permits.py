"""SQL about permits of limits: taking and freeing them, and calling the attempts that wait for them.

Every transaction locks the rows of the keys it touches before it writes to instances, and in the order of the keys. So
what one has taken or freed is seen by the next, and no permit is counted twice. Nothing is counted by reading rows.

An attempt that does not get its permits waits in the order of its first request. The first of those that wait are
called as soon as they fit: their instances become due, and the attempts ask again. Only a called attempt, or one that
finds no other waiting, is given permits. One that is called and does not come, because no worker runs its instance, is
passed over by the others, and keeps its place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from attrs import define
from sqlalchemy import (
    BigInteger,
    Connection,
    and_,
    bindparam,
    case,
    delete,
    insert,
    select,
    update,
)

from ..._tasks.fast_frozen import frozen
from ...clock import Microseconds, at_once
from ..dialects import notify_workers
from ..dialects.sql import insert_if_absent
from .rows import fetch_all, fetch_by_ids, fetch_first
from .statuses import UNENDED
from .tables import instances, limit_keys, limit_waits, limits, permits

Key = tuple[str, str]
"""Name of a limit, and a key of it; empty if the limit has no keys."""

LEAD: Microseconds = 500_000
"""How long before an attempt may begin, as the rate says, its permits may be taken."""
_COME_WITHIN: Microseconds = 5_000_000
"""Time in which an attempt that is called must ask again. Then others go first."""
_MARGIN = 20
"""The distance between two attempts is longer than the rate says by this part: so late may one begin."""
_LEAST_MARGIN: Microseconds = 10_000
_CALLED = 50
"""The most attempts to call at once."""
_SWEPT = 100
"""The most attempts to pass over at once."""


class Want(NamedTuple):
    """What an attempt needs of one limit."""

    name: str
    key: str
    cost: int


@frozen
class Answer:
    """The answer to a request for permits."""

    is_granted: bool
    at: Microseconds | None
    """When the attempt may begin, or when to ask again; None: the attempt is called."""
    name: str = ""
    """The limit that holds the attempt back."""
    key: str = ""
    margin: Microseconds | None = None
    """How late the attempt may begin; None: as late as it likes."""


@define(eq=False)
class Permits:
    """The permits of one attempt, or its place among those that wait."""

    instance_id: str
    operation_id: str
    wants: Sequence[Want]
    may_be_held: bool = False
    """Whether they were given, or a request for them has not been answered."""
    is_free: bool = False
    """Whether it is durable that they are free."""


@define(eq=False)
class PermitRequest:
    """A request of one attempt for all the permits that the attempt needs."""

    permits: Permits
    lead: Microseconds = 0
    """How long from now the attempt can begin at the earliest."""
    answer: Answer | None = None
    """Set by the transaction."""
    failure: Exception | None = None


class StoredLimit(NamedTuple):
    """A limit."""

    name: str
    concurrent: int | None
    rate: int | None
    period: Microseconds | None
    burst: int | None
    is_set: bool
    paused_until: Microseconds | None
    pause_reason: str | None
    updated_at: Microseconds


class _StoredKey(NamedTuple):
    taken: int
    next_at: Microseconds


class _Permit(NamedTuple):
    instance_id: str
    operation_id: str
    name: str
    limit_key: str
    cost: int


class _Wait(NamedTuple):
    instance_id: str
    operation_id: str
    name: str
    limit_key: str
    cost: int
    since: Microseconds
    called_at: Microseconds | None
    is_passed: bool


class _Waiting(NamedTuple):
    instance_id: str
    operation_id: str
    cost: int
    called_at: Microseconds | None
    owner: str | None
    status: str | None


@define(eq=False)
class _KeyState:
    """What is taken of a key, in a transaction that has locked its row."""

    name: str
    key: str
    taken: int
    next_at: Microseconds
    limit: StoredLimit | None
    has_waiting: bool | None = None
    """Whether some attempt waits that must go first; None: that has not been looked up."""
    is_changed: bool = False

    @property
    def distance(self) -> Microseconds:
        """Time between two attempts that count one each; 0 without a rate."""
        limit = self.limit
        if limit is None or not limit.rate or not limit.period:
            return 0
        return max(limit.period * (_MARGIN + 1) // (limit.rate * _MARGIN), 1)

    def slot(self, now: Microseconds) -> Microseconds:
        """Return when the rate allows the next attempt."""
        burst = 1 if self.limit is None else self.limit.burst or 1
        return max(self.next_at - (burst - 1) * self.distance, now)

    def is_full(self, taken: int, cost: int) -> bool:
        """Return whether an attempt does not fit beside what is taken."""
        most = None if self.limit is None else self.limit.concurrent
        return most is not None and (most <= 0 or (taken > 0 and taken + cost > most))


_limits = select(limits).where(limits.c.name.in_(bindparam("ids", expanding=True)))
_is_key = and_(limit_keys.c.name == bindparam("name_"), limit_keys.c.limit_key == bindparam("key_"))
_key = select(limit_keys.c.taken, limit_keys.c.next_at).where(_is_key).with_for_update()
_new_key = insert_if_absent(limit_keys)
_set_key = update(limit_keys).where(_is_key).values(taken=bindparam("taken_"), next_at=bindparam("next_"))

_permit_columns = [permits.c[name] for name in _Permit._fields]
_permits_of = select(*_permit_columns).where(permits.c.instance_id.in_(bindparam("ids", expanding=True)))
_permits_at = select(*_permit_columns).where(permits.c.worker_id == bindparam("worker"))
_new_permit = insert(permits)
_free_permit = delete(permits).where(
    permits.c.instance_id == bindparam("instance"), permits.c.operation_id == bindparam("operation")
)

_wait_columns = [limit_waits.c[name] for name in _Wait._fields]
_waits_of = select(*_wait_columns).where(limit_waits.c.instance_id.in_(bindparam("ids", expanding=True)))
_new_wait = insert(limit_waits)
_is_wait = and_(
    limit_waits.c.instance_id == bindparam("instance"), limit_waits.c.operation_id == bindparam("operation")
)
_end_wait = delete(limit_waits).where(_is_wait)
_set_called = update(limit_waits).where(_is_wait).values(called_at=bindparam("at"), is_passed=False)
_pass_over = update(limit_waits).where(_is_wait).values(is_passed=True)
_at_key = and_(
    limit_waits.c.name == bindparam("name_"),
    limit_waits.c.limit_key == bindparam("key_"),
    limit_waits.c.is_passed.is_(False),
)
_first_waiting = select(limit_waits.c.since).where(_at_key).limit(1)
_waiting = (
    select(
        limit_waits.c.instance_id,
        limit_waits.c.operation_id,
        limit_waits.c.cost,
        limit_waits.c.called_at,
        instances.c.owner,
        instances.c.status,
    )
    .select_from(limit_waits.outerjoin(instances, limit_waits.c.instance_id == instances.c.instance_id))
    .where(_at_key)
    .order_by(limit_waits.c.since, limit_waits.c.instance_id, limit_waits.c.operation_id)
    .limit(bindparam("most", type_=BigInteger()))
)
_overdue = (
    select(*_wait_columns)
    .where(limit_waits.c.called_at < bindparam("before"), limit_waits.c.is_passed.is_(False))
    .limit(_SWEPT)
)
_when = bindparam("when_", type_=BigInteger())
_call = (
    update(instances)
    .where(instances.c.instance_id == bindparam("instance"), instances.c.status.in_(UNENDED))
    .values(wake_at=case((instances.c.wake_at < _when, instances.c.wake_at), else_=_when))
)


class KeyStates:
    """The keys of a transaction that takes or frees permits, whose rows it has locked.

    Args:
      keys: all keys that the transaction may touch.
    """

    def __init__(self, connection: Connection, keys: Iterable[Key], now: Microseconds) -> None:
        self._connection = connection
        self._now = now
        self._states: dict[Key, _KeyState] = {}
        self._touched: set[Key] = set()
        """Keys of which other attempts may get permits now."""
        self.owners: set[str | None] = set()
        """Owners of the instances that were called; None: any worker."""
        ordered = sorted(set(keys))
        found = fetch_by_ids(connection, StoredLimit, _limits, sorted({name for name, _ in ordered}))
        by_name = {limit.name: limit for limit in found}
        for name, key in ordered:
            values = {"name_": name, "key_": key}
            row = fetch_first(connection, _StoredKey, _key, values)
            if row is None:
                connection.execute(_new_key, {"name": name, "limit_key": key, "taken": 0, "next_at": 0})
                row = fetch_first(connection, _StoredKey, _key, values)
                assert row is not None
            self._states[name, key] = _KeyState(name, key, row.taken, row.next_at, by_name.get(name))

    def touch_all(self) -> None:
        """Have the attempts called that fit, of all keys."""
        self._touched.update(self._states)

    def free(self, freed: Sequence[Permits]) -> None:
        """Free permits, and end waits, of attempts that need them no longer. What is free already is left so."""
        ids = sorted({one.instance_id for one in freed})
        held = fetch_by_ids(self._connection, _Permit, _permits_of, ids)
        operations = {(one.instance_id, one.operation_id) for one in freed}
        self.free_rows([row for row in held if (row.instance_id, row.operation_id) in operations])
        waits = fetch_by_ids(self._connection, _Wait, _waits_of, ids)
        for wait in waits:
            if (wait.instance_id, wait.operation_id) in operations:
                self._end_wait(wait)

    def free_rows(self, rows: Sequence[_Permit]) -> None:
        """Free these permits."""
        if not rows:
            return
        for row in rows:
            if (state := self._states.get((row.name, row.limit_key))) is not None:
                state.taken = max(state.taken - row.cost, 0)
                state.is_changed = True
                self._touched.add((row.name, row.limit_key))
        operations = sorted({(row.instance_id, row.operation_id) for row in rows})
        values = [{"instance": instance, "operation": one} for instance, one in operations]
        self._connection.execute(_free_permit, values)

    def _end_wait(self, wait: _Wait) -> None:
        values = {"instance": wait.instance_id, "operation": wait.operation_id}
        self._connection.execute(_end_wait, values)
        if (wait.name, wait.limit_key) in self._states:
            self._touched.add((wait.name, wait.limit_key))

    def take(self, requests: Sequence[PermitRequest], worker_id: str) -> None:
        """Answer requests: each gets all the permits it wants, or none and a place among those that wait."""
        ids = sorted({request.permits.instance_id for request in requests})
        held: dict[tuple[str, str], list[_Permit]] = {}
        for row in fetch_by_ids(self._connection, _Permit, _permits_of, ids):
            held.setdefault((row.instance_id, row.operation_id), []).append(row)
        waits = {
            (wait.instance_id, wait.operation_id): wait
            for wait in fetch_by_ids(self._connection, _Wait, _waits_of, ids)
        }
        for request in requests:
            of = request.permits.instance_id, request.permits.operation_id
            mine = held.get(of, [])
            request.answer = self._answer(request, worker_id, {row.name for row in mine}, waits.get(of))
            if not request.answer.is_granted:
                self.free_rows(mine)  # of an earlier run of the same attempt: what waits holds nothing

    def _answer(self, request: PermitRequest, worker_id: str, held: Collection[str], wait: _Wait | None) -> Answer:
        begin_at = earliest = self._now + request.lead
        margin: Microseconds | None = None
        for want in request.permits.wants:
            state = self._states[want.name, want.key]
            is_here = wait is not None and (wait.name, wait.limit_key) == (want.name, want.key)
            goes_first = want.name in held or (
                wait is not None and (wait.called_at is not None or wait.is_passed)
                if is_here
                else not self._has_waiting(state)
            )
            slot = state.slot(earliest)
            is_full = want.name not in held and state.is_full(state.taken, want.cost)
            if goes_first and not is_full and slot > earliest + LEAD:
                if not is_here:
                    self._wait(request, want, wait)
                return Answer(False, slot - LEAD, want.name, want.key)
            if is_full or not goes_first:
                self._wait(request, want, wait)
                return Answer(False, None, want.name, want.key)
            if state.limit is not None and state.limit.period is not None and state.distance:
                begin_at = max(begin_at, slot)
                allowed = max(state.limit.period // _MARGIN, _LEAST_MARGIN)
                margin = allowed if margin is None else min(margin, allowed)
        taken = [want for want in request.permits.wants if want.name not in held]
        for want in request.permits.wants:
            state = self._states[want.name, want.key]
            if state.distance:
                state.next_at = max(state.next_at, begin_at) + state.distance * want.cost
                state.is_changed = True
            if want in taken and state.limit is not None and state.limit.concurrent is not None:
                state.taken += want.cost
                state.is_changed = True
        rows = [
            {
                "instance_id": request.permits.instance_id,
                "operation_id": request.permits.operation_id,
                "name": want.name,
                "limit_key": want.key,
                "cost": want.cost,
                "worker_id": worker_id,
                "taken_at": self._now,
            }
            for want in taken
            if (limit := self._states[want.name, want.key].limit) is not None and limit.concurrent is not None
        ]
        if rows:
            self._connection.execute(_new_permit, rows)
        if wait is not None:
            self._end_wait(wait)
        return Answer(True, begin_at, margin=margin)

    def _has_waiting(self, state: _KeyState) -> bool:
        if state.has_waiting is None:
            values = {"name_": state.name, "key_": state.key}
            state.has_waiting = self._connection.execute(_first_waiting, values).first() is not None
        return state.has_waiting

    def _wait(self, request: PermitRequest, want: Want, wait: _Wait | None) -> None:
        """Have an attempt wait for one of its limits. Its place is that of its first request."""
        of = {"instance": request.permits.instance_id, "operation": request.permits.operation_id}
        if wait is not None and (wait.name, wait.limit_key) == (want.name, want.key):
            self._connection.execute(_set_called, of | {"at": None})
        else:
            if wait is not None:
                self._end_wait(wait)
            row = {
                "instance_id": request.permits.instance_id,
                "operation_id": request.permits.operation_id,
                "name": want.name,
                "limit_key": want.key,
                "cost": want.cost,
                "since": self._now if wait is None else wait.since,
                "called_at": None,
                "is_passed": False,
            }
            self._connection.execute(_new_wait, row)
        self._states[want.name, want.key].has_waiting = True
        self._touched.add((want.name, want.key))

    def finish(self) -> bool:
        """Store what has changed, and call the attempts that fit now. Returns whether any was called.

        Writes to the instances of other workers: the transaction must have written to its own before.
        """
        for name_key in sorted(self._touched):
            self._call_first(self._states[name_key])
        changed = [
            {"name_": one.name, "key_": one.key, "taken_": one.taken, "next_": one.next_at}
            for one in self._states.values()
            if one.is_changed
        ]
        if changed:
            self._connection.execute(_set_key, changed)
        if self.owners:
            notify_workers(self._connection, self.owners)
        return bool(self.owners)

    def _call_first(self, state: _KeyState) -> None:
        if state.is_full(0, 1):
            return
        values = {"name_": state.name, "key_": state.key, "most": _CALLED}
        taken, slot = state.taken, state.slot(self._now)
        for row in fetch_all(self._connection, _Waiting, _waiting, values):
            of = {"instance": row.instance_id, "operation": row.operation_id}
            if row.status is None or row.status not in UNENDED:
                self._connection.execute(_end_wait, of)  # nothing will ask for it any more
                continue
            if state.is_full(taken, row.cost):
                return
            later = slot - LEAD if slot > self._now + LEAD else None
            if row.called_at is None:
                self._connection.execute(_set_called, of | {"at": later or self._now})
                when = at_once(self._now) if later is None else later
                self._connection.execute(_call, {"instance": row.instance_id, "when_": when})
                self.owners.add(row.owner)
            if later is not None:
                return
            taken, slot = taken + row.cost, slot + state.distance * row.cost


def free_permits_of_worker(connection: Connection, worker_id: str, now: Microseconds) -> None:
    """Free all permits of a worker whose lease ends. The transaction must not have written to instances before."""
    rows = fetch_all(connection, _Permit, _permits_at, {"worker": worker_id})
    if rows:
        states = KeyStates(connection, [(row.name, row.limit_key) for row in rows], now)
        states.free_rows(rows)
        states.finish()


def has_late(connection: Connection, now: Microseconds) -> bool:
    """Return whether :func:`pass_over` has something to do."""
    return connection.execute(_overdue, {"before": now - _COME_WITHIN}).first() is not None


def pass_over(connection: Connection, now: Microseconds) -> None:
    """Let others go first before attempts that were called and have not come."""
    rows = fetch_all(connection, _Wait, _overdue, {"before": now - _COME_WITHIN})
    if not rows:
        return
    states = KeyStates(connection, [(row.name, row.limit_key) for row in rows], now)
    connection.execute(_pass_over, [{"instance": row.instance_id, "operation": row.operation_id} for row in rows])
    states.touch_all()
    states.finish()
