"""The small parts of a run, each by itself: cursor, ids, scope, operations in flight."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from trio_romancy import NonDeterminismError, OperationIdError
from trio_romancy._data.journal_format import AttemptFailed, Kept, Patched, TimerFired
from trio_romancy._runtime.run.exits import RunGone
from trio_romancy._runtime.run.function_scope import FunctionScope
from trio_romancy._runtime.run.journal_cursor import JournalCursor
from trio_romancy._runtime.run.operation import InFlight, Operation
from trio_romancy._runtime.run.operation_ids import OperationIds
from trio_romancy._storage.sql.entries import JournalEntry
from trio_romancy.model import EntryKind

FIRED = frozenset({EntryKind.TIMER_FIRED})


def fired(seq: int, operation_id: str | None = None) -> JournalEntry:
    return JournalEntry(seq, operation_id or f"sleep:{seq}", EntryKind.TIMER_FIRED, TimerFired(), 100 + seq)


def failed(seq: int, operation_id: str) -> JournalEntry:
    return JournalEntry(seq, operation_id, EntryKind.ATTEMPT_FAILED, AttemptFailed("E", "m", "t", 1), 100 + seq)


def patched(seq: int, change: str) -> JournalEntry:
    return JournalEntry(seq, change, EntryKind.PATCHED, Patched(), 100 + seq)


def cursor(*entries: JournalEntry) -> JournalCursor:
    return JournalCursor("i", 7, entries)


# -- the cursor --------------------------------------------------------------------------------------------------------


def test_an_empty_journal_is_used_up_and_its_time_is_that_of_the_start() -> None:
    empty = cursor()
    assert (empty.next_entry(), empty.now, empty.taken, empty.was_cancelled) == (None, 7, 0, False)
    assert empty.take("sleep:1", FIRED) is None


def test_the_journal_is_told_in_its_order_and_time_goes_with_it() -> None:
    some = cursor(fired(1), failed(2, "a:1"), fired(3))
    assert some.take("sleep:3", FIRED) is None  # it is not its turn
    assert some.take("sleep:1", frozenset({EntryKind.PUBLISHED})) is None
    assert some.take("sleep:1", FIRED) == fired(1)
    assert (some.now, some.taken) == (101, 1)
    assert some.next_entry() == fired(3)  # a failed attempt is told to no workflow
    some.advance(fired(3))
    assert (some.next_entry(), some.now, some.taken) == (None, 103, 2)


def test_failed_attempts_are_counted_for_each_operation_from_where_they_count() -> None:
    some = cursor(failed(1, "a:1"), failed(2, "b:1"), failed(3, "a:1"))
    some.add_failure(failed(4, "a:1"))
    assert [entry.seq for entry in some.failures_of("a:1")] == [1, 3, 4]
    assert [*some.failures_of("c:1")] == []
    some.forget_failures("a:1", 3)
    some.forget_failures("c:1", 3)
    assert [entry.seq for entry in some.failures_of("a:1")] == [4]
    assert [entry.seq for entry in some.failures_of("b:1")] == [2]


def test_an_outcome_from_before_a_retry_counts_once_and_for_its_own_operation() -> None:
    kept = JournalEntry(2, "sleep:2", EntryKind.KEPT, Kept(EntryKind.TIMER_FIRED, TimerFired()), 102)
    some = cursor(fired(1), kept)
    assert some.take_kept("sleep:1", FIRED) is None
    outcome = some.take_kept("sleep:2", FIRED)
    assert outcome is not None
    assert (outcome.kind, outcome.operation_id) == (EntryKind.TIMER_FIRED, "sleep:2")
    assert some.take_kept("sleep:2", FIRED) is None


def test_an_outcome_that_was_asked_for_since_the_retry_is_not_kept_twice() -> None:
    kept = JournalEntry(1, "sleep:1", EntryKind.KEPT, Kept(EntryKind.TIMER_FIRED, TimerFired()), 101)
    assert cursor(kept, fired(2, "sleep:1")).take_kept("sleep:1", FIRED) is None


def test_a_change_goes_its_recorded_way_else_the_new_way_at_the_end_and_the_old_way_before() -> None:
    some = cursor(fired(1), patched(2, "one"), fired(3))
    assert some.is_patched("one", "") is True
    assert some.is_patched("two", "") is False  # the journal has passed here without it
    some.advance(fired(1))
    some.advance(fired(3))
    assert some.is_patched("three", "") is None
    assert some.is_patched("two", "") is False  # as it was answered before


def test_a_change_that_the_code_has_not_asked_for_contradicts_it() -> None:
    some = cursor(patched(1, "one"))
    assert isinstance(some.unasked_change(), NonDeterminismError)
    assert some.is_patched("one", "")
    assert some.unasked_change() is None


def test_a_mismatch_says_what_the_journal_holds_and_what_the_code_asks_for() -> None:
    some = cursor(fired(1))
    assert "has ended or asks for nothing" in str(some.mismatch([]))
    assert "timer_fired of 'sleep:1' (entry 1)" in str(some.mismatch([]))


# -- ids ---------------------------------------------------------------------------------------------------------------


async def new_ids() -> tuple[OperationIds, trio.lowlevel.Task]:
    ids, task = OperationIds("i"), trio.lowlevel.current_task()
    ids.begin(task)
    return ids, task


async def test_ids_are_counted_by_name_and_by_branch() -> None:
    ids, task = await new_ids()
    assert [ids.new_id(task, name, None, "activity") for name in ("a", "b", "a")] == ["a:1", "b:1", "a:2"]
    with ids.branch("left"):
        assert ids.prefix == "left/"
        assert ids.new_id(task, "a", None, "activity") == "left/a:1"
        with ids.branch("inner"):
            assert ids.new_id(task, "a", None, "activity") == "left/inner/a:1"
    assert ids.new_id(task, "a", None, "activity") == "a:3"


async def test_an_id_or_a_branch_is_used_once() -> None:
    ids, task = await new_ids()
    assert ids.new_id(task, "a", "mine", "activity") == "mine"
    with pytest.raises(OperationIdError, match="'mine' is used a second time"):
        ids.new_id(task, "b", "mine", "activity")
    with ids.branch("left"):
        pass
    with pytest.raises(OperationIdError, match="has been opened before"), ids.branch("left"):
        pass
    with pytest.raises(OperationIdError, match="needs a name"), ids.branch(""):
        pass


async def test_a_child_task_without_a_branch_has_no_automatic_ids_nor_random_numbers() -> None:
    ids, _ = await new_ids()

    async def in_a_child_task() -> None:
        task = trio.lowlevel.current_task()
        with pytest.raises(OperationIdError, match="in a child task"):
            ids.new_id(task, "a", None, "activity")
        with pytest.raises(OperationIdError, match="in a child task"):
            ids.random()
        assert ids.new_id(task, "a", "mine", "activity") == "mine"
        with ids.branch("own"):
            assert ids.new_id(task, "a", None, "activity") == "own/a:1"
            ids.random()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(in_a_child_task)


@given(st.lists(st.sampled_from("abc"), max_size=20))
def test_every_run_counts_the_same_ids_and_draws_the_same_numbers(names: Sequence[str]) -> None:
    async def once() -> list[object]:
        ids, task = await new_ids()
        found: list[object] = [ids.new_id(task, name, None, "activity") for name in names]
        found.append(ids.random().random())
        with ids.branch("left"):
            found.append(ids.random().random())
        return found

    first, second = trio.run(once), trio.run(once)
    assert first == second
    assert len(set(first)) == len(first)


# -- the scope of the workflow function --------------------------------------------------------------------------------


@pytest.mark.parametrize("is_up", [True, False])
@pytest.mark.parametrize("at_once", [True, False])
async def test_a_shield_holds_a_request_back_but_no_order_to_stop_at_once(at_once: bool, is_up: bool) -> None:
    function = FunctionScope()
    with trio.CancelScope() as function.scope:
        function.shield = is_up
        (function.cancel if at_once else function.request_cancel)()
        assert function.scope.cancel_called is (at_once or not is_up)
        function.shield = False
        assert function.scope.cancel_called
        await trio.lowlevel.checkpoint()
    assert function.scope.cancelled_caught


async def test_a_scope_that_nothing_asked_to_cancel_is_not_cancelled_when_its_shield_comes_down() -> None:
    function = FunctionScope()
    with trio.CancelScope() as function.scope:
        function.shield = True
        function.shield = False
        await trio.lowlevel.checkpoint()
    assert not function.scope.cancelled_caught


def test_before_and_after_the_workflow_function_there_is_nothing_to_cancel() -> None:
    function = FunctionScope()
    function.cancel()
    function.request_cancel()
    assert function.scope is None


# -- operations in flight ----------------------------------------------------------------------------------------------


async def test_an_operation_that_is_given_up_hears_nothing_any_more() -> None:
    in_flight = InFlight()
    waiting, told = (Operation(id, "sleep", FIRED, task=trio.lowlevel.current_task()) for id in ("w", "t"))
    heard: list[object] = []

    async def wait(operation: Operation) -> None:
        with trio.CancelScope(shield=True):
            try:
                heard.append(await operation.wait())
            except RunGone:
                heard.append(RunGone)

    async with trio.open_nursery() as nursery:
        for operation in (waiting, told):
            in_flight.add(operation)
            nursery.start_soon(wait, operation)
        await trio.testing.wait_all_tasks_blocked()
        told.tell(fired(1, "t"))
        in_flight.give_up_all()
    assert heard == [RunGone, RunGone]
    with pytest.raises(RunGone):
        await waiting.wait()


async def test_an_operation_is_open_until_it_has_an_outcome_or_ends() -> None:
    in_flight = InFlight()
    one, other = Operation("a", "sleep", FIRED), Operation("b", "sleep", FIRED)
    for operation in (one, other):
        in_flight.add(operation)
        assert operation.is_open
    one.tell(fired(1, "a"))
    in_flight.remove(other)
    assert not one.is_open
    assert not other.is_open
    assert in_flight.asked_for(fired(1, "a")) is one
    assert in_flight.asked_for(fired(1, "b")) is None


async def test_whether_all_operations_only_wait_is_counted() -> None:
    in_flight, task = InFlight(), trio.lowlevel.current_task()
    assert not in_flight.only_waits()
    timeout, sleep = Operation("t", "timeout", FIRED), Operation("s", "sleep", FIRED, task=task, waits=True)
    activity = Operation("a", "activity", FIRED, task=task)
    in_flight.add(timeout)
    assert not in_flight.only_waits()  # no task awaits it
    in_flight.add(sleep)
    assert in_flight.only_waits()
    in_flight.add(activity)
    assert not in_flight.only_waits()
    for _ in range(2):
        activity.waits = True
        assert in_flight.only_waits()
    activity.waits = False
    assert not in_flight.only_waits()
    in_flight.remove(activity)
    activity.waits = True  # late, and without effect
    assert in_flight.only_waits()
    in_flight.remove(sleep)
    assert not in_flight.only_waits()
