"""SQL about instances and their journals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from attrs import asdict, frozen
from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Connection,
    Row,
    Select,
    Update,
    bindparam,
    case,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.types import TypeEngine

from ..clock import Microseconds, to_datetime
from ..errors import InstanceExistsError
from ..model import Entry, ErrorInfo, Instance, Kind, Status
from ..serialization import dumps, loads
from .dialects import UpdateMany, insert_if_absent
from .schema import history, instances

_IN = 500
"""The most values in one IN list."""


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


@frozen
class Record:
    """One entry as it is stored."""

    seq: int
    operation_id: str
    kind: Kind
    payload: Any
    """Plain JSON data."""
    recorded_at: Microseconds


@frozen
class Cancelled:
    """What became of a cancel request."""

    accepted: bool
    """Whether the instance will end as cancelled because of it (or of an earlier request)."""
    status: Status


# -- writing: parts of a batch of the journal --------------------------------------------------------------------------

_insert_instance = insert(instances)
_insert_instance_if_absent = insert_if_absent(instances)
_insert_entry = insert(history)


def _close(given: Callable[[str], ColumnElement[Any]]) -> Update:
    mine = update(instances).where(instances.c.instance_id == given("id"), instances.c.cancel_requested.is_(None))
    return mine.values(
        status=given("status_"),
        output=given("output_"),
        error=given("error_"),
        owner=given("owner_"),
        wake_at=None,
        updated_at=given("now"),
        finished_at=given("finished"),
    )


def _change(given: Callable[[str], ColumnElement[Any]]) -> Update:
    # Whoever wants attention sooner than the actor knows of has set wake_at meanwhile: keep the earlier time.
    wake_at = case(
        (given("settled"), None),
        (instances.c.wake_at < func.coalesce(given("wake"), instances.c.wake_at + 1), instances.c.wake_at),
        else_=given("wake"),
    )
    return (
        update(instances)
        .where(instances.c.instance_id == given("id"))
        .values(
            status=given("status_"),
            error=func.coalesce(given("error_"), instances.c.error),
            owner=given("owner_"),
            wake_at=wake_at,
            recoveries=0,
            updated_at=given("now"),
            finished_at=given("finished"),
        )
    )


_common: dict[str, TypeEngine[Any]] = {
    "id": instances.c.instance_id.type,
    "status_": instances.c.status.type,
    "error_": instances.c.error.type,
    "owner_": instances.c.owner.type,
    "now": BigInteger(),
    "finished": BigInteger(),
}
_close_all = UpdateMany(_close, **_common, output_=instances.c.output.type)
_change_all = UpdateMany(_change, **_common, wake=BigInteger(), settled=Boolean())

_with_id = instances.c.instance_id.in_(bindparam("ids", expanding=True))
_holders = select(
    instances.c.instance_id, instances.c.workflow, instances.c.input, instances.c.owner, instances.c.created_at
).where(_with_id)
_cancel_requests = select(instances.c.instance_id, instances.c.cancel_requested).where(
    _with_id, instances.c.cancel_requested.is_not(None)
)


def insert_instances(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Store new instances. Their ids must be new."""
    connection.execute(_insert_instance, rows)


def insert_instances_if_absent(connection: Connection, rows: Sequence[dict[str, Any]]) -> dict[str, Row[Any]]:
    """Store new instances, except those whose id is taken. Returns the rows that now hold those ids."""
    connection.execute(_insert_instance_if_absent, rows)
    return {row.instance_id: row for row in _by_id(connection, _holders, [row["instance_id"] for row in rows])}


