"""What one actor waits for from outside, and which message goes to which wait.

A message that was accepted is in the database; what is here only says what to look for, and what the last look has
found. A message goes to one wait, the smallest number first. It is consumed once the workflow has been told of it,
which is what the journal records: a wait that is given up meanwhile costs nobody his message.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from attrs import define, frozen

from ..._storage.sql.chains import CarryOver
from ..._storage.sql.waits import FamilyMode, Match, MatchResult, Wait
from ...clock import Microseconds
from ...model import ChannelMode, Kind

if TYPE_CHECKING:
    from ..actor.actor import Actor
    from .journal_cursor import Operation


@frozen
class Subscription:
    """An actor's subscription to a channel; or, with a mode of its own, that it waits for the end of a child."""

    operation_id: str
    mode: ChannelMode | FamilyMode
    after: int
    """Messages up to this one are not for it."""


@frozen
class MessageFilter:
    """Which messages a wait is for. Waits with the same filter get them one after the other."""

    channel: str
    subject: str | None = None
    """Of the event; None: any."""
    subscription: Subscription | None = None
    """What it receives from; None: it waits for an event."""

    @property
    def kind(self) -> Kind:
        """Of the entry that records what a wait gets."""
        if self.subscription is None:
            return Kind.EVENT_RECEIVED
        return Kind.CHILD_ENDED if self.subscription.mode is FamilyMode.CHILD else Kind.MESSAGE_RECEIVED

    @property
    def is_competing(self) -> bool:
        """Whether a message must be taken, because only one instance gets it."""
        return self.subscription is not None and self.subscription.mode is ChannelMode.COMPETING


@define(eq=False)
class LocalWait:
    """An operation that waits for a message."""

    operation: Operation
    filter: MessageFilter
    found: Sequence[Match] = ()
    """What the last look has found that nobody else got, in order."""
    looked_at: Microseconds | None = None
    """When that look began; None: the database does not know of the wait yet."""
    is_cut: bool = False
    """Whether there may be more than the last look has found."""

    @property
    def is_blind(self) -> bool:
        """Whether it must be looked for again."""
        return self.is_cut and not self.found


