"""Retry policies: when a failed activity is tried again."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from attrs import field, frozen

from ._exceptions import is_a, parts
from .clock import LONGEST, Duration, seconds
from .errors import TerminalError

_LONGEST_WAIT = LONGEST / 1_000_000


def _not_negative(instance: object, attribute: object, value: float) -> None:
    if not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"a retry policy takes finite numbers from zero on, not {value!r}")


def _not_negative_or_endless(instance: object, attribute: object, value: float) -> None:
    if value != math.inf:
        _not_negative(instance, attribute, value)


def _to_number(attempts: float) -> int:
    number: Any = attempts
    return 0 if attempts == math.inf else number


def _to_classes(classes: Iterable[type[BaseException]]) -> tuple[type[BaseException], ...]:
    checked = tuple(classes)
    for each in checked:
        if not isinstance(each, type) or not issubclass(each, BaseException):
            raise TypeError(f"non_retryable takes exception classes, not {each!r}")
    return checked


@frozen
class RetryPolicy:
    """How often an activity is tried, and how long it waits in between.

    The wait before attempt ``n + 1`` is ``initial_interval * multiplier ** (n - 1)`` seconds, but at most
    ``max_interval``: by default 1 s, 2 s, 4 s and 8 s between five attempts.

    An activity without a policy has that of the app, and an app without one the defaults of this class.

    Raises:
      ValueError: if a number is negative, or one that needs an end has none.
      TypeError: if ``non_retryable`` contains anything but exception classes.
    """

    max_attempts: int = field(default=5, converter=_to_number, validator=_not_negative)
    """Most attempts, including the first one; 0 or ``math.inf``: no limit."""
    initial_interval: float = field(default=1.0, converter=seconds, validator=_not_negative)
    """Wait between the first and the second attempt, in seconds (or a timedelta)."""
    multiplier: float = field(default=2.0, validator=_not_negative)
    """Factor by which each wait is longer than the one before."""
    max_interval: float = field(default=60.0, converter=seconds, validator=_not_negative_or_endless)
    """Longest wait, in seconds (or a timedelta); ``math.inf``: no limit."""
    non_retryable: tuple[type[BaseException], ...] = field(default=(), converter=_to_classes)
    """Exception classes that fail the activity at once, like :class:`~trio_romancy.TerminalError`."""

    @classmethod
    def default(cls) -> RetryPolicy:
        """Return a policy of five attempts, 1, 2, 4 and 8 seconds apart."""
        return cls()

    @classmethod
    def no_retry(cls) -> RetryPolicy:
        """Return a policy of one attempt."""
        return cls(max_attempts=1)

    @classmethod
    def fixed(cls, max_attempts: int, interval: Duration) -> RetryPolicy:
        """Return a policy of ``max_attempts`` attempts, ``interval`` seconds (or a timedelta) apart."""
        return cls(max_attempts, interval, multiplier=1.0, max_interval=interval)

    @classmethod
    def exponential(cls, max_attempts: int, initial_interval: Duration, max_interval: Duration) -> RetryPolicy:
        """Return a policy of ``max_attempts`` attempts, each wait twice the last, at most ``max_interval``."""
        return cls(max_attempts, initial_interval, multiplier=2.0, max_interval=max_interval)

    def delay_after(self, attempts: int) -> float | None:
        """Return the seconds to wait after that many failed attempts; None if no other attempt follows."""
        if self.max_attempts and attempts >= self.max_attempts:
            return None
        try:
            delay = self.initial_interval * self.multiplier ** (attempts - 1)
        except OverflowError:
            delay = math.inf
        return min(delay, self.max_interval, _LONGEST_WAIT)

    def is_terminal(self, error: BaseException) -> bool:
        """Tell whether the error forbids another attempt. A group does if one of its members does.

        A :class:`~trio_romancy.TerminalError` and a :exc:`SystemExit` do under every policy.
        """
        return terminal_part(self, error) is not None


def terminal_part(policy: RetryPolicy, error: BaseException) -> BaseException | None:
    """Return the error that forbids another attempt, or the first in its group that does; None: there may be one."""
    terminal = (TerminalError, SystemExit, *policy.non_retryable)
    return next((part for part in parts(error) if is_a(part, *terminal)), None)
