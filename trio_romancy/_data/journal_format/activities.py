"""Entries of activities, of their compensations, and of timers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self, final

from ..._tasks.fast_frozen import frozen
from ...model import EntryKind
from ..codec import dumps
from .plain import Plain


@final
@frozen
class PlannedCompensation:
    """The planned compensation of a completed activity, recorded with its result: a rollback needs no other source."""

    name: str
    """Name of the compensation."""
    takes_result: bool
    """Whether it takes the activity's result, as its argument ``result``."""
    arguments: Mapping[str, Any]
    """The other arguments by name, as plain JSON data."""

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """Return the plan that this plain JSON data stands for."""
        return cls(data["name"], data["takes_result"], data["arguments"])

    @staticmethod
    def text(name: str, arguments: Mapping[str, str], *, takes_result: bool) -> str:
        """Return the JSON text of a plan.

        Args:
          arguments: JSON text by name.
        """
        texts = ",".join([f"{dumps(argument)}:{text}" for argument, text in arguments.items()])
        flag = "true" if takes_result else "false"
        return f'{{"name":{dumps(name)},"takes_result":{flag},"arguments":{{{texts}}}}}'

    def to_text(self) -> str:
        """Return the JSON text of this plan."""
        texts = {name: dumps(value) for name, value in self.arguments.items()}
        return self.text(self.name, texts, takes_result=self.takes_result)

    def arguments_with(self, result: Any) -> dict[str, Any]:
        """Return all arguments of the compensation, as plain JSON data.

        Args:
          result: of the activity, as plain JSON data.
        """
        arguments = dict(self.arguments)
        if self.takes_result:
            arguments["result"] = result
        return arguments


@final
@frozen
class ActivityCompleted:
    """An activity completed."""

    KIND: ClassVar[EntryKind] = EntryKind.ACTIVITY_COMPLETED

    result: Any
    """Result of the activity, as plain JSON data."""
    compensation: PlannedCompensation | None = None
    """Planned compensation: an object of ``name``, ``takes_result`` and ``arguments``. Missing without one."""
    arguments: Mapping[str, str] | None = None
    """Digests of the activity's arguments by name, to compare those of a replay with; missing if they are not compared.

    A digest is empty if the argument cannot be compared. It begins with ``~`` if it was taken after an attempt which
    may have changed the argument.
    """

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """Return the entry that this plain JSON data stands for."""
        if len(data) == 1:
            return cls(data["result"])
        compensation, arguments = data.get("compensation"), data.get("arguments")
        plan = None if compensation is None else PlannedCompensation.from_data(compensation)
        return cls(data["result"], plan, arguments)

    @staticmethod
    def text(result: str, compensation: str | None = None, arguments: Mapping[str, str] | None = None) -> str:
        """Return the payload that holds these JSON texts: no result is parsed to be written."""
        digests = "" if arguments is None else f',"arguments":{dumps(arguments)}'
        if compensation is None:
            return f'{{"result":{result}{digests}}}'
        return f'{{"result":{result},"compensation":{compensation}{digests}}}'

    def to_text(self) -> str:
        """Return the payload as it is stored: JSON text."""
        compensation = None if self.compensation is None else self.compensation.to_text()
        return self.text(dumps(self.result), compensation, self.arguments)


@final
@frozen
class ActivityCancelled:
    """A cancellable activity was torn down; or its worker ended before the activity did, after a cancel request."""

    KIND: ClassVar[EntryKind] = EntryKind.ACTIVITY_CANCELLED

    was_interrupted: bool = False
    """Whether its worker ended before the activity did, so that its outcome is not known. Missing otherwise."""
    compensation: PlannedCompensation | None = None
    """Planned compensation of an interrupted activity, without a result. Missing without one."""

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """Return the entry that this plain JSON data stands for."""
        if data is None:
            return cls()
        compensation = data.get("compensation")
        if compensation is not None:
            compensation = PlannedCompensation.from_data(compensation)
        return cls(data["was_interrupted"], compensation)

    @staticmethod
    def interrupted_text(compensation: str | None) -> str:
        """Return the payload of an interrupted activity.

        Args:
          compensation: JSON text of the planned compensation; None without one.
        """
        if compensation is None:
            return '{"was_interrupted":true}'
        return f'{{"was_interrupted":true,"compensation":{compensation}}}'

    def to_text(self) -> str:
        """Return the payload as it is stored: JSON text."""
        if not self.was_interrupted:
            return "null"
        return self.interrupted_text(None if self.compensation is None else self.compensation.to_text())


@final
@frozen
class CompensationCompleted:
    """A compensation completed, or a child was rolled back."""

    KIND: ClassVar[EntryKind] = EntryKind.COMPENSATION_COMPLETED

    had_nothing: bool = False
    """Whether it is the entry of a child that had nothing to undo, and stays completed. Missing otherwise."""

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """Return the entry that this plain JSON data stands for."""
        return cls(data.get("had_nothing", False))

    def to_text(self) -> str:
        """Return the payload as it is stored: JSON text."""
        return '{"had_nothing":true}' if self.had_nothing else "{}"


@final
@frozen
class TimerFired(Plain):
    """A sleep ended."""

    KIND: ClassVar[EntryKind] = EntryKind.TIMER_FIRED


@final
@frozen
class TimeoutFired(Plain):
    """The deadline of a durable cancel scope passed."""

    KIND: ClassVar[EntryKind] = EntryKind.TIMEOUT_FIRED
