"""The part of a batch of the journal that is about messages: what is sent, and who begins or ceases to wait."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from attrs import define, field
from sqlalchemy import Connection

from ...clock import Microseconds
from ..sql import children as families
from ..sql import messages, waits
from ..sql.chains import touch
from ..sql.messages import Outgoing
from ..sql.outbox import insert_outbox
from ..sql.rows import ChildRow, OutboxRow
from ..sql.waits import FamilyMode, Match, MatchResult, Wait


@define(eq=False)
class WaitRequest:
    """A wait that begins."""

    wait: Wait
    most: int
    """The most messages to look for."""
    is_stored: bool
    """Whether it may have been noted already, before a replay."""
    on_open: Callable[[Sequence[Match] | None], None]
    """Called once it is durable, with what is there for it; None: it was not looked for."""
    found: Sequence[Match] | None = None


@define(eq=False)
class Effects:
    """What is done about messages in one transaction, behind the journal's fence."""

    outgoing: list[Outgoing] = field(factory=list)
    outbox: list[OutboxRow] = field(factory=list)
    """Rows of events for the broker."""
    opened: list[WaitRequest] = field(factory=list)
    closed: list[tuple[str, str]] = field(factory=list)
    """Waits that are over: instance and operation ids."""
    ended: set[str] = field(factory=set)
    """Instances that have ended."""
    woken: set[str] = field(factory=set)
    """Instances that want attention."""
    children: list[ChildRow] = field(factory=list)
    """Rows of new children."""
    ended_children: dict[str, str] = field(factory=dict)
    """Children that have ended, and the origin of each one's chain."""
    ending_children: dict[str, tuple[set[str], str]] = field(factory=dict)
    """Children (their origins) that shall end, and why, by the instance that asks for it."""
    channels: set[str] = field(factory=set)
    """Channels that something else in the same transaction needs to be locked."""
    news: list[MatchResult] = field(factory=list)
    """What there is for waits of this worker's instances."""
    wakes_others: bool = False
    first: int = 0
    """The number of the first message."""

    def lock(self, connection: Connection, now: Microseconds, origins: Iterable[str] = ()) -> None:
        """Lock what others may want too. Comes first in its transaction, but for the fence.

        Args:
          origins: of chains whose last instance is written by the same transaction.
        """
        channels = {one.row["channel"] for one in self.outgoing} | self.channels
        children = [*origins, *self.ended_children.values()]
        for one in self.opened:
            if one.wait.mode is FamilyMode.CHILD:
                children.append(one.wait.channel)
            else:
                channels.add(one.wait.channel)
        messages.lock_channels(connection, channels, now)
        touch(connection, children, now)
        if self.outgoing:
            self.first = messages.count_messages(connection, len(self.outgoing), now)

    def apply(self, connection: Connection, now: Microseconds, me: str | None) -> None:
        """Do it. What an instance does itself in the same transaction has been written before.

        Args:
          me: the worker that sees to its own instances itself: see :func:`.messages.send`.
        """
        if self.ended:
            waits.forget_waits(connection, self.ended)
        self.news, self.wakes_others = [], False
        if self.outgoing:
            self.news, self.wakes_others = messages.send(connection, self.outgoing, self.first, now, me)
        if stored := [(one.wait.instance_id, one.wait.operation_id) for one in self.opened if one.is_stored]:
            waits.close_waits(connection, stored)
        if self.opened:
            waits.open_waits(connection, [opening.wait for opening in self.opened])
            for opening in self.opened[: waits.LOOKS]:  # others wait for this transaction
                opening.found = waits.find(connection, opening.wait, opening.most)
        if self.closed:
            waits.close_waits(connection, self.closed)
        if self.outbox:
            insert_outbox(connection, self.outbox)
        if self.children:
            families.start_children(connection, self.children)
        for origins, reason in self.ending_children.values():
            families.request_ends(connection, origins, reason, now)
        self.wakes_others |= bool(self.children or self.ending_children)
        if self.ended_children:
            news, wakes_others = families.note_ends(connection, self.ended_children, now, me)
            self.news, self.wakes_others = [*self.news, *news], self.wakes_others or wakes_others
        if self.woken:
            waits.wake(connection, self.woken, now)

    def address(self, seq: int) -> None:
        """What is sent to the broker comes from that entry of the journal."""
        for number, row in enumerate(self.outbox):
            row["seq"], row["number"] = seq, number

    def tell(self) -> None:
        """Tell who began to wait. It is durable."""
        for opening in self.opened:
            opening.on_open(opening.found)

    def add(self, other: Effects) -> None:
        """Do what the other does as well."""
        self.outgoing += other.outgoing
        self.outbox += other.outbox
        self.opened += other.opened
        self.closed += other.closed
        self.ended |= other.ended
        self.woken |= other.woken
        self.children += other.children
        self.ended_children |= other.ended_children
        self.ending_children |= other.ending_children
        self.channels |= other.channels

    def note(self, part: Effects) -> None:
        """A part of it is durable."""
        self.news += part.news
        self.wakes_others |= part.wakes_others

    def parts(self) -> Iterator[tuple[str, Effects]]:
        """The same, instance by instance."""
        parts: dict[str, Effects] = {}

        def part(instance_id: str) -> Effects:
            return parts.setdefault(instance_id, Effects())

        for number, one in enumerate(self.outgoing):
            part(one.row["sender"] or f"\0message {number}").outgoing.append(one)
        for row in self.outbox:
            part(row["instance_id"]).outbox.append(row)
        for opening in self.opened:
            part(opening.wait.instance_id).opened.append(opening)
        for instance_id, operation_id in self.closed:
            part(instance_id).closed.append((instance_id, operation_id))
        for instance_id in self.ended:
            part(instance_id).ended.add(instance_id)
        for instance_id in self.woken:
            part(instance_id).woken.add(instance_id)
        for child in self.children:
            part(child["parent_id"]).children.append(child)
        for instance_id, origin in self.ended_children.items():
            part(instance_id).ended_children[instance_id] = origin
        for parent_id, asked in self.ending_children.items():
            part(parent_id).ending_children[parent_id] = asked
        yield from parts.items()
