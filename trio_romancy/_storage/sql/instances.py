"""SQL about instances: storing new ones, changing their status, and reading them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Connection,
    Update,
    bindparam,
    case,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.types import TypeEngine

from ..._data.codec import loads
from ..._data.end_request import EndRequest
from ..._data.journal_format import error_from_data, error_text
from ..._data.readable import readable, readable_time
from ..._data.start_times import StartTimes
from ...clock import Microseconds, at_once
from ...errors import DataProblem, InstanceExistsError, InvalidDataError
from ...model import CancelRequest, ErrorInfo, Instance, PendingOperation, Status
from ..dialects import update_many
from ..dialects.execute_many import execute_many
from ..dialects.sql import UpdateMany, insert_if_absent
from .lock_order import WITH_ID
from .rows import (
    ClosingRow,
    InstanceRow,
    StatusUpdate,
    StoredInstance,
    fetch_by_ids,
    fetch_first,
)
from .statuses import read_status
from .tables import instances

# -- writing -----------------------------------------------------------------------------------------------------------

_insert_instance = insert(instances)
_insert_instance_if_absent = insert_if_absent(instances)


def closing(given: Callable[[str], ColumnElement[Any]]) -> Update:
    """Build the statement that ends a workflow function, unless a cancel request was accepted before.

    Args:
      given: returns the expression for each of :data:`CLOSING`. :func:`closing_row` makes the values.
    """
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
    # Another transaction may have set wake_at to an earlier time, which the actor does not know: keep the earlier one.
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
            recoveries=case((given("no_progress"), instances.c.recoveries), else_=0),
            has_begun=None,
            updated_at=given("now"),
            finished_at=given("finished"),
            waits_for=given("waits_for_"),
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
CLOSING: dict[str, TypeEngine[Any]] = _common | {"output_": instances.c.output.type}
"""Parameters of :func:`closing`, and their types."""
CHANGING: dict[str, TypeEngine[Any]] = _common | {
    "wake": BigInteger(),
    "settled": Boolean(),
    "no_progress": Boolean(),
    "waits_for_": instances.c.waits_for.type,
}
"""Parameters of the change of an instance's status, and their types."""

_close_all = UpdateMany(closing, **CLOSING)
_change_all = UpdateMany(_change, **CHANGING)


OPERATIONS_SHOWN = 10
"""Most operations in flight that the row of an instance shows: a row stays small beside very many operations."""

ANOTHER_INPUT = "another input"
"""How an instance of the same workflow can differ from another one with its id."""


class Holder(NamedTuple):
    """The instance that holds an id."""

    instance_id: str
    workflow: str
    input: str
    owner: str | None
    created_at: Microseconds
    parent_id: str | None


class _CancelRequest(NamedTuple):
    instance_id: str
    cancel_requested: str


_holders = select(
    instances.c.instance_id,
    instances.c.workflow,
    instances.c.input,
    instances.c.owner,
    instances.c.created_at,
    instances.c.parent_id,
).where(WITH_ID)
_current_holders = _holders.with_for_update(read=True)
_cancel_requests = select(instances.c.instance_id, instances.c.cancel_requested).where(
    WITH_ID, instances.c.cancel_requested.is_not(None)
)


def insert_instances(connection: Connection, rows: Sequence[InstanceRow]) -> None:
    """Store new instances. Their ids must be new."""
    execute_many(connection, _insert_instance, rows)


def insert_instances_if_absent(connection: Connection, rows: Sequence[InstanceRow]) -> dict[str, Holder]:
    """Store new instances, except those whose id is taken. Returns the rows that now hold those ids."""
    connection.execute(_insert_instance_if_absent, rows)
    ids = [row["instance_id"] for row in rows]
    return {row.instance_id: row for row in fetch_by_ids(connection, Holder, _holders, ids)}


def close_instances(connection: Connection, rows: Sequence[ClosingRow]) -> dict[str, str]:
    """Record the ends of workflow functions, except where a cancel request was accepted before.

    Returns those requests: as JSON text, by instance id.
    """
    if update_many(connection, _close_all, rows) == len(rows):
        return {}
    return cancel_requests(connection, [row["id"] for row in rows])


def cancel_requests(connection: Connection, instance_ids: Sequence[str]) -> dict[str, str]:
    """Return the accepted cancel requests of these instances: as JSON text, by instance id."""
    found = fetch_by_ids(connection, _CancelRequest, _cancel_requests, instance_ids)
    return {row.instance_id: row.cancel_requested for row in found}


