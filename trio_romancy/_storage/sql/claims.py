"""SQL about claiming instances, and loading what is needed to run them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from attrs import evolve
from sqlalchemy import BigInteger, Connection, Executable, bindparam, func, or_, select, update

from ..._data.codec import dumps
from ..._data.large import LARGE
from ..._data.readable import readable, why_no_number
from ..._tasks.fast_frozen import frozen
from ...clock import Microseconds, due_since
from ...errors import DataProblem, InvalidDataError
from ...model import Status
from .entries import JournalEntry, RowPage, load_journals, load_page
from .incompatible import MAY_RUN
from .instances import status_problems, unreadable_row
from .rows import StoredEntry, fetch_all, fetch_first
from .statuses import claimed, read_status
from .tables import history, instances
from .waits import MatchResult, match_results, stored_waits
from .wake_ups import IS_CALM, IS_FREE, IS_MINE, NOT_HELD, WakeUp, next_wake, next_wakes

_MOST_ENTRIES = 2_000
_MOST_TEXT = 1_000_000
"""The most entries, and characters of their payloads, to load in the transaction of a claim."""


@frozen
class Claim:
    """An instance as the worker that owns it needs it to run."""

    instance_id: str
    workflow: str
    status: Status
    """The status before the claim."""
    input: str
    """JSON text."""
    created_at: Microseconds
    recoveries: int
    cancel_requested: str | None
    """JSON text of an accepted request to end it: see :class:`.EndRequest`. None without one."""
    started_after: int
    """The number of the last message that was sent before the instance was started."""
    origin: str | None = None
    """The first instance of the chain; None if this is the first."""
    parent_id: str | None = None
    """The instance that started this one as a child."""
    was_mine: bool = False
    """Whether the worker owned the instance before, and another process has made it due."""
    due_at: Microseconds | None = None
    """Time since which the instance has been due; None if it did not have to wait."""
    trace: str | None = None
    """JSON text of the trace context that the instance was started in."""
    problem: InvalidDataError | None = None
    """Why the row of the instance cannot be read, if it cannot."""

    @property
    def child_of_chain(self) -> str | None:
        """The id by which the parent knows the instance: the origin of its chain. None without a parent."""
        return None if self.parent_id is None else self.origin or self.instance_id


@frozen
class ClaimedInstance:
    """A claimed instance, and what was loaded with it."""

    claim: Claim
    rows: Sequence[StoredEntry] | None = None
    """The journal, to be read by :func:`.read_entries`; None if it is large, or in memory."""
    waits: Sequence[MatchResult] = ()
    """The stored waits, and the messages for each."""
    first: JournalEntry | None = None
    """The only entry of an instance that continues another one, if that has recurred here."""


class _Due(NamedTuple):
    instance_id: str
    workflow: str
    status: str
    input: str
    created_at: Microseconds
    recoveries: int
    cancel_requested: str | None
    started_after: int
    origin: str | None
    parent_id: str | None
    due_at: Microseconds
    trace: str | None
    owner: str | None


_claim_columns = (
    instances.c.instance_id,
    instances.c.workflow,
    instances.c.status,
    instances.c.input,
    instances.c.created_at,
    instances.c.recoveries,
    instances.c.cancel_requested,
    instances.c.started_after,
    instances.c.origin,
    instances.c.parent_id,
    instances.c.wake_at.label("due_at"),
    instances.c.trace,
)
_most = bindparam("most", type_=BigInteger())

_due = (
    select(*_claim_columns, instances.c.owner)
    .where(NOT_HELD, instances.c.wake_at <= bindparam("until"), MAY_RUN)
    # Another transaction wakes, or claims, a locked instance. A later claim finds the instance if it is still due.
    .with_for_update(skip_locked=True)
)
_due_of_all = _due.where(instances.c.workflow.in_(bindparam("workflows", expanding=True)))
_due_at_all = _due_of_all.where(or_(IS_MINE, IS_FREE)).limit(_most)
_mine = _due_of_all.where(IS_MINE)
_suspect = _due_of_all.where(IS_FREE, ~IS_CALM).order_by(instances.c.recoveries, instances.c.wake_at).limit(1)
# What is due at once comes first in the index. Each kind is read up to the limit, so that neither waits for the other.
_calm = _due.where(instances.c.workflow == bindparam("workflow"), IS_FREE, IS_CALM)
_calm = _calm.order_by(instances.c.wake_at).limit(_most)
_calm_at_once, _calm_by_time = _calm.where(instances.c.wake_at < 0), _calm.where(instances.c.wake_at >= 0)

_sizes = (
    select(history.c.instance_id, func.count(), func.sum(func.length(history.c.payload)))
    .where(history.c.instance_id.in_(bindparam("ids", expanding=True)))
    .group_by(history.c.instance_id)
)
_own = (
    update(instances)
    .where(instances.c.instance_id == bindparam("id"))
    .values(owner=bindparam("me"), wake_at=None, status=bindparam("status_"), updated_at=bindparam("now"))
)


def claim_due(
    connection: Connection,
    me: str,
    now: Microseconds,
    workflows: Sequence[str],
    limit: int,
    *,
    suspects: bool,
    ahead: Microseconds = 0,
) -> list[Claim]:
    """Claim instances that are due: those without an owner, and the worker's own.

    Args:
      me: the worker.
      workflows: names of the workflows that the worker can run.
      limit: the most instances without an owner to claim.
      suspects: whether to claim an instance whose worker has died more than once. Suspects are claimed one at a time,
        the least suspect first, so that an instance that takes its process down takes no other suspect with it.
      ahead: how many microseconds before it is due an instance may be claimed.
    """
    values = {"me": me, "until": now + ahead, "workflows": workflows, "most": limit + 1}
    rows = fetch_all(connection, _Due, _due_at_all, values)
    if len(rows) > limit:  # there may be more, so choose
        rows = [row for query in (_mine, _suspect) for row in fetch_all(connection, _Due, query, values)]
        wakes = [
            wake for wake in next_wakes(connection, me, workflows, suspects=suspects) if wake.wake_at <= now + ahead
        ]
        wakes.sort(key=lambda wake: due_since(wake.wake_at))
        rows += _longest_due(connection, _calm_at_once, values, wakes, limit)
        rows += _longest_due(connection, _calm_by_time, values, wakes, limit)
        rows.sort(key=_since)
    else:
        rows = sorted(rows, key=lambda row: row.due_at)
    mine = [row for row in rows if row.owner == me]
    calm = [row for row in rows if row.owner is None and _recoveries(row) <= 1][:limit]
    suspect = sorted((row for row in rows if row.owner is None and _recoveries(row) > 1), key=_suspicion)[:1]
    rows = [*mine, *calm, *(suspect if suspects and len(calm) < limit else ())]
    claims = [_to_claim(row, me) for row in rows]
    if claims:
        connection.execute(_own, [_owned_row(row, claim, me, now) for row, claim in zip(rows, claims, strict=True)])
    return claims


def _longest_due(
    connection: Connection, query: Executable, values: Mapping[str, Any], wakes: Sequence[WakeUp], limit: int
) -> list[_Due]:
    """Return instances that are due, from the workflow whose first has been due longest on."""
    rows: list[_Due] = []
    for wake in wakes:
        if len(rows) < limit:
            most = limit - len(rows)
            rows += fetch_all(connection, _Due, query, {**values, "workflow": wake.workflow, "most": most})
    return rows


def _owned_row(row: _Due, claim: Claim, me: str, now: Microseconds) -> dict[str, object]:
    # A status that cannot be read stays until the instance is parked: the worker may die before.
    status = claimed(claim.status) if claim.problem is None else row.status
    return {"id": claim.instance_id, "me": me, "status_": status, "now": now}


def _to_claim(row: _Due, me: str) -> Claim:
    problems, reason = status_problems(row.status), row.cancel_requested
    if reason is not None and readable(reason)[1] is not None:
        reason = dumps(reason if isinstance(reason, str) else None)
    numbers = {"recoveries": row.recoveries, "created_at": row.created_at, "started_after": row.started_after}
    problems += [DataProblem(f"$.{name}", why) for name, value in numbers.items() if (why := why_no_number(value))]
    return Claim(
        row.instance_id,
        row.workflow,
        read_status(row.status),
        row.input,
        row.created_at if why_no_number(row.created_at) is None else 0,
        _recoveries(row),
        reason,
        row.started_after if why_no_number(row.started_after) is None else 0,
        row.origin,
        row.parent_id,
        row.owner == me,
        _since(row),
        None if readable(row.trace)[1] else row.trace,
        unreadable_row(row.instance_id, problems) if problems else None,
    )


def _suspicion(row: _Due) -> tuple[int, Microseconds]:
    return _recoveries(row), _since(row)


def _recoveries(row: _Due) -> int:
    """Return the deaths that the instance has outlived. A damaged number parks it, whatever it is."""
    return row.recoveries if why_no_number(row.recoveries) is None else 0


def _since(row: _Due) -> Microseconds:
    return due_since(row.due_at)


def claim_and_load(
    connection: Connection,
    me: str,
    now: Microseconds,
    workflows: Sequence[str],
    limit: int,
    *,
    suspects: bool,
    ahead: Microseconds = 0,
) -> tuple[list[ClaimedInstance], Microseconds | None]:
    """Claim what is due, as :func:`claim_due` does, and load it. Returns also the :func:`next_wake` after that."""
    claims = claim_due(connection, me, now, workflows, limit, suspects=suspects, ahead=ahead)
    mine = [claim.instance_id for claim in claims if claim.was_mine]
    small = list(_small_ones(connection, [claim.instance_id for claim in claims if not claim.was_mine]))
    journals = load_journals(connection, small)
    waits: dict[str, list[MatchResult]] = {id: [] for id in [*mine, *small]}
    for result in match_results(connection, stored_waits(connection, [*mine, *small]), now):
        waits[result.wait.instance_id].append(result)

    def loaded(claim: Claim) -> ClaimedInstance:
        id = claim.instance_id
        if id not in waits:
            return ClaimedInstance(claim)
        return ClaimedInstance(claim, None if claim.was_mine else journals.get(id, ()), waits[id])

    return [loaded(claim) for claim in claims], next_wake(connection, me, workflows, suspects=suspects)


class _Owned(NamedTuple):
    owner: str | None
    cancel_requested: str | None


_owned = select(instances.c.owner, instances.c.cancel_requested).where(instances.c.instance_id == bindparam("id"))


def load_again(connection: Connection, me: str, claim: Claim, after: int) -> tuple[Claim, RowPage] | None:
    """Load an instance that the worker ``me`` has claimed before, with the next page of its journal.

    Args:
      after: the end of the page before, as of :func:`.load_page`.

    Returns None if the worker no longer owns it.
    """
    row = fetch_first(connection, _Owned, _owned, {"id": claim.instance_id})
    if row is None or row.owner != me:
        return None
    return evolve(claim, cancel_requested=row.cancel_requested), load_page(connection, claim.instance_id, after)


def _small_ones(connection: Connection, ids: Sequence[str]) -> Iterator[str]:
    """Yield the first ids whose journals can be loaded together without making other transactions wait long."""
    if not ids:
        return
    sizes = {id: (count, int(text or 0)) for id, count, text in connection.execute(_sizes, {"ids": ids})}
    entries = text = 0
    for id in ids:
        count, length = sizes.get(id, (0, 0))
        if length >= LARGE:
            continue  # read apart
        entries, text = entries + count, text + length
        if entries > _MOST_ENTRIES or text > _MOST_TEXT:
            return
        yield id
