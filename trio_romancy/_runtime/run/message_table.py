"""Which message goes to which wait of one instance. The table knows neither the database nor the journal.

A message that was accepted is in the database. The table only says what to search for, and holds what was found. A
message goes to one wait, the one with the smallest number first. It is consumed once the workflow has been told, which
is what the journal records; so a wait that ends early loses no message.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from attrs import define, frozen

from ..._data.codec import Codec
from ..._data.journal_format import CarryOver
from ..._storage.sql.waits import ChildMode, Match, Wait
from ...clock import Microseconds
from ...errors import InvalidDataError, Problem
from ...model import ChannelMode, Kind
from .operation import Operation

_MOST_PROBLEMS = 20
_LONGEST = 500
"""The most problems, and characters of each part of one, that are recorded of data which do not fit."""


@frozen
class Subscription:
    """An instance's subscription to a channel; or, with a mode of its own, its wait for the end of a child."""

    operation_id: str
    mode: ChannelMode | ChildMode
    after: int
    """Number of the last message that is not for it."""


@frozen
class MessageFilter:
    """Which messages a wait is for. Waits with the same filter get them one after the other."""

    channel: str
    subject: str | None = None
    """Subject of the event; None: any."""
    subscription: Subscription | None = None
    """Subscription that it receives from; None: it waits for an event."""

    @property
    def kind(self) -> Kind:
        """Kind of the entry that records what a wait gets."""
        if self.subscription is None:
            return Kind.EVENT_RECEIVED
        return Kind.CHILD_ENDED if self.subscription.mode is ChildMode.CHILD else Kind.MESSAGE_RECEIVED

    @property
    def is_competing(self) -> bool:
        """Whether a message must be taken, because only one instance gets it."""
        return self.subscription is not None and self.subscription.mode is ChannelMode.COMPETING


@define(eq=False)
class LocalWait:
    """An operation that waits for a message."""

    operation: Operation
    filter: MessageFilter
    codec: Codec[Any] | None = None
    """Codec of the data that it waits for; None: they are for the caller to decode."""
    data: Any = None
    """Data that it has got last, decoded, if they fit."""
    matches: Sequence[Match] = ()
    """Messages found for it that no other wait got, in order."""
    searched_at: Microseconds | None = None
    """Start of the last search; None: the database does not know of the wait yet."""
    is_cut: bool = False
    """Whether there may be more messages than the last search returned."""

    @property
    def is_starved(self) -> bool:
        """Whether everything the last search returned has gone to other waits, and there may be more."""
        return self.is_cut and not self.matches

    def decode(self, data: object) -> list[Problem]:
        """Decode the data that it gets. Returns why they do not fit, in the form that is recorded."""
        assert self.codec is not None
        try:
            self.data = self.codec.decode(data)
        except InvalidDataError as error:
            return [Problem(one.path[:_LONGEST], one.message[:_LONGEST]) for one in error.problems[:_MOST_PROBLEMS]]
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the class of the data exits the process, and only its instance must notice
            return [Problem("$", f"{type(error).__name__} was raised by the class of the data")]
        return []