def insert_entries(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Store journal entries. A key that is taken is an error: an instance has one writer."""
    connection.execute(_insert_entry, rows)


def close_instances(connection: Connection, rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Set the status that the end of their workflow function means, except where a cancel request came first.

    Returns those requests: the reason, as JSON text, by instance id.
    """
    if _close_all.execute(connection, rows) == len(rows):
        return {}
    found = _by_id(connection, _cancel_requests, [row["id"] for row in rows])
    return {row.instance_id: row.cancel_requested for row in found}


def start_instance(connection: Connection, row: dict[str, Any]) -> None:
    """Store one new instance, or find it stored already.

    Raises:
      InstanceExistsError: if the id is taken by another workflow or input.
    """
    found = insert_instances_if_absent(connection, [row])[row["instance_id"]]
    if (conflict := conflict_with(row, found)) is not None:
        raise conflict


def conflict_with(row: dict[str, Any], found: Row[Any]) -> InstanceExistsError | None:
    """Why a new instance is not the one that is stored under its id; None if it is."""
    if found.workflow != row["workflow"]:
        return InstanceExistsError(row["instance_id"], f"workflow {found.workflow!r}, not {row['workflow']!r}")
    if found.input != row["input"] and loads(found.input) != loads(row["input"]):
        return InstanceExistsError(row["instance_id"], "another input")
    return None


def update_instances(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Set status, owner, wake-up and finishing time, and the error where one is given.

    An actor that comes to say so has made progress, so what its instance outlived no longer counts against it.
    """
    _change_all.execute(connection, rows)


def _by_id(connection: Connection, query: Select[Any], instance_ids: Sequence[str]) -> list[Row[Any]]:
    found: list[Row[Any]] = []
    for start in range(0, len(instance_ids), _IN):
        found += connection.execute(query, {"ids": instance_ids[start : start + _IN]}).all()
    return found


def new_row(
    instance_id: str, workflow: str, input_text: str, now: Microseconds, *, owner: str | None
) -> dict[str, Any]:
    """A new instance: running at its owner, or pending and due now."""
    return {
        "instance_id": instance_id,
        "workflow": workflow,
        "status": Status.PENDING if owner is None else Status.RUNNING,
        "input": input_text,
        "owner": owner,
        "wake_at": now if owner is None else None,
        "recoveries": 0,
        "created_at": now,
        "updated_at": now,
    }


def update_row(
    instance_id: str,
    status: Status,
    now: Microseconds,
    *,
    owner: str | None,
    wake_at: Microseconds | None = None,
    error: ErrorInfo | None = None,
) -> dict[str, Any]:
    """What :func:`update_instances` takes."""
    return {
        "id": instance_id,
        "status_": status,
        "error_": None if error is None else error_text(error),
        "owner_": owner,
        "wake": wake_at,
        "settled": status.is_final,
        "now": now,
        "finished": now if status.is_final else None,
    }


def closing_row(
    instance_id: str,
    status: Status,
    now: Microseconds,
    *,
    owner: str | None,
    output: str | None,
    error: ErrorInfo | None,
) -> dict[str, Any]:
    """What :func:`close_instances` takes."""
    return {
        "id": instance_id,
        "status_": status,
        "output_": output,
        "error_": None if error is None else error_text(error),
        "owner_": owner,
        "now": now,
        "finished": now if status.is_final else None,
    }


# -- claiming ----------------------------------------------------------------------------------------------------------

_claim_columns = (
    instances.c.instance_id,
    instances.c.workflow,
    instances.c.status,
    instances.c.input,
    instances.c.created_at,
    instances.c.recoveries,
    instances.c.cancel_requested,
)
_own = (
    update(instances)
    .where(instances.c.instance_id == bindparam("id"))
    .values(owner=bindparam("me"), wake_at=None, status=bindparam("status_"), updated_at=bindparam("now"))
)


def claim_due(
    connection: Connection, me: str, now: Microseconds, workflows: Sequence[str], limit: int, *, suspects: bool
) -> list[Claim]:
    """Take instances that are due: those that nobody owns, and own ones that somebody wants to be looked at.

    Args:
      workflows: names of the workflows that this worker can run; others are left alone.
      limit: the most unowned ones to take.
      suspects: whether to take one that outlived its worker more than once. Those come one at a time, the least
        suspect first, so that one that takes its process down with it does so alone.
    """
    due = select(*_claim_columns, instances.c.owner).where(
        instances.c.wake_at <= now, instances.c.workflow.in_(workflows)
    )
    mine = connection.execute(due.where(instances.c.owner == me)).all()
    free = due.where(instances.c.owner.is_(None))
    calm = free.where(instances.c.recoveries <= 1).order_by(instances.c.wake_at).limit(limit)
    rows = [*mine, *connection.execute(calm.with_for_update(skip_locked=True)).all()]
    if suspects and len(rows) - len(mine) < limit:
        one = free.where(instances.c.recoveries > 1).order_by(instances.c.recoveries, instances.c.wake_at).limit(1)
        rows += connection.execute(one.with_for_update(skip_locked=True)).all()
    claims = [Claim(r[0], r[1], Status(r[2]), *r[3:7]) for r in rows]
    if claims:
        connection.execute(
            _own,
            [
                {"id": claim.instance_id, "me": me, "status_": _claimed_status(claim.status), "now": now}
                for claim in claims
            ],
        )
    return claims


def _claimed_status(status: Status) -> Status:
    return Status.COMPENSATING if status is Status.COMPENSATING else Status.RUNNING


def next_wake(connection: Connection, me: str, workflows: Sequence[str], *, suspects: bool) -> Microseconds | None:
    """When the next instance is due that :func:`claim_due` would take; None if none ever is by itself."""
    wake = select(func.min(instances.c.wake_at)).where(
        or_(instances.c.owner.is_(None), instances.c.owner == me), instances.c.workflow.in_(workflows)
    )
    if not suspects:
        wake = wake.where(or_(instances.c.recoveries <= 1, instances.c.owner == me))
    return connection.execute(wake).scalar()


# -- asking for something ----------------------------------------------------------------------------------------------


def request_cancel(connection: Connection, instance_id: str, reason: str | None, now: Microseconds) -> Cancelled | None:
    """Accept a cancel request, unless the workflow function has ended. Returns None if there is no such instance."""
    cancellable = (Status.PENDING, Status.RUNNING, Status.WAITING, Status.STUCK)
    accepted = connection.execute(
        update(instances)
        .where(
            instances.c.instance_id == instance_id,
            instances.c.cancel_requested.is_(None),
            instances.c.status.in_(cancellable),
        )
        .values(cancel_requested=dumps(reason), wake_at=now, updated_at=now)
    ).rowcount
    row = connection.execute(
        select(instances.c.status, instances.c.cancel_requested).where(instances.c.instance_id == instance_id)
    ).one_or_none()
    if row is None:
        return None
    return Cancelled(bool(accepted) or row.cancel_requested is not None, Status(row.status))


def resume(connection: Connection, instance_id: str, now: Microseconds) -> bool | None:
    """Set a stuck instance going again, or one that ended with failed compensations.

    Returns whether it was one of these; None if there is no such instance.
    """
    row = connection.execute(
        select(instances.c.status, instances.c.error).where(instances.c.instance_id == instance_id).with_for_update()
    ).one_or_none()
    if row is None:
        return None
    status = Status(row.status)
    uncompensated = row.error is not None and loads(row.error).get("uncompensated")
    if status is not Status.STUCK and not (status in (Status.FAILED, Status.CANCELLED) and uncompensated):
        return False
    ended = connection.execute(_function_end(instance_id)).first() is not None
    values = {
        "status": Status.COMPENSATING if ended else Status.RUNNING,
        "error": None if status is Status.STUCK and not ended else row.error,
        "wake_at": now,
        "recoveries": 0,
        "updated_at": now,
        "finished_at": None,
    }
    connection.execute(update(instances).where(instances.c.instance_id == instance_id).values(**values))
    # Nobody owns it, so there is no actor whose numbers this could meet.
    last = connection.execute(select(func.max(history.c.seq)).where(history.c.instance_id == instance_id)).scalar()
    record = Record((last or 0) + 1, "", Kind.RESUMED, None, now)
    insert_entries(connection, [entry_row(instance_id, record)])
    return True


def _function_end(instance_id: str) -> Any:
    ends = [kind for kind in Kind if kind.ends_function]
    return select(history.c.seq).where(history.c.instance_id == instance_id, history.c.kind.in_(ends))


# -- reading -----------------------------------------------------------------------------------------------------------


def entry_row(instance_id: str, record: Record) -> dict[str, Any]:
    """A record as a row of the table."""
    return {
        "instance_id": instance_id,
        "seq": record.seq,
        "operation_id": record.operation_id,
        "kind": record.kind,
        "payload": dumps(record.payload),
        "recorded_at": record.recorded_at,
    }


def load_records(connection: Connection, instance_id: str) -> list[Record]:
    """The journal of an instance, in order."""
    columns = (history.c.seq, history.c.operation_id, history.c.kind, history.c.payload, history.c.recorded_at)
    rows = connection.execute(select(*columns).where(history.c.instance_id == instance_id).order_by(history.c.seq))
    return [
        Record(seq, operation_id, _kinds[kind], None if payload is None else loads(payload), recorded_at)
        for seq, operation_id, kind, payload, recorded_at in rows
    ]


_kinds = {kind.value: kind for kind in Kind}


def load_history(connection: Connection, instance_id: str) -> list[Entry]:
    """The journal of an instance, in order, as users see it."""
    return [
        Entry(instance_id, r.seq, r.operation_id, r.kind, r.payload, to_datetime(r.recorded_at))
        for r in load_records(connection, instance_id)
    ]


def has_entry(connection: Connection, instance_id: str, seq: int) -> bool:
    """Whether that entry is stored."""
    found = select(history.c.seq).where(history.c.instance_id == instance_id, history.c.seq == seq)
    return connection.execute(found).first() is not None


def get_instance(connection: Connection, instance_id: str) -> Instance | None:
    """The instance as it is stored now."""
    row = connection.execute(select(instances).where(instances.c.instance_id == instance_id)).one_or_none()
    return None if row is None else _to_instance(row)


def get_ending(connection: Connection, instance_id: str) -> tuple[Status, str | None, ErrorInfo | None] | None:
    """Status, output as JSON text, and error; None if there is no such instance."""
    columns = (instances.c.status, instances.c.output, instances.c.error)
    row = connection.execute(select(*columns).where(instances.c.instance_id == instance_id)).one_or_none()
    return None if row is None else (Status(row.status), row.output, _to_error(row.error))


def _to_error(text: str | None) -> ErrorInfo | None:
    return None if text is None else ErrorInfo(**loads(text))


def _to_instance(row: Row[Any]) -> Instance:
    return Instance(
        instance_id=row.instance_id,
        workflow=row.workflow,
        status=Status(row.status),
        input=loads(row.input),
        output=None if row.output is None else loads(row.output),
        error=_to_error(row.error),
        created_at=to_datetime(row.created_at),
        updated_at=to_datetime(row.updated_at),
        finished_at=None if row.finished_at is None else to_datetime(row.finished_at),
        worker_id=row.owner,
        parent_id=row.parent_id,
        continued_from=row.continued_from,
    )


def error_text(error: ErrorInfo) -> str:
    """An error as it is stored."""
    return dumps(asdict(error))