def start_instance(connection: Connection, row: InstanceRow) -> None:
    """Store one new instance, unless the same instance is stored already.

    Raises:
      InstanceExistsError: if another workflow or another input has the id.
    """
    found = insert_instances_if_absent(connection, [row]).get(row["instance_id"])
    if found is None:  # the transaction is that of a caller, and its queries show an older state
        found = fetch_by_ids(connection, Holder, _current_holders, [row["instance_id"]])[0]
    if (conflict := conflict_with(row, found)) is not None:
        raise conflict


def conflict_with(row: InstanceRow, found: Holder) -> InstanceExistsError | None:
    """Return how a new instance differs from the one that holds its id; None if they are the same."""
    if found.workflow != row["workflow"]:
        return InstanceExistsError(row["instance_id"], f"workflow {found.workflow!r}, not {row['workflow']!r}")
    if found.input != row["input"] and loads(found.input) != loads(row["input"]):
        return InstanceExistsError(row["instance_id"], ANOTHER_INPUT)
    return None


def update_instances(connection: Connection, rows: Sequence[StatusUpdate]) -> None:
    """Set status, owner, wake-up time and finishing time of instances, and the error where one is given.

    If an instance has made progress, the deaths of its workers before no longer count.
    """
    update_many(connection, _change_all, rows)


def set_details(connection: Connection, details: Mapping[str, str]) -> None:
    """Store the details of instances: JSON text, by instance id."""
    rows = [{"id": instance_id, "text": details[instance_id]} for instance_id in sorted(details)]
    connection.execute(_set_details, rows)


_set_details = update(instances).where(instances.c.instance_id == bindparam("id")).values(details=bindparam("text"))


def set_waits_for(connection: Connection, texts: Mapping[str, str]) -> None:
    """Store the operations in flight of instances, for people: JSON text, by instance id."""
    rows = [{"id": instance_id, "text": texts[instance_id]} for instance_id in sorted(texts)]
    connection.execute(_set_waits_for, rows)


_set_waits_for = update(instances).where(instances.c.instance_id == bindparam("id")).values(waits_for=bindparam("text"))


def new_row(
    instance_id: str,
    workflow: str,
    input_text: str,
    now: Microseconds,
    *,
    owner: str | None,
    trace: str | None = None,
    times: StartTimes | None = None,
) -> InstanceRow:
    """Return the row of a new instance: running at its owner, or pending and due now, or at its time.

    Args:
      trace: JSON text of the trace context that the instance is started in.
      times: when it begins, and by when it has to end, if it has no owner.
    """
    row: InstanceRow = {
        "instance_id": instance_id,
        "workflow": workflow,
        "status": Status.PENDING if owner is None else Status.RUNNING,
        "input": input_text,
        "owner": owner,
        "wake_at": at_once(now) if owner is None else None,
        "recoveries": 0,
        "started_after": 0,  # set by the transaction that stores the row
        "trace": trace,
        "created_at": now,
        "updated_at": now,
    }
    return row if times is None else {**row, **times.row(now)}


def update_row(
    instance_id: str,
    status: Status,
    now: Microseconds,
    *,
    owner: str | None,
    wake_at: Microseconds | None = None,
    error: ErrorInfo | None = None,
    waits_for: str | None = None,
    no_progress: bool = False,
) -> StatusUpdate:
    """Return the values of :func:`update_instances` for one instance.

    Args:
      waits_for: JSON text of the operations in flight.
      no_progress: whether the instance has made no progress since its claim.
    """
    return {
        "id": instance_id,
        "status_": status,
        "error_": None if error is None else error_text(error),
        "owner_": owner,
        "wake": wake_at,
        "settled": status.is_final,
        "no_progress": no_progress,
        "waits_for_": waits_for,
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
) -> ClosingRow:
    """Return the values of :func:`close_instances` for one instance."""
    return {
        "id": instance_id,
        "status_": status,
        "output_": output,
        "error_": None if error is None else error_text(error),
        "owner_": owner,
        "now": now,
        "finished": now if status.is_final else None,
    }


# -- reading -----------------------------------------------------------------------------------------------------------


_instance = select(instances).where(instances.c.instance_id == bindparam("id"))


def get_instance(connection: Connection, instance_id: str) -> Instance | None:
    """Return the instance as it is stored now; None if there is no such instance."""
    row = fetch_first(connection, StoredInstance, _instance, {"id": instance_id})
    return None if row is None else to_instance(row)


class _Ending(NamedTuple):
    status: str
    output: str | None
    error: str | None
    wake_at: Microseconds | None


