"""What is written to the journal is read back the same, and what cannot be read is told by one error."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_romancy import ChannelMode, DataProblem, EntryKind, ErrorInfo, InvalidDataError, Status
from trio_romancy._data import journal_format as journal
from trio_romancy._data.codec import dumps, loads
from trio_romancy._data.journal_format import Payload

text = st.text(max_size=20)
number = st.integers(0, 2**53)
optional = st.none() | text
data = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
named = st.dictionaries(text, data, max_size=3)
names = st.lists(text, max_size=3)
verdict = st.sampled_from(["", "exhausted", "terminal", "gave_up"])
failure = {"error_type": text, "message": text, "traceback": text, "attempts": number, "verdict": verdict}
digests = st.none() | st.dictionaries(text, text, max_size=3)
failure |= {"error_types": names.map(tuple), "details": data, "arguments": digests}
event = st.builds(journal.EventAttributes, id=text, source=text, subject=optional, time=st.none() | number)
received = {"seq": number, "sent_at": number, "sender": optional, "metadata": st.none() | named, "data": data}
problems = st.lists(st.builds(DataProblem, path=text, message=text), max_size=2)
error = st.builds(
    ErrorInfo, error_type=text, message=text, traceback=text, uncompensated=names, error_types=names, details=data
)
plan = st.builds(journal.PlannedCompensation, name=text, takes_result=st.booleans(), arguments=named)
mode_and_seq = st.tuples(st.sampled_from(ChannelMode).map(str), number)

outcomes: dict[EntryKind, st.SearchStrategy[Any]] = {
    EntryKind.ACTIVITY_COMPLETED: st.builds(
        journal.ActivityCompleted, result=data, compensation=st.none() | plan, arguments=digests
    ),
    EntryKind.ACTIVITY_FAILED: st.builds(journal.ActivityFailed, **failure),
    EntryKind.ACTIVITY_CANCELLED: st.builds(journal.ActivityCancelled)
    | st.builds(journal.ActivityCancelled, was_interrupted=st.just(True), compensation=st.none() | plan),
    EntryKind.ATTEMPT_FAILED: st.builds(journal.AttemptFailed, **failure),
    EntryKind.TIMER_FIRED: st.builds(journal.TimerFired),
    EntryKind.TIMEOUT_FIRED: st.builds(journal.TimeoutFired),
    EntryKind.EVENT_RECEIVED: st.builds(journal.EventReceived, event=event, **received)
    | st.builds(journal.EventReceived, event=event, channel=text, problems=problems, **received),
    EntryKind.MESSAGE_RECEIVED: st.builds(journal.MessageReceived, event=st.none() | event, **received)
    | st.builds(journal.MessageReceived, event=st.none() | event, channel=text, problems=problems, **received),
    EntryKind.WAIT_TIMED_OUT: st.builds(journal.WaitTimedOut),
    EntryKind.PUBLISHED: st.builds(journal.Published, channel=text, to=optional),
    EntryKind.SUBSCRIBED: st.builds(journal.Subscribed, channel=text, mode=st.sampled_from(ChannelMode), after=number),
    EntryKind.UNSUBSCRIBED: st.builds(journal.Unsubscribed, channel=text),
    EntryKind.CHILD_STARTED: st.builds(journal.ChildStarted, child=text, workflow=text, arguments=digests)
    | st.builds(journal.ChildStarted.named, child=text, workflow=text, refused=optional, arguments=digests),
    EntryKind.CHILD_ENDED: st.builds(
        journal.ChildEnded,
        child=text,
        workflow=text,
        status=st.sampled_from(Status),
        output=data,
        error=st.none() | error,
    ),
    EntryKind.CANCEL_REQUESTED: st.builds(journal.CancelRequested, reason=optional, running=st.lists(text, max_size=3)),
    EntryKind.WORKFLOW_COMPLETED: st.builds(journal.WorkflowCompleted),
    EntryKind.WORKFLOW_FAILED: st.builds(journal.WorkflowFailed, **failure),
    EntryKind.WORKFLOW_CANCELLED: st.builds(journal.WorkflowCancelled, reason=optional),
    EntryKind.WORKFLOW_TERMINATED: st.builds(
        journal.WorkflowTerminated, reason=optional, compensates=st.booleans(), running=st.lists(text, max_size=3)
    ),
    EntryKind.WORKFLOW_RECURRED: st.builds(journal.WorkflowRecurred, next=text),
    EntryKind.CONTINUED: st.builds(
        journal.CarryOver,
        received=st.lists(st.tuples(text, optional, number), max_size=3),
        consumed=st.dictionaries(text, st.lists(number, max_size=3), max_size=3),
        subscriptions=st.dictionaries(text, mode_and_seq, max_size=3),
        left=st.dictionaries(text, number, max_size=3),
    ),
    EntryKind.ROLLBACK_REQUESTED: st.builds(journal.RollbackRequested, reason=optional),
    EntryKind.COMPENSATION_COMPLETED: st.builds(journal.CompensationCompleted, had_nothing=st.booleans()),
    EntryKind.COMPENSATION_FAILED: st.builds(journal.CompensationFailed, **failure),
    EntryKind.PATCHED: st.builds(journal.Patched),
    EntryKind.RETRIED: st.builds(journal.Retried),
    EntryKind.RESUMED: st.builds(journal.Resumed),
}
kept = st.one_of(*outcomes.values()).map(lambda payload: journal.Kept(payload.KIND, payload))
payloads = outcomes | {EntryKind.KEPT: kept}


def test_each_kind_has_a_class_of_its_own() -> None:
    assert set(journal.CLASSES) == set(EntryKind) == set(payloads)
    assert len(set(journal.CLASSES.values())) == len(EntryKind)


@pytest.mark.parametrize("kind", EntryKind)
def test_what_is_written_is_read_back(kind: EntryKind) -> None:
    @given(payloads[kind])
    def test(payload: Payload) -> None:
        text = payload.to_text()
        assert type(payload) is journal.CLASSES[kind]
        assert text.isascii()
        assert not hasattr(payload, "__dict__")  # an actor holds as many as its journal has entries
        assert journal.read(str(kind), text) == (kind, payload)
        assert journal.from_data(kind, loads(text)).to_text() == text
        assert dumps(loads(text)) == text  # compact, like all JSON in the database

    test()


@pytest.mark.parametrize("kind", EntryKind)
def test_what_is_of_another_form_is_told_by_one_error(kind: EntryKind) -> None:
    @given(data)
    def test(raw: Any) -> None:
        try:
            read = journal.from_data(kind, raw)
        except InvalidDataError as error:
            assert str(kind) in str(error)
        else:
            assert type(read) is journal.CLASSES[kind]

    test()
    with pytest.raises(InvalidDataError, match=f"of kind {kind!s} cannot be read"):
        journal.from_text(kind, "{")


def test_a_kind_of_a_later_version_is_told_by_the_same_error() -> None:
    with pytest.raises(InvalidDataError, match=r"of kind dreamt cannot be read: .*does not know that kind"):
        journal.read("dreamt", "null")


@given(st.one_of(*payloads.values()), st.text(alphabet="xyz", min_size=1, max_size=3))
def test_a_key_of_a_later_version_is_passed_over(payload: Payload, key: str) -> None:
    raw = loads(payload.to_text())
    if isinstance(raw, dict):
        assert journal.from_data(payload.KIND, raw | {key: "new"}) == payload


def test_a_column_without_text_is_read_like_null() -> None:
    assert journal.from_text(EntryKind.TIMER_FIRED, None) == journal.TimerFired()


# -- texts that hold other texts ---------------------------------------------------------------------------------------


@given(data, st.none() | plan)
def test_the_text_of_a_result_is_put_in_as_it_is(result: Any, plan: journal.PlannedCompensation | None) -> None:
    spliced = journal.ActivityCompleted.text(dumps(result), None if plan is None else plan.to_text())
    assert spliced == journal.ActivityCompleted(result, plan).to_text()


@given(text, st.dictionaries(text, data, max_size=3), st.booleans())
def test_the_texts_of_arguments_are_put_in_as_they_are(name: str, arguments: dict[str, Any], takes: bool) -> None:
    texts = {argument: dumps(value) for argument, value in arguments.items()}
    plan = journal.PlannedCompensation(name, takes, arguments)
    assert journal.PlannedCompensation.text(name, texts, takes_result=takes) == plan.to_text()
    assert plan.arguments_with(7) == arguments | ({"result": 7} if takes else {})


@given(st.none() | event, st.none() | named, data)
def test_the_texts_of_a_message_are_put_in_as_they_are(
    event: journal.EventAttributes | None, metadata: dict[str, Any] | None, data: Any
) -> None:
    spliced = journal.received_text(1, 2, "me", event, None if metadata is None else dumps(metadata), dumps(data))
    assert spliced == journal.MessageReceived(1, 2, "me", event, metadata, data).to_text()
    if event is not None:
        assert spliced == journal.EventReceived(1, 2, "me", event, metadata, data).to_text()


@given(event, data, text, problems)
def test_what_a_wait_makes_of_a_message_is_put_in_as_it_is(
    event: journal.EventAttributes, data: Any, channel: str, problems: list[DataProblem]
) -> None:
    spliced = journal.receipt_text(journal.received_text(1, 2, "me", event, None, dumps(data)), channel, problems)
    assert spliced == journal.EventReceived(1, 2, "me", event, None, data, channel, problems).to_text()
    assert spliced == journal.MessageReceived(1, 2, "me", event, None, data, channel, problems).to_text()


@given(text, st.sampled_from(Status), data, st.none() | error)
def test_the_texts_of_an_end_are_put_in_as_they_are(
    child: str, status: Status, output: Any, error: ErrorInfo | None
) -> None:
    ended = journal.ChildEnded(child, "workflow", status, output, error)
    texts = loads(ended.to_text())
    error_text = None if error is None else dumps(texts["error"])
    assert journal.ChildEnded.text(child, "workflow", status, dumps(output), error_text) == ended.to_text()


@given(optional, st.lists(text, max_size=3))
def test_the_text_of_a_reason_is_put_in_as_it_is(reason: str | None, running: list[str]) -> None:
    assert journal.CancelRequested.text(dumps(reason), running) == journal.CancelRequested(reason, running).to_text()


@given(st.one_of(*outcomes.values()))
def test_the_text_of_a_kept_outcome_is_put_in_as_it_is(payload: Payload) -> None:
    assert journal.Kept.text(payload.KIND, payload.to_text()) == journal.Kept(payload.KIND, payload).to_text()
