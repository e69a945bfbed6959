"""Which status of an instance may follow which, and that no SQL function gives an instance another one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from sqlalchemy import Connection, select, update

from trio_romancy import Status
from trio_romancy._data.end_request import EndRequest
from trio_romancy._data.journal_format import WorkflowCancelled, WorkflowCompleted, error_text
from trio_romancy._storage.sql import children, incompatible, rewind, statuses, steering, tables, termination
from trio_romancy._storage.sql.claims import claim_due
from trio_romancy._storage.sql.entries import JournalEntry, entry_row, insert_entries
from trio_romancy._storage.sql.waits import wake
from trio_romancy._storage.sql.workers import Process, join
from trio_romancy.errors import RomancyError
from trio_romancy.model import ErrorInfo

from .rows import NOW, own

PAIRS = [(before, after) for before in Status for after in Status]
ERROR = ErrorInfo("Broken", "it broke", uncompensated=["do:1"])

FOLLOWS = {
    Status.PENDING: {Status.RUNNING, Status.COMPENSATING, Status.CANCELLED, Status.STUCK},
    Status.RUNNING: set(Status),
    Status.WAITING: set(Status),
    Status.COMPENSATING: {Status.FAILED, Status.CANCELLED, Status.STUCK},
    Status.COMPLETED: {Status.COMPENSATING},
    Status.FAILED: {Status.RUNNING, Status.COMPENSATING},
    Status.CANCELLED: {Status.RUNNING, Status.COMPENSATING},
    Status.RECURRED: set(),
    Status.STUCK: {Status.PENDING, Status.RUNNING, Status.COMPENSATING, Status.CANCELLED},
}
"""Once more, from what the documentation says of the statuses."""


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_a_status_follows_another_only_as_the_table_says(before: Status, after: Status) -> None:
    if after is before or after in FOLLOWS[before]:
        statuses.check(before, after)
    else:
        with pytest.raises(statuses.IllegalStatusError, match=f"that is {before} cannot become {after}"):
            statuses.check(before, after)


def test_what_a_worker_takes_up_has_a_status_that_may_follow() -> None:
    for status in Status:
        if not status.is_final:
            statuses.check(status, statuses.claimed(status))


def test_what_has_recurred_is_never_changed_again_and_all_others_can_go_on() -> None:
    assert [status for status in Status if not statuses.NEXT[status]] == [Status.RECURRED]


@pytest.mark.parametrize("after", Status)
def test_the_condition_matches_what_the_table_allows(connection: Connection, after: Status) -> None:
    for before in Status:
        own(connection, before, status=before)
    column = tables.instances.c.instance_id
    found = set(connection.execute(select(column).where(statuses.may_become(after))).scalars())
    assert found == {before for before in Status if before is after or after in FOLLOWS[before]}


# -- functions that change a status ------------------------------------------------------------------------------------


def claim(connection: Connection) -> None:
    connection.execute(update(tables.instances).where(tables.instances.c.status.in_(WAKEABLE)).values(wake_at=NOW))
    claim_due(connection, "me", NOW, ["w"], 10, suspects=True)


def leave_to_others(connection: Connection) -> None:
    incompatible.leave_to_others(connection, "me", "i", ERROR, NOW)


def sweep(connection: Connection) -> None:
    connection.execute(
        tables.incompatible.insert().values(instance_id="i", version="1", error=error_text(ERROR), found_at=NOW)
    )
    incompatible.sweep(connection, NOW)


def revive(connection: Connection) -> None:
    connection.execute(
        tables.incompatible.insert().values(instance_id="i", version="1", error=error_text(ERROR), found_at=NOW)
    )
    incompatible.revive(connection, "2", NOW)


def retry(connection: Connection) -> None:
    with suppress(RomancyError):
        rewind.rewind(connection, "i", NOW)


def terminate(connection: Connection, *, compensates: bool) -> None:
    request = EndRequest(None, NOW, terminates=True, compensates=compensates)
    termination.request_termination(connection, "i", request, NOW, lambda _: [("a:1", None)])
    termination.terminate(connection, "i", NOW, lambda _: [("a:1", None)])


WAKEABLE = [status for status in Status if not status.is_final]
FUNCTIONS: dict[str, Callable[[Connection], object]] = {
    "claim": claim,
    "cancel": lambda connection: steering.request_cancel(connection, "i", None, NOW),
    "terminate": lambda connection: terminate(connection, compensates=False),
    "terminate and compensate": lambda connection: terminate(connection, compensates=True),
    "resume": lambda connection: steering.resume(connection, "i", NOW),
    "retry": retry,
    "roll back": lambda connection: children.roll_back(
        connection, "p", "c", "i", "a reason", NOW, lambda _: [("a:1", None)]
    ),
    "roll back again": lambda connection: children.roll_back_again(connection, "i", NOW),
    "cancel children": lambda connection: children.request_cancels(connection, ["i"], "a reason", NOW),
    "leave to others": leave_to_others,
    "sweep": sweep,
    "revive": revive,
    "wake": lambda connection: wake(connection, ["i"], NOW),
}


@pytest.mark.parametrize("end", [None, WorkflowCompleted(), WorkflowCancelled("a reason")])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_function_gives_an_instance_a_status_that_cannot_follow(
    connection: Connection, function: str, end: WorkflowCompleted | WorkflowCancelled | None
) -> None:
    for before in Status:
        with connection.begin_nested() as savepoint:
            join(connection, "me", Process("another machine", 1, "", "me"), NOW, NOW, "1")
            owner = "me" if before in (Status.RUNNING, Status.WAITING, Status.COMPENSATING) else None
            own(connection, "i", status=before, owner=owner, error=error_text(ERROR), parent_id="p")
            if end is not None:
                insert_entries(connection, [entry_row("i", JournalEntry(1, "", end.KIND, end, NOW))])
            FUNCTIONS[function](connection)
            after = connection.execute(select(tables.instances.c.status)).scalar_one()
            statuses.check(before, Status(after))
            savepoint.rollback()