_ending = select(instances.c.status, instances.c.output, instances.c.error, instances.c.wake_at).where(
    instances.c.instance_id == bindparam("id")
)


def get_ending(connection: Connection, instance_id: str) -> tuple[Status, str | None, ErrorInfo | None] | None:
    """Return status, output as JSON text, and error of an instance; None if there is no such instance."""
    row = fetch_first(connection, _Ending, _ending, {"id": instance_id})
    if row is None:
        return None
    error = None if row.error is None else to_error(row.error)
    if problems := status_problems(row.status):
        error = _as_error(unreadable_row(instance_id, problems))
    status = read_status(row.status)
    if status is Status.STUCK and row.wake_at is not None:
        status = Status.RUNNING  # a worker is about to take it up again, as it was cancelled or resumed
    return status, row.output, error


def status_problems(stored: str) -> list[DataProblem]:
    """Return why a stored status cannot be read; empty if it can."""
    return [] if read_status(stored) == stored else [DataProblem("$.status", f"{stored!r} is no status")]


def to_error(text: str) -> ErrorInfo:
    """Return an error from its column, or one that says that it cannot be read.

    What a later version has added to it is passed over.
    """
    data, why = readable(text)
    if why is None:
        try:
            return error_from_data(data)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            why = str(error)
    return ErrorInfo("trio_romancy.InvalidDataError", f"its error cannot be read: {why}")


def unreadable_row(instance_id: str, problems: Sequence[DataProblem]) -> InvalidDataError:
    """Return the error of an instance whose row cannot be read."""
    return InvalidDataError(f"instance {instance_id!r}: its row cannot be read", problems)


def _as_error(unreadable: InvalidDataError) -> ErrorInfo:
    return ErrorInfo("trio_romancy.InvalidDataError", str(unreadable))


def to_instance(row: StoredInstance) -> Instance:
    """Return a row of the table as users see it, without what a cancel request waits for."""
    (input, bad_input), (output, bad_output), (details, bad_details) = map(
        readable, (row.input, row.output, row.details)
    )
    columns = {"input": bad_input, "output": bad_output, "details": bad_details}
    problems = [DataProblem(f"$.{name}", why) for name, why in columns.items() if why is not None]
    problems += status_problems(row.status)
    created_at, bad_creation = readable_time(row.created_at)
    updated_at, bad_update = readable_time(row.updated_at)
    finished_at, bad_end = (None, None) if row.finished_at is None else readable_time(row.finished_at)
    times = {"created_at": bad_creation, "updated_at": bad_update, "finished_at": bad_end}
    problems += [DataProblem(f"$.{name}", why) for name, why in times.items() if why is not None]
    status = read_status(row.status)
    error = None if row.error is None else to_error(row.error)
    if problems:
        error = _as_error(unreadable_row(row.instance_id, problems))
    return Instance(
        instance_id=row.instance_id,
        workflow=row.workflow,
        status=status,
        input=input,
        output=output,
        error=error,
        created_at=created_at,
        updated_at=updated_at,
        finished_at=finished_at,
        worker_id=row.owner,
        parent_id=row.parent_id,
        continued_from=row.continued_from,
        details=None if status.is_final else details,
        last_details=details if status.is_final else None,
        cancel_requested=_to_cancel_request(row),
        waits_for=_to_operations(row),
        not_before=None if row.not_before is None or status.is_final else readable_time(row.not_before)[0],
        deadline=None if row.deadline is None or status.is_final else readable_time(row.deadline)[0],
    )


def _to_operations(row: StoredInstance) -> list[PendingOperation]:
    status = read_status(row.status)
    if row.waits_for is None or status.is_final or status is Status.STUCK:
        return []
    found, _ = readable(row.waits_for)
    try:
        return [
            PendingOperation(
                operation_id=one["id"],
                kind=one["kind"],
                name=one.get("name"),
                subject=one.get("subject"),
                due_at=None if one.get("due") is None else readable_time(one["due"])[0],
                attempt=one.get("attempt"),
                running_since=None if one.get("since") is None else readable_time(one["since"])[0],
                limit=one.get("limit"),
                limit_key=one.get("key"),
            )
            for one in found
        ]
    except (KeyError, TypeError, AttributeError, OverflowError):  # written by another version, and only for people
        return []


def _to_cancel_request(row: StoredInstance) -> CancelRequest | None:
    if row.cancel_requested is None or read_status(row.status).is_final:
        return None
    request = EndRequest.from_text(row.cancel_requested)
    at = None if request.at is None else readable_time(request.at)[0]
    return CancelRequest(request.reason, at, request.terminates, [])
