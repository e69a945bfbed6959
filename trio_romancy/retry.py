"""When a failed activity is tried again."""

from __future__ import annotations

import math
from collections.abc import Iterable

from attrs import field, frozen

from .clock import Duration, seconds
from .errors import TerminalError


def _not_negative(instance: object, attribute: object, value: float) -> None:
    if not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"a retry policy takes finite numbers from zero on, not {value!r}")


def _to_classes(classes: Iterable[type[BaseException]]) -> tuple[type[BaseException], ...]:
    checked = tuple(classes)
    for each in checked:
        if not isinstance(each, type) or not issubclass(each, BaseException):
            raise TypeError(f"non_retryable takes exception classes, not {each!r}")
    return checked


@frozen
class RetryPolicy:
    """How often an activity is tried, and how long to wait in between.

    Before attempt ``n + 1`` it waits ``initial_interval * multiplier ** (n - 1)`` seconds, at most
    ``max_interval``: by default 1 s, 2 s, 4 s and 8 s between five attempts.

    The policy of the activity counts; else that of the app; else this class's defaults.
    """

    max_attempts: int = field(default=5, validator=_not_negative)
    """The most attempts, the first one included; 0 is without end."""
    initial_interval: float = field(default=1.0, converter=seconds, validator=_not_negative)
    """Seconds (or a timedelta) between the first and the second attempt."""
    multiplier: float = field(default=2.0, validator=_not_negative)
    """By how much each wait is longer than the one before."""
    max_interval: float = field(default=60.0, converter=seconds, validator=_not_negative)
    """The longest wait, in seconds (or a timedelta)."""
    non_retryable: tuple[type[BaseException], ...] = field(default=(), converter=_to_classes)
    """Exception classes that fail the activity at once, like :class:`~trio_romancy.TerminalError`."""

    @classmethod
    def default(cls) -> RetryPolicy:
        """Five attempts, waiting 1, 2, 4 and 8 seconds."""
        return cls()

    @classmethod
    def no_retry(cls) -> RetryPolicy:
        """One attempt."""
        return cls(max_attempts=1)

    @classmethod
    def fixed(cls, max_attempts: int, interval: Duration) -> RetryPolicy:
        """``max_attempts`` attempts, ``interval`` apart."""
        return cls(max_attempts, interval, multiplier=1.0, max_interval=interval)

    @classmethod
    def exponential(cls, max_attempts: int, initial_interval: Duration, max_interval: Duration) -> RetryPolicy:
        """``max_attempts`` attempts, each wait twice the one before, at most ``max_interval``."""
        return cls(max_attempts, initial_interval, multiplier=2.0, max_interval=max_interval)

    def delay_after(self, attempts: int) -> float | None:
        """Seconds to wait after that many failed attempts; None if there is to be no other."""
        if self.max_attempts and attempts >= self.max_attempts:
            return None
        try:
            delay = self.initial_interval * self.multiplier ** (attempts - 1)
        except OverflowError:
            return self.max_interval
        return min(delay, self.max_interval)

    def is_terminal(self, error: BaseException) -> bool:
        """Whether the error forbids another attempt. A group does if anything in it does."""
        if isinstance(error, (TerminalError, *self.non_retryable)):
            return True
        return isinstance(error, BaseExceptionGroup) and any(self.is_terminal(part) for part in error.exceptions)