class MessageTable:
    """The waits and subscriptions of one instance, and the messages found for them.

    Args:
      started_after: number of the last message sent before the instance was started.
      origin: first instance of the chain; None if that is the instance itself.
    """

    __slots__ = (
        "_carried",
        "_consumed",
        "_instance_id",
        "_last",
        "_left",
        "_origin",
        "_started_after",
        "open",
        "subscriptions",
    )

    def __init__(self, instance_id: str, started_after: int, origin: str | None) -> None:
        self._instance_id = instance_id
        self._started_after = started_after
        self._origin = origin
        self.subscriptions: dict[str, Subscription] = {}
        """Subscriptions by channel."""
        self.open: dict[str, LocalWait] = {}
        """Waits by operation id, in the order in which they began."""
        self._last: dict[MessageFilter, int] = {}
        """Last message that a wait with this filter got. There is nothing more for such a wait before that."""
        self._consumed: dict[str, set[int]] = {}
        """Events of each type that some wait got, and which another filter may let through as well."""
        self._left: dict[str, int] = {}
        """Number of the last message that an ended subscription can have received, by channel."""
        self._carried: dict[str, tuple[str, int]] = {}
        """Mode and last received message of each subscription of the instance before in the chain, by channel."""

    # -- going on as another instance ------------------------------------------------------------------------------

    def unpack(self, carry_over: CarryOver) -> None:
        """Take over what the instance before it in its chain had received."""
        self._last = {MessageFilter(channel, subject): seq for channel, subject, seq in carry_over.received}
        self._consumed = {channel: set(seqs) for channel, seqs in carry_over.consumed.items()}
        self._carried = dict(carry_over.subscriptions)
        self._left = dict(carry_over.left)

    def pack(self) -> CarryOver:
        """Return what the next instance of the chain has to know. No wait may be open."""
        received = [
            (filter.channel, filter.subject, seq)
            for filter, seq in self._last.items()
            if filter.subscription is None
            and (filter.subject is None or seq > self._last_of(MessageFilter(filter.channel)))
        ]
        consumed = {}
        for channel, seqs in self._consumed.items():
            last = self._last_of(MessageFilter(channel))
            if left := sorted(seq for seq in seqs if seq > last):
                consumed[channel] = left
        subscriptions = dict(self._carried)
        for channel, subscription in self.subscriptions.items():
            subscriptions[channel] = (str(subscription.mode), self._received_by(channel, subscription))
        return CarryOver(received, consumed, subscriptions, dict(self._left))

    # -- subscriptions ---------------------------------------------------------------------------------------------

    def subscribe(self, channel: str, operation_id: str, mode: ChannelMode, last: int) -> None:
        """Begin a subscription.

        Args:
          last: number of the last message before it.
        """
        after = last
        if mode is ChannelMode.COMPETING:
            after = 0  # everything that no instance has got
        elif mode is ChannelMode.DIRECT and channel not in self._left:
            after = self._started_after
        if channel in self._carried:
            held, received = self._carried.pop(channel)
            if held == mode and mode is not ChannelMode.COMPETING:
                after = received  # what was sent to the instance before it, or to neither of them, is not lost
        self.subscriptions.setdefault(channel, Subscription(operation_id, mode, after))

    def unsubscribe(self, channel: str) -> Subscription | None:
        """End a subscription, and return it; None without a subscription to the channel."""
        subscription = self.subscriptions.pop(channel, None)
        if subscription is not None:
            self._left[channel] = self._received_by(channel, subscription)
        self._carried.pop(channel, None)
        return subscription

    def _received_by(self, channel: str, subscription: Subscription) -> int:
        return max(self._last_of(MessageFilter(channel, None, subscription)), subscription.after)

    # -- what to search for ----------------------------------------------------------------------------------------

    def request(self, wait: LocalWait) -> tuple[Wait, int]:
        """Return what to search for, and the most messages: one is left when all other waits have got theirs."""
        filter, subscription = wait.filter, wait.filter.subscription
        after = self._started_after if subscription is None else subscription.after
        after = max(after, self._last_of(filter))
        mode = None if subscription is None else subscription.mode
        operation_id = wait.operation.id
        sought = Wait(self._instance_id, operation_id, filter.channel, filter.subject, mode, after, self._origin)
        consumed = self._consumed_by(filter)
        return sought, len(self._siblings(filter)) + sum(seq > after for seq in consumed)

    def has_searched_since(self, when: Microseconds) -> bool:
        """Whether everything that was accepted up to that time has been found."""
        waits = self.open.values()
        return all(wait.searched_at is not None and wait.searched_at >= when and not wait.is_starved for wait in waits)

    # -- offering and taking ---------------------------------------------------------------------------------------

    def offer(self, wait: LocalWait, matches: Sequence[Match], searched_at: Microseconds, *, is_cut: bool) -> None:
        """Add what a search has found for a wait.

        The results of two searches may come in the wrong order. A message does not go away by itself, so what either
        of them found is there.

        Args:
          is_cut: whether there may be more.
        """
        all = {match.seq: match for match in (*wait.matches, *matches)}
        consumed = self._consumed_by(wait.filter)
        last = self._last_of(wait.filter)
        wait.matches = [all[seq] for seq in sorted(all) if seq > last and seq not in consumed]
        wait.searched_at = searched_at if wait.searched_at is None else max(wait.searched_at, searched_at)
        wait.is_cut = is_cut

    def next(self) -> tuple[LocalWait, Match] | None:
        """Return the next message, and the wait that gets it; None if no wait has a message."""
        ready = [wait for wait in self.open.values() if wait.matches]
        if not ready:
            return None
        first = min(ready, key=lambda wait: wait.matches[0].seq)
        return first, first.matches[0]

    def consume(self, filter: MessageFilter, seq: int) -> bool:
        """Note that a wait has got a message. Returns whether some other wait is starved now."""
        if filter.kind is Kind.CHILD_ENDED:
            return False  # the end of a child is there for each wait for it
        is_starved = self.withdraw(filter, seq)
        if not filter.is_competing:
            self._last[filter] = max(seq, self._last.get(filter, 0))
        if filter.subscription is None:  # all waits of a subscription have the same filter
            self._consumed.setdefault(filter.channel, set()).add(seq)
        return is_starved

    def withdraw(self, filter: MessageFilter, seq: int) -> bool:
        """Take a message back from all waits that it was found for. Returns whether one of them is starved now."""
        is_starved = False
        for wait in self._siblings(filter):
            wait.matches = [match for match in wait.matches if match.seq != seq]
            is_starved = is_starved or wait.is_starved
        return is_starved

    def _last_of(self, filter: MessageFilter) -> int:
        """Return the last message before which there is nothing more for a wait."""
        last = self._last.get(filter, 0)
        if filter.subject is None:
            return last
        return max(last, self._last.get(MessageFilter(filter.channel), 0))  # a wait for all events got those as well

    def _consumed_by(self, filter: MessageFilter) -> Collection[int]:
        return self._consumed.get(filter.channel, ()) if filter.subscription is None else ()

    def _siblings(self, filter: MessageFilter) -> list[LocalWait]:
        """Return the waits that the same message can be for."""
        of = (filter.channel, filter.subscription)
        return [wait for wait in self.open.values() if (wait.filter.channel, wait.filter.subscription) == of]
