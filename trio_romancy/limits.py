"""Limits: how many attempts may run at the same time, and how many may begin in a period, in all processes together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import frozen

from .clock import Duration, Microseconds, seconds
from .errors import DefinitionError

_LONGEST_NAME = 100
"""The most characters of a name."""
_MOST = 2**53
_MOST_CHARACTERS = 255
"""The most characters of a key."""


@frozen
class Rate:
    """How many attempts may begin in a period.

    They begin at even distances: of a rate of 100 in 60 seconds, one each 0.6 seconds. So in no period more begin than
    the rate says. With a burst, that many may begin at once after a rest, and a period may have ``burst - 1`` more.
    """

    n: int
    per: Duration
    """The period: seconds, or a timedelta."""
    burst: int = 1

    def __attrs_post_init__(self) -> None:
        for name, value in (("n", self.n), ("burst", self.burst)):
            if type(value) is not int or not 1 <= value <= _MOST:
                raise DefinitionError(f"a rate: {name} is a whole number of at least 1, not {value!r}")
        try:
            allowed = seconds(self.per)
        except ValueError as error:
            raise DefinitionError(f"a rate: the period: {error}") from None
        if not 0.001 <= allowed <= 10**9:
            raise DefinitionError(f"a rate: the period is 0.001 to 1,000,000,000 seconds, not {self.per!r}")

    @property
    def period(self) -> Microseconds:
        """The period in microseconds."""
        return round(seconds(self.per) * 1_000_000)


@frozen(eq=False)
class Limit:
    """A limit that attempts of activities share, in all workers of the database.

    The first worker that uses the limit stores it under its name. If the code changes, the worker that starts last
    stores what its code says, unless an operator has set the limit with :meth:`App.set_limit`.

    Raises:
      DefinitionError: if an argument is not valid.
    """

    name: str
    """Name of the limit, of up to 100 characters. Activities with the same limit share it."""
    concurrent: int | None = None
    """Most attempts that run at the same time; None: any number."""
    rate: Rate | None = None
    """How many attempts may begin in a period; None: any number."""
    key: Callable[..., object] | None = None
    """Function that takes the arguments of the activity and returns a key. Each key has the limit for itself."""
    cost: Callable[..., int] | int = 1
    """How much an attempt counts: a number, or a function that takes the arguments of the activity.

    An attempt that counts more than ``concurrent`` runs alone.
    """

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.name, str) or not 1 <= len(self.name) <= _LONGEST_NAME or "\0" in self.name:
            raise DefinitionError(f"a limit has a name of 1 to {_LONGEST_NAME} characters, not {self.name!r}")
        if self.concurrent is not None:
            checked_concurrent(self.name, self.concurrent)
        if self.rate is not None and not isinstance(self.rate, Rate):
            raise DefinitionError(f"limit {self.name!r}: its rate must be a Rate, {self.rate!r} is not")
        if self.key is not None and not callable(self.key):
            raise DefinitionError(f"limit {self.name!r}: its key must be a function, {self.key!r} is not")
        if not callable(self.cost):
            _checked_cost(self.name, self.cost)

    def key_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Return the key of a call; empty without a function for it.

        Raises:
          ValueError: if the key cannot be stored.
        """
        if self.key is None:
            return ""
        key = str(self.key(*args, **kwargs))
        if len(key) > _MOST_CHARACTERS or "\0" in key:
            raise ValueError(f"limit {self.name!r}: a key has up to {_MOST_CHARACTERS} characters, none of them NUL")
        return key

    def cost_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        """Return how much a call counts.

        Raises:
          DefinitionError: if that is not a whole number of at least 1.
        """
        return self.cost if isinstance(self.cost, int) else _checked_cost(self.name, self.cost(*args, **kwargs))


def checked_concurrent(name: str, concurrent: object, *, least: int = 1) -> int:
    """Return a number of attempts that may run at the same time.

    Raises:
      DefinitionError: if it is not valid.
    """
    if type(concurrent) is not int or not least <= concurrent <= _MOST:
        raise DefinitionError(f"limit {name!r}: concurrent is a whole number of at least {least}, not {concurrent!r}")
    return concurrent


def _checked_cost(name: str, cost: object) -> int:
    if type(cost) is not int or not 1 <= cost <= _MOST:
        raise DefinitionError(f"limit {name!r}: a cost is a whole number of at least 1, not {cost!r}")
    return cost
