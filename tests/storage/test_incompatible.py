"""Journals that do not fit the code of some workers: others get them, and when there are no others it is said."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select

from trio_romancy._data.journal_format import error_text
from trio_romancy._storage.sql import incompatible, steering, tables
from trio_romancy._storage.sql import instances as instance_sql
from trio_romancy._storage.sql.claims import claim_due
from trio_romancy._storage.sql.wake_ups import next_wake
from trio_romancy._storage.sql.workers import Process, join
from trio_romancy.clock import at_once
from trio_romancy.model import ErrorInfo, Status

ERROR = ErrorInfo("trio_romancy.NonDeterminismError", "it does not fit")


def arrive(connection: Connection, worker_id: str, version: str) -> None:
    process = Process("another machine", 1, "", worker_id)
    assert join(connection, worker_id, process, 10, 1_000, version) is not None
    incompatible.revive(connection, version, 10)


def leave(connection: Connection, worker_id: str) -> None:
    connection.execute(tables.workers.delete().where(tables.workers.c.worker_id == worker_id))


def own(connection: Connection, owner: str) -> None:
    connection.execute(insert(tables.instances).values(**instance_sql.new_row("i", "w", "{}", 1, owner=owner)))


def claims(connection: Connection, me: str) -> list[str]:
    return [claim.instance_id for claim in claim_due(connection, me, 100, ["w"], 10, suspects=True)]


def shown(connection: Connection) -> tuple[str, int | None, bool]:
    """Status, wake-up, and whether there is an error."""
    columns = (tables.instances.c.status, tables.instances.c.wake_at, tables.instances.c.error)
    row = connection.execute(select(*columns)).one()
    return row.status, row.wake_at, row.error is not None


def test_what_does_not_fit_one_version_is_left_to_another(connection: Connection) -> None:
    for worker_id, version in (("new", "2"), ("also new", "2"), ("old", "1")):
        arrive(connection, worker_id, version)
    own(connection, "new")
    assert incompatible.leave_to_others(connection, "new", "i", ERROR, 50) is Status.PENDING
    assert shown(connection) == (Status.PENDING, at_once(50), False)
    assert claims(connection, "new") == claims(connection, "also new") == []
    assert next_wake(connection, "new", ["w"], suspects=True) is None
    assert next_wake(connection, "old", ["w"], suspects=True) == at_once(50)
    assert claims(connection, "old") == ["i"]


def test_what_fits_no_live_version_is_stuck_until_one_comes_that_has_not_been_tried(connection: Connection) -> None:
    arrive(connection, "new", "2")
    own(connection, "new")
    assert incompatible.leave_to_others(connection, "new", "i", ERROR, 50) is Status.STUCK
    assert shown(connection) == (Status.STUCK, None, True)
    arrive(connection, "also new", "2")
    assert shown(connection) == (Status.STUCK, None, True)
    arrive(connection, "old", "1")
    assert shown(connection) == (Status.PENDING, at_once(10), False)
    assert (claims(connection, "also new"), claims(connection, "old")) == ([], ["i"])


def test_it_is_stuck_when_the_last_worker_has_gone_that_may_fit(connection: Connection) -> None:
    arrive(connection, "new", "2")
    arrive(connection, "old", "1")
    own(connection, "new")
    incompatible.leave_to_others(connection, "new", "i", ERROR, 50)
    assert incompatible.sweep(connection, 60) == []
    leave(connection, "old")
    assert incompatible.sweep(connection, 60) == [incompatible.Parked("i", "w", 1, None, ERROR)]
    assert shown(connection) == (Status.STUCK, None, True)
    assert incompatible.sweep(connection, 70) == []


def test_a_worker_that_arrives_while_it_is_marked_gets_it_at_the_next_sweep(connection: Connection) -> None:
    arrive(connection, "new", "2")
    own(connection, "new")
    incompatible.leave_to_others(connection, "new", "i", ERROR, 50)
    process = Process("another machine", 1, "", "old")
    assert join(connection, "old", process, 10, 1_000, "1") is not None  # its arrival has not seen the mark
    assert incompatible.sweep(connection, 60) == []
    assert shown(connection) == (Status.PENDING, at_once(60), False)
    assert (claims(connection, "new"), claims(connection, "old")) == ([], ["i"])


def test_what_is_stuck_for_another_reason_stays_so(connection: Connection) -> None:
    arrive(connection, "new", "2")
    own(connection, "new")
    incompatible.leave_to_others(connection, "new", "i", ERROR, 50)
    deadly = error_text(ErrorInfo("trio_romancy.WorkflowStuckError", "it takes its workers down"))
    connection.execute(tables.instances.update().values(error=deadly))
    arrive(connection, "old", "1")
    incompatible.sweep(connection, 60)
    assert shown(connection) == (Status.STUCK, None, True)


def test_two_versions_that_both_do_not_fit_do_not_take_turns(connection: Connection) -> None:
    arrive(connection, "new", "2")
    arrive(connection, "old", "1")
    own(connection, "new")
    assert incompatible.leave_to_others(connection, "new", "i", ERROR, 50) is Status.PENDING
    assert claims(connection, "old") == ["i"]
    assert incompatible.leave_to_others(connection, "old", "i", ERROR, 60) is Status.STUCK
    assert claims(connection, "old") == claims(connection, "new") == []


def test_anybody_may_roll_a_misfit_back(connection: Connection) -> None:
    arrive(connection, "new", "2")
    own(connection, "new")
    incompatible.leave_to_others(connection, "new", "i", ERROR, 50)
    answer = steering.request_cancel(connection, "i", None, 60)
    assert answer is not None and answer.accepted
    assert claims(connection, "new") == ["i"]


def test_after_resuming_all_versions_may_try_again(connection: Connection) -> None:
    arrive(connection, "new", "2")
    own(connection, "new")
    incompatible.leave_to_others(connection, "new", "i", ERROR, 50)
    assert steering.resume(connection, "i", 60)
    assert claims(connection, "new") == ["i"]


def test_what_is_known_of_ended_instances_is_forgotten(connection: Connection) -> None:
    arrive(connection, "new", "2")
    own(connection, "new")
    incompatible.leave_to_others(connection, "new", "i", ERROR, 50)
    connection.execute(tables.instances.update().values(status=Status.CANCELLED))
    assert incompatible.has_any(connection)
    incompatible.sweep(connection, 60)
    assert not incompatible.has_any(connection)
