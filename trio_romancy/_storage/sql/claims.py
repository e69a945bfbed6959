"""SQL about taking up instances: the claim, and all that is needed to run what was claimed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sqlalchemy import BigInteger, Connection, and_, bindparam, func, or_, select, update

from ..._tasks.fast_frozen import frozen
from ...clock import Microseconds
from ...model import Status
from .entries import JournalEntry, load_journals
from .incompatible import MAY_RUN
from .rows import fetch_all
from .tables import history, instances
from .waits import MatchResult, match_results, stored_waits

_MOST_ENTRIES = 2_000
_MOST_TEXT = 1_000_000
"""Entries, and characters of their payloads, that are loaded in the transaction of a claim."""


@frozen
class Claim:
    """What a worker needs to run an instance that it owns."""

    instance_id: str
    workflow: str
    status: Status
    """What it was before the claim."""
    input: str
    """JSON text."""
    created_at: Microseconds
    recoveries: int
    cancel_requested: str | None
    """JSON text of the reason; None: no cancel request."""
    started_after: int
    """The last message that was sent before it was started."""
    origin: str | None = None
    """The first of the chain that it goes on with; None: it is the first."""
    parent_id: str | None = None
    """The instance that started it as a child."""
    was_mine: bool = False
    """Whether the worker owned it already, and somebody wants it to be looked at."""
    due_at: Microseconds | None = None
    """Since when it has wanted attention; None: it did not have to wait."""
    trace: str | None = None
    """JSON text of the trace context that it was started in; None: none."""

    @property
    def child_of_chain(self) -> str | None:
        """As what its parent knows it: the origin of its chain. None if it has no parent."""
        return None if self.parent_id is None else self.origin or self.instance_id


@frozen
class TakenUp:
    """A claimed instance."""

    claim: Claim
    records: Sequence[JournalEntry] | None = None
    """Its journal, unless that is large, or in memory."""
    waits: Sequence[MatchResult] = ()
    """What it waits for from outside, and what there is."""


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
_is_mine, _is_free = instances.c.owner == bindparam("me"), instances.c.owner.is_(None)
_is_calm = instances.c.recoveries <= 1
_can_run = and_(instances.c.workflow.in_(bindparam("workflows", expanding=True)), MAY_RUN)
_most = bindparam("most", type_=BigInteger())

_due = (
    select(*_claim_columns, instances.c.owner)
    .where(instances.c.wake_at <= bindparam("until"), _can_run)
    # One that is locked is being woken just now, or claimed: it is still due when that is over.
    .with_for_update(skip_locked=True)
)
_due_at_all = _due.where(or_(_is_mine, _is_free)).order_by(instances.c.wake_at).limit(_most)
_mine = _due.where(_is_mine)
_calm = _due.where(_is_free, _is_calm).order_by(instances.c.wake_at).limit(_most)
_suspect = _due.where(_is_free, ~_is_calm).order_by(instances.c.recoveries, instances.c.wake_at).limit(1)

# In the order of the index, up to the first that fits: there may be a hundred thousand sleepers.
_next = (
    select(instances.c.wake_at)
    .where(instances.c.wake_at.is_not(None), or_(_is_free, _is_mine), _can_run)
    .order_by(instances.c.wake_at)
    .limit(1)
)
_next_without_suspects = _next.where(or_(_is_calm, _is_mine))
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
    """Take instances that are due: those that nobody owns, and own ones that somebody wants to be looked at.

    Args:
      ahead: also those that will be due within that time.
      workflows: names of the workflows that this worker can run; others are left alone.
      limit: the most unowned ones to take.
      suspects: whether to take one that outlived its worker more than once. Those come one at a time, the least
        suspect first, so that one that takes its process down with it does so alone.
    """
    values = {"me": me, "until": now + ahead, "workflows": workflows, "most": limit + 1}
    rows = fetch_all(connection, _Due, _due_at_all, values)
    if len(rows) > limit:  # there may be more: then the ones to take have to be chosen
        values["most"] = limit
        rows = [row for query in (_mine, _calm, _suspect) for row in fetch_all(connection, _Due, query, values)]
    mine = [row for row in rows if row.owner == me]
    calm = [row for row in rows if row.owner is None and row.recoveries <= 1]
    suspect = sorted((row for row in rows if row.owner is None and row.recoveries > 1), key=_suspicion)[:1]
    rows = [*mine, *calm, *(suspect if suspects and len(calm) < limit else ())]
    claims = [_to_claim(row, me) for row in rows]
    if claims:
        connection.execute(
            _own,
            [
                {"id": claim.instance_id, "me": me, "status_": _claimed_status(claim.status), "now": now}
                for claim in claims
            ],
        )
    return claims


def _to_claim(row: _Due, me: str) -> Claim:
    return Claim(
        row.instance_id,
        row.workflow,
        Status(row.status),
        row.input,
        row.created_at,
        row.recoveries,
        row.cancel_requested,
        row.started_after,
        row.origin,
        row.parent_id,
        row.owner == me,
        row.due_at,
        row.trace,
    )


def _claimed_status(status: Status) -> Status:
    return Status.COMPENSATING if status is Status.COMPENSATING else Status.RUNNING


def _suspicion(row: _Due) -> tuple[int, Microseconds]:
    return row.recoveries, row.due_at


def next_wake(connection: Connection, me: str, workflows: Sequence[str], *, suspects: bool) -> Microseconds | None:
    """When the next instance is due that :func:`claim_due` would take; None if none ever is by itself."""
    wake = _next if suspects else _next_without_suspects
    return connection.execute(wake, {"me": me, "workflows": workflows}).scalar()


def take_up(
    connection: Connection,
    me: str,
    now: Microseconds,
    workflows: Sequence[str],
    limit: int,
    *,
    suspects: bool,
    ahead: Microseconds = 0,
) -> tuple[list[TakenUp], Microseconds | None]:
    """Claim what is due, and load it: see :func:`claim_due`. Returns also the :func:`next_wake` after that."""
    claims = claim_due(connection, me, now, workflows, limit, suspects=suspects, ahead=ahead)
    mine = [claim.instance_id for claim in claims if claim.was_mine]
    small = list(_small_ones(connection, [claim.instance_id for claim in claims if not claim.was_mine]))
    journals = load_journals(connection, small)
    waits: dict[str, list[MatchResult]] = {id: [] for id in [*mine, *small]}
    for news in match_results(connection, stored_waits(connection, [*mine, *small]), now):
        waits[news.wait.instance_id].append(news)

    def taken_up(claim: Claim) -> TakenUp:
        id = claim.instance_id
        if id not in waits:
            return TakenUp(claim)
        return TakenUp(claim, None if claim.was_mine else journals.get(id, ()), waits[id])

    taken = [taken_up(claim) for claim in claims]
    return taken, next_wake(connection, me, workflows, suspects=suspects)


def _small_ones(connection: Connection, ids: Sequence[str]) -> Iterator[str]:
    """Those whose journals can be loaded together without keeping others waiting."""
    if not ids:
        return
    sizes = {id: (count, int(text or 0)) for id, count, text in connection.execute(_sizes, {"ids": ids})}
    entries = text = 0
    for id in ids:
        count, length = sizes.get(id, (0, 0))
        entries, text = entries + count, text + length
        if entries > _MOST_ENTRIES or text > _MOST_TEXT:
            return
        yield id
