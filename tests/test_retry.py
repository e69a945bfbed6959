"""When a failed activity is tried again, and when it is not."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_romancy import RetryPolicy, TerminalError
from trio_romancy.clock import LONGEST


def delays(policy: RetryPolicy, most: int = 20) -> list[float | None]:
    """The waits after the first, second... failed attempt, up to the end."""
    found: list[float | None] = []
    for attempts in range(1, most + 1):
        found.append(policy.delay_after(attempts))
        if found[-1] is None:
            break
    return found


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        pytest.param(RetryPolicy(), [1.0, 2.0, 4.0, 8.0, None], id="defaults"),
        pytest.param(RetryPolicy.default(), [1.0, 2.0, 4.0, 8.0, None], id="default"),
        pytest.param(RetryPolicy.no_retry(), [None], id="no_retry"),
        pytest.param(RetryPolicy.fixed(5, 2.0), [2.0, 2.0, 2.0, 2.0, None], id="fixed"),
        pytest.param(RetryPolicy.fixed(3, timedelta(minutes=2)), [120.0, 120.0, None], id="fixed, longer than the cap"),
        pytest.param(
            RetryPolicy.exponential(10, 0.1, 30.0),
            [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, None],
            id="exponential",
        ),
        pytest.param(
            RetryPolicy.exponential(6, timedelta(seconds=1), timedelta(seconds=5)),
            [1.0, 2.0, 4.0, 5.0, 5.0, None],
            id="exponential, capped",
        ),
        pytest.param(
            RetryPolicy(max_attempts=5, initial_interval=0.5, multiplier=1.5, max_interval=1.2),
            [0.5, 0.75, 1.125, 1.2, None],
            id="every field",
        ),
        pytest.param(RetryPolicy(3, initial_interval=0), [0.0, 0.0, None], id="at once"),
        pytest.param(RetryPolicy(4, multiplier=0.5), [1.0, 0.5, 0.25, None], id="ever shorter"),
        pytest.param(
            RetryPolicy(3, initial_interval=10, max_interval=4), [4.0, 4.0, None], id="cap below the first wait"
        ),
    ],
)
def test_the_waits_between_attempts_follow_the_policy(policy: RetryPolicy, expected: list[float | None]) -> None:
    assert [None if delay is None else round(delay, 9) for delay in delays(policy)] == expected


def test_no_attempts_means_attempts_without_end() -> None:
    endless = RetryPolicy(max_attempts=0)
    assert delays(endless, 8) == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert endless.delay_after(1_000_000) == 60.0


def test_infinity_is_no_limit() -> None:
    assert RetryPolicy(max_attempts=math.inf) == RetryPolicy(max_attempts=0)
    uncapped = RetryPolicy(max_attempts=0, max_interval=math.inf)
    assert uncapped.delay_after(20) == 2.0**19
    assert uncapped == RetryPolicy(max_attempts=0, max_interval=timedelta.max)
    assert uncapped.delay_after(1_000_000) == LONGEST / 1_000_000, "it can be stored"


def test_an_activity_that_has_failed_more_often_than_a_new_policy_allows_is_not_tried_again() -> None:
    assert RetryPolicy(max_attempts=3).delay_after(7) is None


@given(
    st.builds(
        RetryPolicy,
        st.integers(0, 10),
        st.floats(0, 1000),
        st.floats(1, 1e300),
        st.floats(0, 1000),
    ),
    st.integers(1, 10_000),
)
def test_no_wait_is_longer_than_the_cap_and_none_is_shorter_than_the_one_before(policy: RetryPolicy, n: int) -> None:
    first, second = policy.delay_after(n), policy.delay_after(n + 1)
    assert first is None or 0 <= first <= policy.max_interval
    assert first is None or second is None or first <= second
    assert (first is None) == (0 < policy.max_attempts <= n)


def test_intervals_can_be_timedeltas() -> None:
    policy = RetryPolicy(initial_interval=timedelta(milliseconds=1500), max_interval=timedelta(minutes=1))
    assert (policy.initial_interval, policy.max_interval) == (1.5, 60.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_attempts", -1),
        ("initial_interval", -0.1),
        ("initial_interval", timedelta(seconds=-1)),
        ("initial_interval", math.nan),
        ("multiplier", -2.0),
        ("multiplier", math.nan),
        ("multiplier", math.inf),
        ("initial_interval", math.inf),
        ("max_interval", -1),
        ("max_interval", math.nan),
        ("max_interval", 1e15),
    ],
)
def test_numbers_that_no_wait_can_be_made_from_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"zero|duration"):
        RetryPolicy(**{field: value})


@pytest.mark.parametrize(
    "classes", [["ValueError"], [ValueError("x")], [int]], ids=["name", "instance", "no exception"]
)
def test_what_is_no_exception_class_is_refused_as_non_retryable(classes: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="exception"):
        RetryPolicy(non_retryable=classes)


def test_a_policy_is_a_value_that_cannot_change() -> None:
    assert RetryPolicy.fixed(3, 1.0) == RetryPolicy.fixed(3, timedelta(seconds=1))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        RetryPolicy().max_attempts = 3  # type: ignore[misc]


class Refused(TerminalError):
    pass


@pytest.mark.parametrize(
    ("error", "is_terminal"),
    [
        pytest.param(ValueError("x"), False, id="any error"),
        pytest.param(TerminalError("x"), True, id="terminal"),
        pytest.param(Refused("x"), True, id="subclass of terminal"),
        pytest.param(LookupError("x"), True, id="named as non-retryable"),
        pytest.param(KeyError("x"), True, id="subclass of one named"),
        pytest.param(ExceptionGroup("g", [ValueError("x"), OSError("y")]), False, id="group of any errors"),
        pytest.param(ExceptionGroup("g", [ValueError("x"), TerminalError("y")]), True, id="group with a terminal one"),
        pytest.param(
            ExceptionGroup(
                "g", [OSError("x"), ExceptionGroup("h", [ValueError("y"), ExceptionGroup("i", [Refused("z")])])]
            ),
            True,
            id="nested groups with a terminal one",
        ),
        pytest.param(
            ExceptionGroup("g", [OSError("x"), ExceptionGroup("h", [KeyError("y")])]),
            True,
            id="nested groups with one named",
        ),
        pytest.param(
            BaseExceptionGroup("g", [KeyboardInterrupt(), Refused("x")]), True, id="base group with a terminal one"
        ),
        pytest.param(
            ExceptionGroup("g", [OSError("x"), ExceptionGroup("h", [ValueError("y")])]),
            False,
            id="nested groups without",
        ),
    ],
)
def test_an_error_forbids_another_attempt_if_anything_in_it_does(error: BaseException, is_terminal: bool) -> None:
    assert RetryPolicy(non_retryable=(LookupError,)).is_terminal(error) is is_terminal


def test_a_cause_that_is_terminal_does_not_make_its_effect_terminal() -> None:
    error = ValueError("x")
    error.__cause__ = TerminalError("y")
    assert not RetryPolicy().is_terminal(error)


def test_non_retryable_classes_can_be_given_as_any_iterable() -> None:
    policy = RetryPolicy(non_retryable=[ValueError])
    assert policy.non_retryable == (ValueError,)
    assert policy.is_terminal(ValueError())
