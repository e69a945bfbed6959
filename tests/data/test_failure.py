"""What is recorded of an exception, whatever the exception is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import trio

from trio_romancy import ActivityError, TerminalError
from trio_romancy._data.failure import describe
from trio_romancy._data.journal_format import Failure
from trio_romancy._exceptions import contains, is_a, leaves

from ..support.strange import STRANGE


def raised(error: BaseException) -> BaseException:
    """Return the exception as it is after it was raised and caught."""
    try:
        raise error
    except BaseException as caught:
        return caught


async def cancelled() -> trio.Cancelled:
    """Return a cancellation, out of the scope that it belongs to."""
    kept: list[trio.Cancelled] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.sleep(1)
        except trio.Cancelled as error:
            kept.append(error)
            raise
    return kept[0]


# -- strange exceptions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", STRANGE.values(), ids=STRANGE.keys())
def test_every_exception_is_recorded_within_bounds(make: Callable[[], Exception]) -> None:
    failure = describe(raised(make()))
    text = failure.to_text()
    assert text.isascii()
    assert Failure.from_data(json.loads(text)) == failure
    assert "Strange" in failure.error_type or failure.error_type == "ValueError"
    assert len(failure.error_type) <= 500
    assert failure.message
    assert len(failure.message) < 25_000
    assert len(failure.traceback) <= 25_000
    assert "Traceback" in failure.traceback
    for recorded in (failure.error_type, failure.message, failure.traceback):
        recorded.encode()  # no lone surrogates


def test_frames_are_recorded_beside_a_huge_message_and_if_the_rest_cannot_be_had() -> None:
    for name in ("huge message", "notes", "cause", "traceback", "attributes"):
        assert ", in raised\n" in describe(raised(STRANGE[name]())).traceback, name


def test_causes_are_recorded_if_the_traceback_module_fails_on_one() -> None:
    error = raised(STRANGE["notes"]())
    error.__cause__ = raised(ValueError("the root of it"))
    text = describe(error).traceback
    assert "ValueError: the root of it" in text
    assert "shop.Strange: x" in text
    assert text.index("the root of it") < text.index("shop.Strange: x")


def test_a_class_that_lies_about_itself_is_recorded_as_what_it_is() -> None:
    failure = describe(STRANGE["claims to be terminal"]())
    assert failure.error_types == ("shop.Strange", "Exception")
    assert not is_a(STRANGE["lying class"](), KeyboardInterrupt)


def test_ctrl_c_while_an_exception_is_described_is_not_taken_for_its_text() -> None:
    class Interrupted(Exception):
        def __str__(self) -> str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        describe(Interrupted())


# -- groups ------------------------------------------------------------------------------------------------------------


def test_a_group_is_recorded_as_its_first_member_and_says_which_others_it_has() -> None:
    group = ExceptionGroup(
        "Exceptions from Trio nursery", [ExceptionGroup("inner", [KeyError("first"), OSError(2, "x")]), ValueError()]
    )
    failure = describe(raised(group))
    assert failure.error_type == "KeyError"
    assert failure.message == "'first' (and 2 more errors in the group: FileNotFoundError, ValueError)"
    assert failure.error_types == ("KeyError", "LookupError", "Exception")
    assert "ExceptionGroup: inner" in failure.traceback
    assert "ValueError" in failure.traceback


def test_a_large_group_names_only_some_of_its_members() -> None:
    message = describe(ExceptionGroup("g", [ValueError(number) for number in range(1000)])).message
    assert message.startswith("0 (and 999 more errors in the group: ValueError, ")
    assert message.endswith(", ...)")
    assert len(message) < 200


async def test_cancellations_in_a_group_are_passed_over() -> None:
    first = await cancelled()
    failure = describe(BaseExceptionGroup("g", [first, BaseExceptionGroup("h", [first, ValueError("cause")])]))
    assert (failure.error_type, failure.message) == ("ValueError", "cause")
    assert describe(BaseExceptionGroup("g", [first, first])).error_type == "trio.Cancelled"


def test_an_error_in_a_group_keeps_its_causes() -> None:
    error = ValueError("effect")
    error.__cause__ = KeyError("cause")
    text = describe(ExceptionGroup("g", [error, TypeError()])).traceback
    assert text.index("KeyError: 'cause'") < text.index("ValueError: effect")


def test_leaves_are_in_order_and_contains_looks_at_all() -> None:
    one, two, three = ValueError(), KeyError(), OSError()
    group = ExceptionGroup("g", [ExceptionGroup("h", [one, ExceptionGroup("i", [two])]), three])
    assert [*leaves(group)] == [one, two, three]
    assert [*leaves(one)] == [one]
    assert contains(group, LookupError)
    assert not contains(group, TypeError)


# -- details -----------------------------------------------------------------------------------------------------------


class Declined(TerminalError):
    """A subclass with an ``__init__`` of its own."""

    def __init__(self, code: str, **more: Any) -> None:
        super().__init__(f"the card was declined: {code}", details={"code": code, **more})


class Bare(TerminalError):
    """A subclass that does not call the ``__init__`` of its base."""

    def __init__(self, code: str) -> None:
        self.code = code


def test_details_are_recorded_also_of_a_subclass() -> None:
    assert describe(TerminalError("no", details={"a": [1, None]})).details == {"a": [1, None]}
    assert describe(Declined("expired")).details == {"code": "expired"}
    assert describe(Declined("expired")).message == "the card was declined: expired"
    assert describe(Bare("x")).details is None
    assert describe(TerminalError("no")).details is None


@pytest.mark.parametrize(
    ("details", "why"),
    [
        (object(), "$"),
        ({"when": {1, 2}}, "$.when"),
        ({"pair": (1, 2)}, "$.pair"),
        ({1: "x"}, "$"),
        (float("nan"), "$"),
        ("x" * 30_000, "30002 characters of JSON"),
    ],
)
def test_details_that_cannot_be_stored_are_left_out_and_the_message_says_so(details: Any, why: str) -> None:
    failure = describe(TerminalError("no card", details=details))
    assert failure.details is None
    assert failure.message.startswith("no card (its details cannot be stored: ")
    assert why in failure.message


def test_details_that_raise_are_left_out() -> None:
    class Strange(TerminalError):
        @property
        def details(self) -> Any:
            raise RuntimeError("no")

        @details.setter
        def details(self, value: Any) -> None: ...

    assert "cannot be stored: looking at them raises RuntimeError" in describe(Strange("no card")).message


def test_an_error_that_stands_for_a_recorded_one_passes_its_names_and_details_on() -> None:
    error = ActivityError("pay:1", "shop.Declined", "no", 1, error_types=["shop.Declined", "Exception"], details=[1])
    failure = describe(error)
    assert failure.error_types[0] == "trio_romancy.ActivityError"
    assert "shop.Declined" in failure.error_types
    assert failure.details == [1]
    assert len(set(failure.error_types)) == len(failure.error_types)


# -- is_a --------------------------------------------------------------------------------------------------------------


def test_is_a_compares_the_recorded_names_of_the_class_and_its_bases() -> None:
    failure = describe(Declined("expired"))
    error = failure.to_error("pay:1")
    for cls in (Declined, TerminalError, Exception, BaseException):
        assert error.is_a(cls)
    for other in (Bare, ValueError, ActivityError):
        assert not error.is_a(other)
    with pytest.raises(TypeError, match="takes a class"):
        error.is_a("shop.Declined")  # type: ignore[arg-type]


def test_is_a_knows_only_the_class_itself_of_an_entry_of_version_0_1() -> None:
    old = {"error_type": "KeyError", "message": "", "traceback": "", "attempts": 1, "verdict": "terminal"}
    error = Failure.from_data(old).to_error("pay:1")
    assert error.is_a(KeyError)
    assert not error.is_a(LookupError)
    assert error.details is None
    assert Failure.from_data(old).to_text() == json.dumps(old, separators=(",", ":"))


def test_the_error_says_why_no_attempt_followed() -> None:
    for verdict, sentence in (
        ("exhausted", "activity 'pay:1' failed 2 times, its retry policy allows no more: KeyError: 'x'"),
        ("terminal", "activity 'pay:1' failed and must not be retried: KeyError: 'x'"),
        ("gave_up", "activity 'pay:1' failed 2 times, and a cancellation came before the next attempt: KeyError: 'x'"),
    ):
        assert str(describe(KeyError("x"), attempts=2, verdict=verdict).to_error("pay:1")) == sentence


def test_an_exit_is_no_exception() -> None:
    error = describe(SystemExit(3)).to_error("pay:1")
    assert error.is_a(SystemExit)
    assert not error.is_a(Exception)
