"""Entries that concern an instance as a whole: its end, its chain, and the requests of others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self, final

from attrs import field

from ..._tasks.fast_frozen import frozen
from ...model import EntryKind
from ..codec import dumps
from .plain import Plain


@final
@frozen
class CancelRequested:
    """A cancel request was told to the workflow. Its operation id is ``cancel``."""

    KIND: ClassVar[EntryKind] = EntryKind.CANCEL_REQUESTED

    reason: str | None
    """Reason that the request gave."""
    running: Sequence[str]
    """Operation ids of the activities that had begun: these go on to their outcome."""

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """Return the entry that this plain JSON data stands for."""
        return cls(data["reason"], data["running"])

    @staticmethod
    def text(reason: str, running: Sequence[str]) -> str:
        """Return the payload.

        Args:
          reason: JSON text.
        """
        return f'{{"reason":{reason},"running":{dumps(running)}}}'

    def to_text(self) -> str:
        """Return the payload as it is stored: JSON text."""
        return self.text(dumps(self.reason), self.running)


@final
@frozen
class WorkflowCompleted(Plain):
    """The workflow function returned. Its result is in the row of the instance."""

    KIND: ClassVar[EntryKind] = EntryKind.WORKFLOW_COMPLETED


@final
@frozen
class WorkflowCancelled:
    """The workflow function has unwound after a cancel request; compensation begins here."""

    KIND: ClassVar[EntryKind] = EntryKind.WORKFLOW_CANCELLED

    reason: str | None
    """Reason that the request gave."""

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """Return the entry that this plain JSON data stands for."""
        return cls(data["reason"])

    def to_text(self) -> str:
        """Return the payload as it is stored: JSON text."""
        return dumps({"reason": self.reason})


@final
@frozen
class WorkflowTerminated:
    """The instance was terminated. What had begun was abandoned, and its outcome is not known."""

    KIND: ClassVar[EntryKind] = EntryKind.WORKFLOW_TERMINATED

    reason: str | None
    """Reason that the request gave."""
    compensates: bool
    """Whether compensation begins here. If not, the instance has ended."""
    running: Sequence[str]
    """Operation ids of the activities and compensations that were abandoned, as far as the worker knew them."""

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """Return the entry that this plain JSON data stands for."""
        return cls(data["reason"], data["compensates"], data["running"])

    def to_text(self) -> str:
        """Return the payload as it is stored: JSON text."""
        return dumps({"reason": self.reason, "compensates": self.compensates, "running": self.running})


@final
@frozen
class RollbackRequested:
    """The parent is rolled back, and this instance, which has completed, with it; compensation begins here."""

    KIND: ClassVar[EntryKind] = EntryKind.ROLLBACK_REQUESTED

    reason: str | None
    """Text that names the parent."""

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """Return the entry that this plain JSON data stands for."""
        return cls(data["reason"])

    def to_text(self) -> str:
        """Return the payload as it is stored: JSON text."""
        return dumps({"reason": self.reason})


@final
@frozen
class WorkflowRecurred:
    """The workflow function asked to go on as a new instance."""

    KIND: ClassVar[EntryKind] = EntryKind.WORKFLOW_RECURRED

    next: str
    """Id of the new instance."""

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """Return the entry that this plain JSON data stands for."""
        return cls(data["next"])

    def to_text(self) -> str:
        """Return the payload as it is stored: JSON text."""
        return dumps({"next": self.next})


@final
@frozen
class CarryOver:
    """The first entry of an instance that continues another: the messages that the other has received.

    The new instance receives all messages that were not consumed before.
    """

    KIND: ClassVar[EntryKind] = EntryKind.CONTINUED

    received: list[tuple[str, str | None, int]] = field(factory=list)
    """Type and subject (or null) of waits for events, and number of the last event that one of them has got."""
    consumed: dict[str, list[int]] = field(factory=dict)
    """Numbers of events that a wait has got, by type. Waits for another subject must not get them again."""
    subscriptions: dict[str, tuple[str, int]] = field(factory=dict)
    """Mode and number of the last received message of each subscription, by channel."""
    left: dict[str, int] = field(factory=dict)
    """Number of the last message that an ended subscription can have received, by channel."""

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """Return the entry that this plain JSON data stands for."""
        return cls(
            [(type, subject, seq) for type, subject, seq in data["received"]],
            data["consumed"],
            {channel: (mode, seq) for channel, (mode, seq) in data["subscriptions"].items()},
            data["left"],
        )

    def to_text(self) -> str:
        """Return the payload as it is stored: JSON text."""
        return dumps(
            {
                "received": self.received,
                "consumed": self.consumed,
                "subscriptions": self.subscriptions,
                "left": self.left,
            }
        )

    @property
    def is_heavy(self) -> bool:
        """Whether the entry may name messages that are no longer kept."""
        return bool(self.received or self.consumed or self.left)

    def since(self, oldest: int) -> CarryOver:
        """Return the entry without messages before that number, which are no longer kept."""
        consumed = {channel: [seq for seq in seqs if seq >= oldest] for channel, seqs in self.consumed.items()}
        return CarryOver(
            [one for one in self.received if one[2] >= oldest],
            {channel: seqs for channel, seqs in consumed.items() if seqs},
            self.subscriptions,
            {channel: seq for channel, seq in self.left.items() if seq >= oldest},
        )


@final
@frozen
class Patched(Plain):
    """Workflow code was told to go the way of a change. The change's id, with its branch, is the operation id."""

    KIND: ClassVar[EntryKind] = EntryKind.PATCHED


@final
@frozen
class Retried(Plain):
    """The failed instance was started again from its first failed operation."""

    KIND: ClassVar[EntryKind] = EntryKind.RETRIED


@final
@frozen
class Resumed(Plain):
    """The instance was resumed: compensations that failed before this entry are tried again."""

    KIND: ClassVar[EntryKind] = EntryKind.RESUMED
