"""Instances and their journals as rows: storing, claiming, closing, cancelling, resuming, reading."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import IntegrityError

from trio_romancy._data.end_request import EndRequest
from trio_romancy._data.journal_format import (
    ActivityCompleted,
    Payload,
    Resumed,
    TimerFired,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowFailed,
    WorkflowRecurred,
    WorkflowTerminated,
    error_text,
)
from trio_romancy._storage.sql import tables
from trio_romancy._storage.sql.claims import claim_due
from trio_romancy._storage.sql.entries import (
    JournalEntry,
    entry_row,
    has_entry,
    insert_entries,
    load_entries,
    load_history,
)
from trio_romancy._storage.sql.instances import (
    close_instances,
    closing_row,
    get_ending,
    get_instance,
    insert_instances,
    insert_instances_if_absent,
    new_row,
    start_instance,
    update_instances,
    update_row,
)
from trio_romancy._storage.sql.steering import Cancelled, request_cancel, resume
from trio_romancy._storage.sql.wake_ups import next_wake
from trio_romancy.clock import at_once, to_datetime
from trio_romancy.errors import InstanceExistsError
from trio_romancy.model import EntryKind, ErrorInfo, Status

Row = dict[str, Any]

ERROR = ErrorInfo("ValueError", "bad", "Traceback...")
UNCOMPENSATED = ErrorInfo("ValueError", "bad", uncompensated=["charge:1"])


def stored(connection: Connection, instance_id: str) -> Row:
    found = connection.execute(select(tables.instances).where(tables.instances.c.instance_id == instance_id))
    return dict(found.mappings().one())


def store(connection: Connection, instance_id: str, *, owner: str | None = None, **values: object) -> None:
    """Store an instance: by default one that is pending and due since 100."""
    values = {
        "status": Status.PENDING if owner is None else Status.RUNNING,
        "wake_at": 100 if owner is None else None,
    } | values
    workflow = values.pop("workflow", "w")
    insert_instances(connection, [new_row(instance_id, str(workflow), '{"a":1}', 100, owner=owner)])
    connection.execute(tables.instances.update().where(tables.instances.c.instance_id == instance_id).values(**values))


FUNCTION_ENDS: dict[EntryKind, Payload] = {
    EntryKind.WORKFLOW_COMPLETED: WorkflowCompleted(),
    EntryKind.WORKFLOW_FAILED: WorkflowFailed("ValueError", "no", "", 1),
    EntryKind.WORKFLOW_TERMINATED: WorkflowTerminated("enough", compensates=False, running=[]),
    EntryKind.WORKFLOW_CANCELLED: WorkflowCancelled(None),
    EntryKind.WORKFLOW_RECURRED: WorkflowRecurred("a#2"),
}


def record(connection: Connection, instance_id: str, seq: int, payload: Payload) -> None:
    insert_entries(connection, [entry_row(instance_id, JournalEntry(seq, f"op:{seq}", payload.KIND, payload, seq))])


# -- storing -----------------------------------------------------------------------------------------------------------


def test_a_new_instance_without_an_owner_is_pending_and_due_now(connection: Connection) -> None:
    insert_instances(connection, [new_row("a", "w", "{}", 100, owner=None)])
    row = stored(connection, "a")
    assert (row["status"], row["owner"], row["wake_at"], row["created_at"]) == ("pending", None, at_once(100), 100)


def test_a_new_instance_with_an_owner_is_running_and_wants_nobody_s_attention(connection: Connection) -> None:
    insert_instances(connection, [new_row("a", "w", "{}", 100, owner="me")])
    row = stored(connection, "a")
    assert (row["status"], row["owner"], row["wake_at"], row["recoveries"]) == ("running", "me", None, 0)


def test_an_instance_is_started_once_however_often_it_is_asked_for(connection: Connection) -> None:
    start_instance(connection, new_row("a", "w", '{"a":1,"b":2}', 100, owner=None))
    start_instance(connection, new_row("a", "w", '{"b":2, "a":1}', 200, owner="me"))
    row = stored(connection, "a")
    assert (row["input"], row["created_at"], row["owner"]) == ('{"a":1,"b":2}', 100, None)


@pytest.mark.parametrize(
    ("workflow", "text", "difference"),
    [("v", '{"a":1}', "workflow 'w', not 'v'"), ("w", '{"a":2}', "another input"), ("v", '{"a":2}', "workflow 'w'")],
)
def test_an_id_that_is_taken_is_refused_and_its_holder_unharmed(
    connection: Connection, workflow: str, text: str, difference: str
) -> None:
    store(connection, "a")
    before = stored(connection, "a")
    with pytest.raises(InstanceExistsError, match=f"instance 'a' exists already with {difference}") as caught:
        start_instance(connection, new_row("a", workflow, text, 200, owner=None))
    assert caught.value.instance_id == "a"
    assert stored(connection, "a") == before


def test_instances_that_are_absent_are_stored_beside_those_that_are_not(connection: Connection) -> None:
    store(connection, "a", owner="other")
    found = insert_instances_if_absent(connection, [new_row(id, "w", "{}", 200, owner="me") for id in "ab"])
    assert {id: (row.owner, row.created_at) for id, row in found.items()} == {"a": ("other", 100), "b": ("me", 200)}


def test_more_instances_than_one_query_takes_are_stored_and_found(connection: Connection) -> None:
    rows = [new_row(f"{number}", "w", "{}", 1, owner=None) for number in range(1_201)]
    assert len(insert_instances_if_absent(connection, rows)) == 1_201
    request_cancel(connection, "1200", "enough", 1)
    ends = [closing_row(f"{n}", Status.COMPLETED, 2, owner=None, output="1", error=None) for n in range(1_201)]
    assert close_instances(connection, ends) == {"1200": EndRequest("enough", 1).to_text()}
    closed = select(func.count()).where(tables.instances.c.status == Status.COMPLETED)
    assert connection.execute(closed).scalar() == 1_200


def test_ids_are_told_apart_by_case_trailing_spaces_and_accents(connection: Connection) -> None:
    ids = ["a", "A", "a ", "\N{LATIN SMALL LETTER A WITH ACUTE}"]
    insert_instances(connection, [new_row(id, "w", "{}", 1, owner=None) for id in ids])
    assert [found.instance_id for id in ids if (found := get_instance(connection, id))] == ids


def test_an_entry_cannot_take_the_place_of_another(connection: Connection) -> None:
    record(connection, "a", 1, ActivityCompleted(1))
    with pytest.raises(IntegrityError), connection.begin_nested():
        record(connection, "a", 1, TimerFired())
    assert [entry.payload for entry in load_entries(connection, "a")] == [ActivityCompleted(1)]


# -- claiming ----------------------------------------------------------------------------------------------------------


def claim(
    connection: Connection, now: int = 100, limit: int = 10, *, suspects: bool = True, of: Sequence[str] = ("w",)
) -> list[str]:
    return [claim.instance_id for claim in claim_due(connection, "me", now, of, limit, suspects=suspects)]


def test_what_is_due_and_owned_by_nobody_is_claimed_the_longest_due_first(connection: Connection) -> None:
    store(connection, "due", wake_at=100)
    store(connection, "long due", wake_at=7)
    store(connection, "not yet due", wake_at=101)
    store(connection, "never due", wake_at=None)
    store(connection, "owned", owner="other")
    store(connection, "owned and due", owner="other", wake_at=50)
    assert claim(connection) == ["long due", "due"]


def test_a_claim_makes_the_worker_the_owner_and_nobody_else_can_claim_it(connection: Connection) -> None:
    store(connection, "a", wake_at=7, recoveries=1, cancel_requested='"why"')
    (found,) = claim_due(connection, "me", 100, ["w"], 10, suspects=False)
    assert (found.instance_id, found.workflow, found.status, found.input) == ("a", "w", Status.PENDING, '{"a":1}')
    assert (found.created_at, found.recoveries, found.cancel_requested) == (100, 1, '"why"')
    row = stored(connection, "a")
    assert (row["owner"], row["wake_at"], row["status"], row["updated_at"]) == ("me", None, "running", 100)
    assert claim_due(connection, "other", 200, ["w"], 10, suspects=True) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Status.PENDING, Status.RUNNING),
        (Status.RUNNING, Status.RUNNING),
        (Status.WAITING, Status.RUNNING),
        (Status.COMPENSATING, Status.COMPENSATING),
    ],
)
def test_a_claim_sets_an_instance_running_unless_it_is_being_compensated(
    connection: Connection, before: Status, after: Status
) -> None:
    store(connection, "a", status=before)
    (found,) = claim_due(connection, "me", 100, ["w"], 10, suspects=False)
    assert (found.status, stored(connection, "a")["status"]) == (before, after)


def test_no_more_are_claimed_than_there_is_room_for(connection: Connection) -> None:
    for number in range(5):
        store(connection, f"{number}", wake_at=number)
    assert claim(connection, limit=2) == ["0", "1"]
    assert claim(connection, limit=0) == []
    assert claim(connection, limit=9) == ["2", "3", "4"]


def test_what_is_due_at_once_is_claimed_whatever_the_clock_shows_and_in_turn_with_timers(
    connection: Connection,
) -> None:
    for number in range(0, 6, 2):
        store(connection, f"{number}", wake_at=at_once(number))
        store(connection, f"{number + 1}", wake_at=number + 1)
    store(connection, "by a clock that was ahead", wake_at=at_once(10**15))
    assert claim(connection, limit=3) == ["0", "1", "2"]
    assert claim(connection, limit=2) == ["3", "4"]
    assert claim(connection, limit=9) == ["by a clock that was ahead", "5"]


def test_a_claim_says_since_when_the_instance_has_been_due(connection: Connection) -> None:
    store(connection, "at once", wake_at=at_once(70))
    store(connection, "by a timer", wake_at=80)
    claims = claim_due(connection, "me", 100, ["w"], 10, suspects=False)
    assert {one.instance_id: one.due_at for one in claims} == {"at once": 70, "by a timer": 80}


def test_own_instances_that_want_attention_are_claimed_however_full_the_worker_is(connection: Connection) -> None:
    store(connection, "mine and due", owner="me", wake_at=50)
    store(connection, "mine", owner="me")
    store(connection, "mine, later", owner="me", wake_at=101)
    store(connection, "free")
    assert claim(connection, limit=0) == ["mine and due"]
    assert stored(connection, "mine and due")["wake_at"] is None


def test_instances_of_workflows_that_the_worker_does_not_know_are_left_alone(connection: Connection) -> None:
    store(connection, "known", workflow="w")
    store(connection, "unknown", workflow="v")
    assert claim(connection, of=()) == []
    assert claim(connection, of=["w", "x"]) == ["known"]
    assert stored(connection, "unknown")["owner"] is None


@pytest.mark.parametrize("limit", [3, 10])  # there may be more than that, or not
def test_suspects_are_claimed_one_at_a_time_after_the_others_the_least_suspect_first(
    connection: Connection, limit: int
) -> None:
    store(connection, "bad", recoveries=3, wake_at=1)
    store(connection, "suspect", recoveries=2, wake_at=20)
    store(connection, "older suspect", recoveries=2, wake_at=10)
    store(connection, "unlucky", recoveries=1, wake_at=40)
    store(connection, "good", wake_at=30)
    assert claim(connection, limit=limit) == ["good", "unlucky", "older suspect"]
    assert claim(connection, limit=limit) == ["suspect"]
    assert claim(connection, limit=limit) == ["bad"]


def test_no_suspect_is_claimed_while_another_is_watched_or_there_is_no_room(connection: Connection) -> None:
    store(connection, "suspect", recoveries=2)
    store(connection, "good")
    assert claim(connection, limit=1) == ["good"]
    assert claim(connection, suspects=False) == []
    assert claim(connection, limit=0) == []
    assert claim(connection, limit=1) == ["suspect"]


def test_own_instances_take_no_room_away_from_a_suspect(connection: Connection) -> None:
    store(connection, "mine", owner="me", wake_at=50)
    store(connection, "suspect", recoveries=2)
    assert claim(connection, limit=1) == ["mine", "suspect"]


def test_an_own_suspect_is_told_what_it_wants_to_know(connection: Connection) -> None:
    store(connection, "mine", owner="me", recoveries=5, wake_at=50)
    assert claim(connection, suspects=False) == ["mine"]


# -- the next wake-up --------------------------------------------------------------------------------------------------


def test_the_next_wake_up_is_that_of_the_first_instance_that_could_be_claimed(connection: Connection) -> None:
    store(connection, "free", wake_at=300)
    store(connection, "later", wake_at=400)
    store(connection, "other's", owner="other", wake_at=1)
    store(connection, "unknown", workflow="v", wake_at=2)
    store(connection, "never", wake_at=None)
    assert next_wake(connection, "me", ["w"], suspects=True) == 300
    store(connection, "mine", owner="me", wake_at=200)
    assert next_wake(connection, "me", ["w"], suspects=True) == 200


def test_a_suspect_wakes_nobody_while_another_is_watched_unless_it_is_the_worker_s_own(connection: Connection) -> None:
    store(connection, "suspect", recoveries=2, wake_at=100)
    assert next_wake(connection, "me", ["w"], suspects=True) == 100
    assert next_wake(connection, "me", ["w"], suspects=False) is None
    store(connection, "unlucky", recoveries=1, wake_at=300)
    assert next_wake(connection, "me", ["w"], suspects=False) == 300
    store(connection, "own suspect", owner="me", recoveries=2, wake_at=200)
    assert next_wake(connection, "me", ["w"], suspects=False) == 200


def test_what_is_held_back_is_not_claimed_and_wakes_nobody(connection: Connection) -> None:
    store(connection, "held", held=1, wake_at=100)
    store(connection, "free", wake_at=200)
    assert next_wake(connection, "me", ["w"], suspects=True) == 200
    assert claim(connection, now=1_000) == ["free"]


def test_a_worker_with_a_backlog_takes_what_has_been_due_longest_of_each_workflow(connection: Connection) -> None:
    for number in range(6):
        store(connection, f"w{number}", wake_at=number, workflow="w")
        store(connection, f"v{number}", wake_at=at_once(3 + number), workflow="v")
    found = claim_due(connection, "me", 100, ["w", "v"], 4, suspects=True)
    assert [one.instance_id for one in found] == ["w0", "w1", "w2", "v0"]
    assert next_wake(connection, "me", ["w", "v"], suspects=True) == at_once(4)


def test_nothing_wakes_a_worker_for_which_there_is_nothing(connection: Connection) -> None:
    assert next_wake(connection, "me", ["w"], suspects=True) is None
    store(connection, "a")
    assert next_wake(connection, "me", [], suspects=True) is None


@pytest.mark.parametrize("suspects", [True, False])
def test_a_worker_that_is_woken_finds_what_it_was_woken_for(connection: Connection, suspects: bool) -> None:
    for number, (owner, recoveries) in enumerate([(None, 0), (None, 2), ("me", 0), ("me", 3), ("other", 0)]):
        store(connection, f"{number}", owner=owner, recoveries=recoveries, wake_at=10 * number)
    while (wake := next_wake(connection, "me", ["w"], suspects=suspects)) is not None:
        assert claim(connection, now=wake, suspects=suspects)
    assert claim(connection, now=1_000, suspects=suspects) == []


# -- closing -----------------------------------------------------------------------------------------------------------


def test_the_end_of_a_workflow_function_is_stored_with_its_output(connection: Connection) -> None:
    store(connection, "a", owner="me", wake_at=50)
    close_instances(connection, [closing_row("a", Status.COMPLETED, 200, owner=None, output="[1]", error=None)])
    row = stored(connection, "a")
    assert (row["status"], row["output"], row["error"], row["owner"]) == ("completed", "[1]", None, None)
    assert (row["wake_at"], row["updated_at"], row["finished_at"]) == (None, 200, 200)
    assert get_ending(connection, "a") == (Status.COMPLETED, "[1]", None)


def test_an_instance_that_goes_on_to_compensate_keeps_its_owner_and_is_not_finished(connection: Connection) -> None:
    store(connection, "a", owner="me")
    close_instances(connection, [closing_row("a", Status.COMPENSATING, 200, owner="me", output=None, error=ERROR)])
    row = stored(connection, "a")
    assert (row["status"], row["owner"], row["finished_at"]) == ("compensating", "me", None)
    assert get_ending(connection, "a") == (Status.COMPENSATING, None, ERROR)


def test_a_cancel_request_that_came_first_refuses_the_end_of_the_workflow_function(connection: Connection) -> None:
    for id in "abc":
        store(connection, id, owner="me")
    assert request_cancel(connection, "b", "enough", 150) == Cancelled(True, Status.RUNNING)
    before = stored(connection, "b")
    rows = [closing_row(id, Status.COMPLETED, 200, owner=None, output="1", error=None) for id in "abc"]
    assert close_instances(connection, rows) == {"b": EndRequest("enough", 150).to_text()}
    assert stored(connection, "b") == before
    assert [stored(connection, id)["status"] for id in "ac"] == ["completed", "completed"]


# -- changing the status -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "wanted", "after"),
    [
        pytest.param(None, None, None, id="nobody wants anything"),
        pytest.param(None, 200, 200, id="only the actor has a deadline"),
        pytest.param(150, None, 150, id="only somebody else wants attention"),
        pytest.param(150, 200, 150, id="somebody else wants it earlier"),
        pytest.param(150, 100, 100, id="the actor's deadline is earlier"),
        pytest.param(150, 150, 150, id="both at the same time"),
    ],
)
def test_an_earlier_wake_up_that_somebody_else_has_asked_for_is_kept(
    connection: Connection, before: int | None, wanted: int | None, after: int | None
) -> None:
    store(connection, "a", owner="me", wake_at=before)
    update_instances(connection, [update_row("a", Status.WAITING, 120, owner=None, wake_at=wanted)])
    row = stored(connection, "a")
    assert (row["status"], row["owner"], row["wake_at"], row["updated_at"]) == ("waiting", None, after, 120)


@pytest.mark.parametrize("status", [status for status in Status if status.is_final])
def test_an_instance_that_has_ended_never_wakes(connection: Connection, status: Status) -> None:
    store(connection, "a", owner="me", wake_at=150)
    update_instances(connection, [update_row("a", status, 200, owner=None, wake_at=300)])
    row = stored(connection, "a")
    assert (row["wake_at"], row["finished_at"], row["status"]) == (None, 200, status)


def test_progress_forgives_the_deaths_before_it(connection: Connection) -> None:
    store(connection, "a", owner="me", recoveries=3)
    update_instances(connection, [update_row("a", Status.RUNNING, 200, owner="me")])
    row = stored(connection, "a")
    assert (row["recoveries"], row["owner"], row["finished_at"]) == (0, "me", None)


def test_an_error_stays_until_another_takes_its_place(connection: Connection) -> None:
    store(connection, "a", owner="me")
    for error, expected in ((ERROR, ERROR), (None, ERROR), (UNCOMPENSATED, UNCOMPENSATED)):
        update_instances(connection, [update_row("a", Status.COMPENSATING, 200, owner="me", error=error)])
        assert get_ending(connection, "a") == (Status.COMPENSATING, None, expected)


def test_many_updates_each_change_their_own_instance(connection: Connection) -> None:
    store(connection, "a", owner="me", wake_at=10)
    store(connection, "b", owner="me")
    rows = [
        update_row("a", Status.WAITING, 200, owner=None),
        update_row("b", Status.WAITING, 200, owner=None, wake_at=5),
    ]
    update_instances(connection, rows)
    assert (stored(connection, "a")["wake_at"], stored(connection, "b")["wake_at"]) == (10, 5)


def test_of_several_updates_of_one_instance_the_last_counts(connection: Connection) -> None:
    store(connection, "a", owner="me")
    rows = [
        update_row("a", Status.RUNNING, 200, owner="me"),
        update_row("a", Status.COMPENSATING, 210, owner="me", error=ERROR),
        update_row("a", Status.FAILED, 220, owner=None),
    ]
    update_instances(connection, rows)
    row = stored(connection, "a")
    assert (row["status"], row["owner"], row["updated_at"], row["finished_at"]) == ("failed", None, 220, 220)
    assert get_ending(connection, "a") == (Status.FAILED, None, ERROR)


# -- cancelling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "accepted"),
    [
        (Status.PENDING, True),
        (Status.RUNNING, True),
        (Status.WAITING, True),
        (Status.STUCK, True),
        (Status.COMPENSATING, False),
        (Status.COMPLETED, False),
        (Status.FAILED, False),
        (Status.CANCELLED, False),
        (Status.RECURRED, False),
    ],
)
def test_a_cancel_request_is_accepted_until_the_workflow_function_has_ended(
    connection: Connection, status: Status, accepted: bool
) -> None:
    store(connection, "a", status=status, wake_at=None)
    before = stored(connection, "a")
    assert request_cancel(connection, "a", "enough", 200) == Cancelled(accepted, status)
    request = EndRequest("enough", 200).to_text()
    changed = {"cancel_requested": request, "wake_at": at_once(200), "updated_at": 200} if accepted else {}
    assert stored(connection, "a") == before | changed


@pytest.mark.parametrize(
    "status",
    [Status.PENDING, Status.RUNNING, Status.WAITING, Status.STUCK, Status.COMPENSATING, Status.CANCELLED],
)
def test_once_accepted_a_cancel_request_stays_accepted_with_its_first_reason(
    connection: Connection, status: Status
) -> None:
    store(connection, "a", cancel_requested='"first"', status=status)
    before = stored(connection, "a")
    assert request_cancel(connection, "a", "second", 200) == Cancelled(True, status)
    assert stored(connection, "a") == before


def test_a_cancel_request_without_a_reason_is_one(connection: Connection) -> None:
    store(connection, "a")
    assert request_cancel(connection, "a", None, 200) == Cancelled(True, Status.PENDING)
    assert stored(connection, "a")["cancel_requested"] == EndRequest(None, 200).to_text()
    assert request_cancel(connection, "a", "second", 300) == Cancelled(True, Status.PENDING)
    assert stored(connection, "a")["cancel_requested"] == EndRequest(None, 200).to_text()


def test_an_instance_that_is_not_there_cannot_be_cancelled(connection: Connection) -> None:
    assert request_cancel(connection, "nobody", None, 200) is None


# -- resuming ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [None, ERROR, UNCOMPENSATED], ids=["no error", "error", "uncompensated"])
@pytest.mark.parametrize("status", Status)
def test_only_what_is_stuck_or_was_not_compensated_is_resumed(
    connection: Connection, status: Status, error: ErrorInfo | None
) -> None:
    store(connection, "a", wake_at=None)
    update_instances(connection, [update_row("a", status, 150, owner=None, error=error)])
    if error is not None:
        record(connection, "a", 7, FUNCTION_ENDS[EntryKind.WORKFLOW_FAILED])
    before = stored(connection, "a"), load_entries(connection, "a")
    is_resumable = status is Status.STUCK or (status in (Status.FAILED, Status.CANCELLED) and error is UNCOMPENSATED)
    assert resume(connection, "a", 200) is is_resumable
    if is_resumable:
        row = stored(connection, "a")
        assert (row["wake_at"], row["recoveries"]) == (at_once(200), 0)
        assert (row["updated_at"], row["finished_at"]) == (200, None)
        assert [entry.kind for entry in load_entries(connection, "a")][-1] is EntryKind.RESUMED
    else:
        assert (stored(connection, "a"), load_entries(connection, "a")) == before


def test_a_stuck_instance_runs_on_and_its_error_and_deaths_are_forgotten(connection: Connection) -> None:
    store(connection, "a", status=Status.STUCK, error=error_text(ERROR), recoveries=4)
    record(connection, "a", 3, ActivityCompleted(1))
    assert resume(connection, "a", 200)
    assert get_ending(connection, "a") == (Status.RUNNING, None, None)
    assert load_entries(connection, "a")[1:] == [JournalEntry(4, "", EntryKind.RESUMED, Resumed(), 200)]
    assert claim(connection, now=200, suspects=False) == ["a"]


@pytest.mark.parametrize("end", [kind for kind in EntryKind if kind.ends_function])
@pytest.mark.parametrize("status", [Status.STUCK, Status.FAILED, Status.CANCELLED])
def test_an_instance_whose_function_has_ended_goes_on_compensating(
    connection: Connection, end: EntryKind, status: Status
) -> None:
    store(connection, "a")
    record(connection, "a", 1, ActivityCompleted(1))
    record(connection, "a", 2, FUNCTION_ENDS[end])
    update_instances(connection, [update_row("a", status, 150, owner=None, error=UNCOMPENSATED)])
    assert resume(connection, "a", 200)
    assert get_ending(connection, "a") == (Status.COMPENSATING, None, UNCOMPENSATED)
    (found,) = claim_due(connection, "me", 200, ["w"], 1, suspects=False)
    assert found.status is Status.COMPENSATING


def test_an_instance_without_a_journal_can_be_resumed(connection: Connection) -> None:
    store(connection, "a", status=Status.STUCK)
    assert resume(connection, "a", 200)
    assert [record.seq for record in load_entries(connection, "a")] == [1]


def test_an_instance_is_resumed_once(connection: Connection) -> None:
    store(connection, "a", status=Status.STUCK)
    assert [resume(connection, "a", 200), resume(connection, "a", 300)] == [True, False]


def test_an_instance_that_is_not_there_cannot_be_resumed(connection: Connection) -> None:
    assert resume(connection, "nobody", 200) is None


# -- reading -----------------------------------------------------------------------------------------------------------


def test_an_instance_is_read_as_it_was_stored(connection: Connection) -> None:
    store(connection, "a", owner="me", parent_id="p", continued_from="c")
    close_instances(connection, [closing_row("a", Status.COMPLETED, 200, owner=None, output='{"b":[2]}', error=None)])
    found = get_instance(connection, "a")
    assert found is not None
    assert (found.instance_id, found.workflow, found.status) == ("a", "w", Status.COMPLETED)
    assert (found.input, found.output, found.error) == ({"a": 1}, {"b": [2]}, None)
    times = (found.created_at, found.updated_at, found.finished_at)
    assert times == (to_datetime(100), to_datetime(200), to_datetime(200))
    assert (found.worker_id, found.parent_id, found.continued_from) == (None, "p", "c")


def test_an_instance_that_has_not_ended_has_no_output_error_or_finishing_time(connection: Connection) -> None:
    store(connection, "a", owner="me")
    found = get_instance(connection, "a")
    assert found is not None
    assert (found.output, found.error, found.finished_at, found.worker_id) == (None, None, None, "me")


def test_what_is_not_there_is_none(connection: Connection) -> None:
    assert get_instance(connection, "nobody") is None
    assert get_ending(connection, "nobody") is None
    assert load_history(connection, "nobody") == []


def test_the_journal_is_read_in_order_also_where_a_number_is_missing(connection: Connection) -> None:
    for seq in (10, 1, 9, 2):
        record(connection, "a", seq, ActivityCompleted(seq))
    record(connection, "b", 3, TimerFired())
    entries = load_history(connection, "a")
    assert [entry.seq for entry in entries] == [1, 2, 9, 10]
    last = entries[-1]
    assert (last.instance_id, last.operation_id, last.kind) == ("a", "op:10", EntryKind.ACTIVITY_COMPLETED)
    assert (last.payload, last.recorded_at) == ({"result": 10}, to_datetime(10))


def test_whether_an_entry_is_stored_can_be_asked(connection: Connection) -> None:
    record(connection, "a", 2, TimerFired())
    assert [has_entry(connection, "a", seq) for seq in (1, 2, 3)] == [False, True, False]
    assert not has_entry(connection, "b", 2)
