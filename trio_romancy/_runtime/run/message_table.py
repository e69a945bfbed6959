"""Which message goes to which wait of one instance. The table knows neither the database nor the journal.

A message that was accepted is in the database. The table only says what to search for, and holds what was found. A
message goes to one wait, the one with the smallest number first. It is consumed once the workflow has been told, which
is what the journal records; so a wait that ends early loses no message.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from heapq import heappop, heappush
from typing import Any

from attrs import define, frozen

from ..._data.codec import Codec
from ..._data.journal_format import CarryOver
from ..._storage.sql.news import NewMessage
from ..._storage.sql.waits import ChildMode, Match, Wait
from ...clock import Microseconds
from ...errors import DataProblem, InvalidDataError
from ...model import ChannelMode, EntryKind
from .operation import Operation

_MOST_PROBLEMS = 20
_LONGEST = 500
"""The most problems, and characters of each part of one, that are recorded of data which do not fit."""
_MOST = 500
"""The most messages to search for at once, beside those that other waits got."""


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
    def kind(self) -> EntryKind:
        """Kind of the entry that records what a wait gets."""
        if self.subscription is None:
            return EntryKind.EVENT_RECEIVED
        return EntryKind.CHILD_ENDED if self.subscription.mode is ChildMode.CHILD else EntryKind.MESSAGE_RECEIVED

    @property
    def is_competing(self) -> bool:
        """Whether a message must be taken, because only one instance gets it."""
        return self.subscription is not None and self.subscription.mode is ChannelMode.COMPETING


@define(eq=False)
class LocalWait:
    """An operation that waits for a message."""

    operation: Operation
    queue: WaitQueue
    number: int
    """Place among the waits of the instance, in the order in which they began."""
    codec: Codec[Any] | None = None
    """Codec of the data that it waits for; None: they are for the caller to decode."""
    data: Any = None
    """Data that it has got last, decoded, if they fit."""
    before: LocalWait | None = None
    after: LocalWait | None = None

    @property
    def filter(self) -> MessageFilter:
        """Which messages the wait is for."""
        return self.queue.filter

    def decode(self, data: object) -> list[DataProblem]:
        """Decode the data that it gets. Returns why they do not fit, in the form that is recorded."""
        assert self.codec is not None
        try:
            self.data = self.codec.decode(data)
        except InvalidDataError as error:
            return [DataProblem(one.path[:_LONGEST], one.message[:_LONGEST]) for one in error.problems[:_MOST_PROBLEMS]]
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the class of the data exits the process, and only its instance must notice
            return [DataProblem("$", f"{type(error).__name__} was raised by the class of the data")]
        return []


@define(eq=False)
class WaitQueue:
    """The open waits with one filter, and the messages found for them. The first wait gets the first message.

    No step of it takes longer if there are more waits or messages.
    """

    filter: MessageFilter
    count: int = 0
    """Number of its waits."""
    first: LocalWait | None = None
    """The wait that began first; None without waits, when the queue has ended."""
    last: LocalWait | None = None
    stored: LocalWait | None = None
    """The wait that stands for all of them in the database; None if the database does not know of them yet."""
    searched_at: Microseconds | None = None
    """Start of the last search; None: the database does not know of the waits yet."""
    is_cut: bool = False
    """Whether there may be more messages than the last search returned."""
    is_ready_at: tuple[int, int] | None = None
    """Its last turn that the table keeps."""
    found: dict[int, Match] | None = None
    """Messages found for the waits that no other wait got, by number."""
    _order: list[int] | None = None
    """Numbers of the messages as a heap, with those that are no longer there."""

    @property
    def is_starved(self) -> bool:
        """Whether everything the last search returned has gone to other waits, and there may be more."""
        return self.is_cut and not self.found and self.first is not None

    def append(self, wait: LocalWait) -> None:
        """Add a wait that begins."""
        if self.last is None:
            self.first = wait
        else:
            wait.before, self.last.after = self.last, wait
        self.last = wait
        self.count += 1

    def remove(self, wait: LocalWait) -> None:
        """Remove a wait that ends."""
        before, after = wait.before, wait.after
        if before is None:
            self.first = after
        else:
            before.after = after
        if after is None:
            self.last = before
        else:
            after.before = before
        wait.before = wait.after = None
        self.count -= 1

    def add(self, match: Match) -> None:
        """Add a message that was found."""
        if self.found is None or self._order is None:
            self.found, self._order = {}, []
        self.found[match.seq] = match
        heappush(self._order, match.seq)

    def discard(self, seq: int) -> None:
        """Remove a message, if it is there."""
        if self.found is not None:
            self.found.pop(seq, None)

    def next(self) -> Match | None:
        """Return the first message."""
        if not self.found or self._order is None:
            return None
        while self._order[0] not in self.found:
            heappop(self._order)
        return self.found[self._order[0]]

    def turn(self) -> tuple[int, int] | None:
        """Return when its turn is among the queues of the instance; None if no wait has a message.

        The first message comes first. Of several waits for the same message, the one that began first.
        """
        match = self.next()
        return None if match is None or self.first is None else (match.seq, self.first.number)


class _Consumed:
    """The events of one type that some wait got, and which another filter may let through as well."""

    __slots__ = ("_order", "seqs")

    def __init__(self, seqs: Iterable[int] = ()) -> None:
        self.seqs = set(seqs)
        self._order = sorted(self.seqs)

    def add(self, seq: int) -> None:
        if seq not in self.seqs:
            self.seqs.add(seq)
            heappush(self._order, seq)

    def forget_until(self, seq: int) -> None:
        """Forget the events that no filter lets through any more."""
        while self._order and self._order[0] <= seq:
            self.seqs.discard(heappop(self._order))


class MessageTable:
    """The waits and subscriptions of one instance, and the messages found for them.

    Args:
      started_after: number of the last message sent before the instance was started.
      origin: first instance of the chain; None if that is the instance itself.
    """

    __slots__ = (
        "_begun",
        "_carried",
        "_consumed",
        "_event_waits",
        "_holders",
        "_instance_id",
        "_last",
        "_left",
        "_origin",
        "_ready",
        "_started_after",
        "child_queues",
        "open",
        "queues",
        "starved",
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
        self.queues: dict[MessageFilter, WaitQueue] = {}
        """The same waits by filter."""
        self.child_queues: dict[WaitQueue, None] = {}
        """Those of them that wait for the end of a child."""
        self.starved: dict[WaitQueue, None] = {}
        """Queues that must be searched for again, because all that was found for them has gone to other waits."""
        self._begun = 0
        """Number of waits that have begun."""
        self._ready: list[tuple[int, int, WaitQueue]] = []
        """Turns of the queues that have a message, as a heap, with turns that have passed."""
        self._holders: dict[tuple[str, int], list[WaitQueue]] = {}
        """Queues that an event was found for, by its type and number."""
        self._event_waits: dict[str, int] = {}
        """Numbers of waits for events, by type."""
        self._last: dict[MessageFilter, int] = {}
        """Last message that a wait with this filter got. There is nothing more for such a wait before that."""
        self._consumed: dict[str, _Consumed] = {}
        """Events of each type that some wait got, and which another filter may let through as well."""
        self._left: dict[str, int] = {}
        """Number of the last message that an ended subscription can have received, by channel."""
        self._carried: dict[str, tuple[str, int]] = {}
        """Mode and last received message of each subscription of the instance before in the chain, by channel."""

    # -- going on as another instance ------------------------------------------------------------------------------

    def unpack(self, carry_over: CarryOver) -> None:
        """Take over what the instance before it in its chain had received."""
        self._last = {MessageFilter(channel, subject): seq for channel, subject, seq in carry_over.received}
        self._consumed = {channel: _Consumed(seqs) for channel, seqs in carry_over.consumed.items()}
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
        for channel, events in self._consumed.items():
            last = self._last_of(MessageFilter(channel))
            if left := sorted(seq for seq in events.seqs if seq > last):
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

    # -- waits -----------------------------------------------------------------------------------------------------

    def begin(self, operation: Operation, filter: MessageFilter, codec: Codec[Any] | None = None) -> LocalWait:
        """Begin to wait."""
        queue = self.queues.get(filter)
        if queue is None:
            queue = self.queues[filter] = WaitQueue(filter)
            if filter.kind is EntryKind.CHILD_ENDED:
                self.child_queues[queue] = None
        self._begun += 1
        wait = self.open[operation.id] = LocalWait(operation, queue, self._begun, codec)
        queue.append(wait)
        if filter.subscription is None:
            self._event_waits[filter.channel] = self._event_waits.get(filter.channel, 0) + 1
        self._changed(queue)
        return wait

    def end(self, wait: LocalWait) -> bool:
        """Cease to wait. Returns whether the wait was open."""
        if self.open.get(wait.operation.id) is not wait:
            return False
        del self.open[wait.operation.id]
        queue, filter = wait.queue, wait.filter
        queue.remove(wait)
        if filter.subscription is None:
            self._event_waits[filter.channel] -= 1
            if not self._event_waits[filter.channel]:
                del self._event_waits[filter.channel]
        if queue.first is None:
            del self.queues[filter]
            self.child_queues.pop(queue, None)
            for seq in queue.found or ():
                self._release(queue, seq)
        self._changed(queue)
        return True

    def _changed(self, queue: WaitQueue) -> None:
        """Note what the queue's waits and messages are good for now."""
        if queue.is_starved:
            self.starved[queue] = None
        else:
            self.starved.pop(queue, None)
        turn = queue.turn()
        if turn is not None and turn != queue.is_ready_at:
            queue.is_ready_at = turn
            heappush(self._ready, (*turn, queue))

    # -- what to search for ----------------------------------------------------------------------------------------

    @property
    def addressee(self) -> str:
        """The instance that messages to this one are addressed to: the first of its chain."""
        return self._origin or self._instance_id

    def queues_for(self, new: NewMessage) -> list[WaitQueue]:
        """Return the queues that a new message is for."""
        filters = []
        if new.is_event:
            filters = [MessageFilter(new.channel)]
            if new.subject is not None:
                filters.append(MessageFilter(new.channel, new.subject))
        subscription = self.subscriptions.get(new.channel)
        if subscription is not None and (subscription.mode is not ChannelMode.DIRECT or new.addressee):
            filters.append(MessageFilter(new.channel, None, subscription))
        return [queue for filter in filters if (queue := self.queues.get(filter)) is not None]

    def queue_like(self, wait: Wait) -> WaitQueue | None:
        """Return the queue that is for the same as a stored wait; None without one."""
        subscription: Subscription | None = None
        if wait.mode is ChildMode.CHILD:
            subscription = Subscription("", ChildMode.CHILD, 0)
        elif wait.mode is not None:
            subscription = self.subscriptions.get(wait.channel)
            if subscription is None or subscription.mode is not wait.mode:
                return None
        return self.queues.get(MessageFilter(wait.channel, wait.subject, subscription))

    def request(self, queue: WaitQueue) -> tuple[Wait, int]:
        """Return what to search for, and the most messages: one is left when all other waits have got theirs."""
        filter, subscription = queue.filter, queue.filter.subscription
        after = self._started_after if subscription is None else subscription.after
        after = max(after, self._last_of(filter))
        mode = None if subscription is None else subscription.mode
        most, consumed = queue.count, 0
        if subscription is None and filter.subject is None:
            most = self._event_waits[filter.channel]
            consumed = len(self._consumed_by(filter))  # those after its last, since the others are forgotten
        elif subscription is None and (all := self.queues.get(MessageFilter(filter.channel))) is not None:
            most += all.count
        assert queue.stored is not None
        operation_id = queue.stored.operation.id
        sought = Wait(self._instance_id, operation_id, filter.channel, filter.subject, mode, after, self._origin)
        return sought, min(most, _MOST) + consumed

    # -- offering and taking ---------------------------------------------------------------------------------------

    def offer(self, queue: WaitQueue, matches: Sequence[Match], searched_at: Microseconds, *, is_cut: bool) -> None:
        """Add what a search has found for the waits of a queue.

        The results of two searches may come in the wrong order. A message does not go away by itself, so what either
        of them found is there.

        Args:
          matches: the first messages after those that the search was not for, in order.
          is_cut: whether there may be more.
        """
        filter = queue.filter
        consumed = self._consumed_by(filter)
        last = self._last_of(filter)
        for match in matches:
            if match.seq in consumed:
                if not queue.found and filter.subject is None and match.seq > last:
                    last = match.seq  # all that came before have been consumed as well
                continue
            if match.seq > last:
                self._add(queue, match)
        if filter.subscription is None and filter.subject is None and last > self._last.get(filter, 0):
            self._got(filter, last)
        if queue.searched_at is None or searched_at >= queue.searched_at:
            queue.searched_at, queue.is_cut = searched_at, is_cut
        elif is_cut:
            queue.is_cut = True
        self._changed(queue)

    def offer_next(self, queue: WaitQueue, match: Match, searched_at: Microseconds) -> None:
        """Add the next message for a queue of which all earlier messages were found."""
        if match.seq > self._last_of(queue.filter) and match.seq not in self._consumed_by(queue.filter):
            self._add(queue, match)
            queue.searched_at = searched_at if queue.searched_at is None else max(queue.searched_at, searched_at)
            self._changed(queue)

    def _add(self, queue: WaitQueue, match: Match) -> None:
        if match.seq not in (queue.found or ()):
            queue.add(match)
            if queue.filter.subscription is None:
                self._holders.setdefault((queue.filter.channel, match.seq), []).append(queue)

    def next(self) -> tuple[LocalWait, Match] | None:
        """Return the next message, and the wait that gets it; None if no wait has a message."""
        while self._ready:
            seq, number, queue = self._ready[0]
            if queue.turn() == (seq, number):
                match = queue.next()
                assert queue.first is not None
                assert match is not None
                return queue.first, match
            heappop(self._ready)
            if queue.is_ready_at == (seq, number):
                queue.is_ready_at = None
        return None

    def consume(self, filter: MessageFilter, seq: int) -> None:
        """Note that a wait has got a message."""
        if filter.kind is EntryKind.CHILD_ENDED:
            return  # the end of a child is there for each wait for it
        self.withdraw(filter, seq)
        if filter.subscription is None:  # all waits of a subscription have the same filter
            self._consumed.setdefault(filter.channel, _Consumed()).add(seq)
        if not filter.is_competing:
            self._got(filter, seq)

    def withdraw(self, filter: MessageFilter, seq: int) -> None:
        """Take a message back from all waits that it was found for."""
        if filter.subscription is None:
            queues = self._holders.pop((filter.channel, seq), [])
        else:
            queue = self.queues.get(filter)
            queues = [] if queue is None else [queue]
        for queue in queues:
            queue.discard(seq)
            self._changed(queue)

    def _release(self, queue: WaitQueue, seq: int) -> None:
        """Note that a queue which has ended holds a message no longer."""
        key = queue.filter.channel, seq
        holders = self._holders.get(key)
        if queue.filter.subscription is None and holders is not None:
            holders.remove(queue)
            if not holders:
                del self._holders[key]

    def _got(self, filter: MessageFilter, seq: int) -> None:
        """Note that there is nothing more for waits with that filter up to a message."""
        self._last[filter] = max(seq, self._last.get(filter, 0))
        if filter.subscription is None and filter.subject is None and filter.channel in self._consumed:
            self._consumed[filter.channel].forget_until(self._last[filter])

    def _last_of(self, filter: MessageFilter) -> int:
        """Return the last message before which there is nothing more for a wait."""
        last = self._last.get(filter, 0)
        if filter.subject is None:
            return last
        return max(last, self._last.get(MessageFilter(filter.channel), 0))  # a wait for all events got those as well

    def _consumed_by(self, filter: MessageFilter) -> Collection[int]:
        """Return the events after the last one of :meth:`_last_of` that the filter lets through, and a wait got."""
        if filter.subscription is not None or filter.channel not in self._consumed:
            return ()
        return self._consumed[filter.channel].seqs