class MessageTable:
    """The waits and subscriptions of one actor."""

    def __init__(self, actor: Actor) -> None:
        self.subscriptions: dict[str, Subscription] = {}
        """By channel."""
        self._actor = actor
        self._open: dict[str, LocalWait] = {}
        """By operation id, in the order in which they began."""
        self._last: dict[MessageFilter, int] = {}
        """The last message that a wait with this filter has got: there is nothing more for it before that."""
        self._consumed: dict[str, set[int]] = {}
        """Events of each type that some wait has got, and which another filter may let through as well."""
        self._left: dict[str, int] = {}
        """Channels that it was subscribed to before, and the last message that it can have received then."""
        self._taken_along: dict[str, tuple[str, int]] = {}
        """Subscriptions of the instance before it in its chain: by channel, the mode, and what was received."""
        self._is_stirred = False
        """Whether a look was asked for that has not begun."""
        self._is_looked_for = False
        """Whether a look has begun that has not ended."""

    # -- going on as another instance ------------------------------------------------------------------------------

    def unpack(self, carry_over: CarryOver) -> None:
        """The instance goes on from another, which had received this."""
        self._last = {MessageFilter(channel, subject): seq for channel, subject, seq in carry_over.received}
        self._consumed = {channel: set(seqs) for channel, seqs in carry_over.consumed.items()}
        self._taken_along = dict(carry_over.subscriptions)
        self._left = dict(carry_over.left)

    def pack(self) -> CarryOver:
        """What the instance that goes on from this one has to know. It must not have a wait open."""
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
        subscriptions = dict(self._taken_along)
        for channel, subscription in self.subscriptions.items():
            subscriptions[channel] = (str(subscription.mode), self._received_by(channel, subscription))
        return CarryOver(received, consumed, subscriptions, dict(self._left))

    # -- waiting ---------------------------------------------------------------------------------------------------

    def subscribe(self, channel: str, operation_id: str, mode: ChannelMode, last: int) -> None:
        """A subscription begins.

        Args:
          last: the last message before it.
        """
        after = last
        if mode is ChannelMode.COMPETING:
            after = 0  # whatever nobody has got
        elif mode is ChannelMode.DIRECT and channel not in self._left:
            after = self._actor.claim.started_after
        if channel in self._taken_along:
            held, received = self._taken_along.pop(channel)
            if held == mode and mode is not ChannelMode.COMPETING:
                after = received  # what was sent to the instance before it, and to nobody meanwhile, goes along
        self.subscriptions.setdefault(channel, Subscription(operation_id, mode, after))

    def unsubscribe(self, channel: str) -> Subscription | None:
        """A subscription ends. Returns it, if there was one."""
        subscription = self.subscriptions.pop(channel, None)
        if subscription is not None:
            self._left[channel] = self._received_by(channel, subscription)
        self._taken_along.pop(channel, None)
        return subscription

    def _received_by(self, channel: str, subscription: Subscription) -> int:
        return max(self._last_of(MessageFilter(channel, None, subscription)), subscription.after)

    def open(self, operation: Operation, filter: MessageFilter) -> LocalWait:
        """Begin to wait."""
        wait = self._open[operation.id] = LocalWait(operation, filter)
        actor = self._actor
        begun = actor.clock.now()
        request, most = self._request(wait)
        stored = actor.take_stored_wait(request)
        if stored is not None:
            operation.waits = True
            self.hear(stored)
            return wait

        def opened(found: Sequence[Match] | None) -> None:
            operation.waits = True
            self._note(wait, found or (), begun, is_cut=found is None)

        actor.journal.append_wait(request, most, opened, is_stored=not actor.is_new)
        return wait

    def channel_of(self, operation_id: str) -> str:
        """What an operation that waits receives from."""
        return self._open[operation_id].filter.channel

    def close(self, wait: LocalWait) -> None:
        """Cease to wait. If the actor is dropped its instance goes on waiting."""
        if self._open.pop(wait.operation.id, None) is not None and not self._actor.is_dropped:
            self._actor.journal.append_close(self._actor.instance_id, wait.operation.id)

    def receive(self, wait: LocalWait, found: Match) -> None:
        """A wait gets its message: that is recorded, and the workflow is told next."""
        self.consume(wait.filter, found.seq)
        self.close(wait)

    def consume(self, filter: MessageFilter, seq: int) -> None:
        """A wait has got a message."""
        if filter.kind is Kind.CHILD_ENDED:
            return  # which is for whoever waits for it, as often as that is asked
        self._drop(filter, seq)
        if not filter.is_competing:
            self._last[filter] = max(seq, self._last.get(filter, 0))
        if filter.subscription is None:  # all waits of a subscription have the same filter
            self._consumed.setdefault(filter.channel, set()).add(seq)

    def give_up(self, filter: MessageFilter, seq: int) -> None:
        """Another instance has taken a message."""
        self._drop(filter, seq)
        self.look()

    def _drop(self, filter: MessageFilter, seq: int) -> None:
        for wait in self._siblings(filter):
            wait.found = [found for found in wait.found if found.seq != seq]
            if wait.is_blind:
                self.look()

    def _last_of(self, filter: MessageFilter) -> int:
        """The last message before which there is nothing more for a wait."""
        last = self._last.get(filter, 0)
        if filter.subject is None:
            return last
        return max(
            last, self._last.get(MessageFilter(filter.channel), 0)
        )  # what has got all events has got those as well

    def _consumed_by(self, filter: MessageFilter) -> Collection[int]:
        return self._consumed.get(filter.channel, ()) if filter.subscription is None else ()

    def _siblings(self, filter: MessageFilter) -> list[LocalWait]:
        """The waits that the same message can be for."""
        of = (filter.channel, filter.subscription)
        return [wait for wait in self._open.values() if (wait.filter.channel, wait.filter.subscription) == of]

    # -- looking ---------------------------------------------------------------------------------------------------

    @property
    def is_looking(self) -> bool:
        """Whether it is not known yet what there is."""
        return self._is_stirred or self._is_looked_for or any(wait.looked_at is None for wait in self._open.values())

    def look(self) -> None:
        """There may be new messages: look for them."""
        if self._open and not self._is_stirred:
            self._is_stirred = True
            self._actor.home.look_for(self)

    def requests(self) -> list[tuple[LocalWait, Wait, int]]:
        """What to look for: each wait, and the most messages for it. A look begins, up to :meth:`looked`."""
        self._is_stirred, self._is_looked_for = False, True
        return [(wait, *self._request(wait)) for wait in self._open.values() if wait.looked_at is not None]

    def _request(self, wait: LocalWait) -> tuple[Wait, int]:
        filter, subscription, actor = wait.filter, wait.filter.subscription, self._actor
        after = actor.claim.started_after if subscription is None else subscription.after
        after = max(after, self._last_of(filter))
        mode = None if subscription is None else subscription.mode
        origin = actor.claim.origin
        request = Wait(actor.instance_id, wait.operation.id, filter.channel, filter.subject, mode, after, origin)
        consumed = self._consumed_by(filter)
        # So many that one is left when all others have got theirs.
        return request, len(self._siblings(filter)) + sum(seq > after for seq in consumed)

    def note(self, wait: LocalWait, found: Sequence[Match], looked_at: Microseconds) -> None:
        """This is there for a wait, as of that time: all there is, or as much as was asked for."""
        self._note(wait, found, looked_at, is_cut=False)

    def _note(self, wait: LocalWait, found: Sequence[Match], looked_at: Microseconds, *, is_cut: bool) -> None:
        # The answers of two looks may come in the wrong order, and a message does not go away by itself.
        all = {one.seq: one for one in (*wait.found, *found)}
        consumed = self._consumed_by(wait.filter)
        last = self._last_of(wait.filter)
        wait.found = [all[seq] for seq in sorted(all) if seq > last and seq not in consumed]
        wait.looked_at = looked_at if wait.looked_at is None else max(wait.looked_at, looked_at)
        wait.is_cut = is_cut
        if wait.is_blind:
            self.look()
        self._actor.deliver().poke()

    def hear(self, news: MatchResult) -> None:
        """Somebody else has looked for a wait, without knowing what has been received."""
        wait = self._open.get(news.wait.operation_id)
        if wait is None:
            self._actor.is_behind = True  # it was stored, and may be about to be opened
            return
        self._note(wait, news.found, news.looked_at, is_cut=not news.is_all)

    def looked(self) -> None:
        """A look has ended, and everything that was found has been noted."""
        self._is_looked_for = False
        self._actor.deliver().poke()

    def have_looked_since(self, when: Microseconds) -> bool:
        """Whether everything that was accepted up to that time has been found."""
        waits = self._open.values()
        return all(wait.looked_at is not None and wait.looked_at >= when and not wait.is_blind for wait in waits)

    def next(self) -> tuple[LocalWait, Match] | None:
        """The next message, and the wait that gets it; None if there is none for any."""
        ready = [wait for wait in self._open.values() if wait.found]
        if not ready:
            return None
        first = min(ready, key=lambda wait: wait.found[0].seq)
        return first, first.found[0]
