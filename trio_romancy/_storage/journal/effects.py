"""The part of a batch of the journal that is about messages, waits and children."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from attrs import define, field
from sqlalchemy import Connection

from ...clock import Microseconds
from ..sql.children import request_cancels, start_children, wake_parents
from ..sql.lock_order import serialize_writers
from ..sql.messages import Outgoing, count_messages, lock_channels, send
from ..sql.outbox import insert_outbox, release_held_back
from ..sql.permits import KeyStates, PermitRequest, Permits
from ..sql.rows import ChildRow, OutboxRow
from ..sql.waits import (
    LOOKS,
    ChildMode,
    Match,
    MatchResult,
    Wait,
    close_waits,
    find_matches,
    forget_waits,
    open_waits,
    wake,
)


@define(eq=False)
class WaitRequest:
    """A wait that begins."""

    wait: Wait
    most: int
    """The most messages to search for."""
    is_stored: bool
    """Whether a replayed instance may have stored the same wait before."""
    on_open: Callable[[Sequence[Match] | None], None]
    """Called once the wait is durable, with its messages; with None if the transaction has not searched for them."""
    found: Sequence[Match] | None = None


@define(eq=False)
class Effects:
    """The writes of a transaction to messages, waits and children, after the journal's fence."""

    outgoing: list[Outgoing] = field(factory=list)
    outbox: list[OutboxRow] = field(factory=list)
    """Rows of events for the broker."""
    held_back: list[tuple[str, int]] = field(factory=list)
    """Events for the broker that are held back no longer: instance ids, and the numbers of their entries."""
    opened: list[WaitRequest] = field(factory=list)
    closed: list[tuple[str, str]] = field(factory=list)
    """Waits that end: instance and operation ids."""
    ended: set[str] = field(factory=set)
    """Instances that have ended."""
    woken: set[str] = field(factory=set)
    """Instances to make due."""
    children: list[ChildRow] = field(factory=list)
    """Rows of new children."""
    ended_children: dict[str, str] = field(factory=dict)
    """The origins of the chains of children that have ended, by the children's instance ids."""
    ending_children: dict[str, tuple[set[str], str]] = field(factory=dict)
    """Origins of children to cancel, and the reason, by the id of the parent that asks for it."""
    asked: list[PermitRequest] = field(factory=list)
    """Requests for permits of limits."""
    freed: list[Permits] = field(factory=list)
    """Permits, and places among those that wait, that are needed no longer."""
    channels: set[str] = field(factory=set)
    """Channels to lock for other parts of the same transaction."""
    matches: list[MatchResult] = field(factory=list)
    """Messages that the transaction has found for waits of this worker's instances."""
    wakes_others: bool = False
    """Whether the transaction has made instances due that this worker does not run."""
    first: int = 0
    """The number of the first outgoing message."""
    keys: KeyStates | None = None
    """Keys of limits that the transaction has locked."""

    def lock(self, connection: Connection, now: Microseconds, origins: Iterable[str] = ()) -> None:
        """Lock all rows that other transactions may also lock. Only the fence may come before in the transaction.

        Args:
          origins: origins of chains whose last instance the same transaction writes.
        """
        channels = {one.row["channel"] for one in self.outgoing} | self.channels
        touched = [*origins, *self.ended_children.values()]
        for one in self.opened:
            if one.wait.mode is ChildMode.CHILD:
                touched.append(one.wait.channel)
            else:
                channels.add(one.wait.channel)
        lock_channels(connection, channels, now)
        serialize_writers(connection, touched, now)
        self.keys = None
        if self.asked or self.freed:
            held: list[Permits] = [*(request.permits for request in self.asked), *self.freed]
            self.keys = KeyStates(connection, [(want.name, want.key) for one in held for want in one.wants], now)
        if self.outgoing:
            self.first = count_messages(connection, len(self.outgoing), now)

    def apply(self, connection: Connection, now: Microseconds, me: str | None) -> None:
        """Write everything. Writes to the instances themselves must come before in the same transaction.

        Args:
          me: the worker whose own instances get their matches from :attr:`matches`: see :func:`.messages.send`.
        """
        if self.ended:
            forget_waits(connection, self.ended)
        self.matches, self.wakes_others = [], False
        if self.outgoing:
            self.matches, self.wakes_others = send(connection, self.outgoing, self.first, now, me)
        if stored := [(one.wait.instance_id, one.wait.operation_id) for one in self.opened if one.is_stored]:
            close_waits(connection, stored)
        if self.opened:
            open_waits(connection, [opening.wait for opening in self.opened])
            for opening in self.opened[:LOOKS]:  # other transactions wait for this one
                opening.found = find_matches(connection, opening.wait, opening.most)
        if self.closed:
            close_waits(connection, self.closed)
        if self.outbox:
            insert_outbox(connection, self.outbox)
        if self.held_back:
            release_held_back(connection, self.held_back, now)
        if self.children:
            start_children(connection, self.children)
        for origins, reason in self.ending_children.values():
            request_cancels(connection, origins, reason, now)
        self.wakes_others |= bool(self.children or self.ending_children)
        if self.ended_children:
            matches, wakes_others = wake_parents(connection, self.ended_children, now, me)
            self.matches, self.wakes_others = [*self.matches, *matches], self.wakes_others or wakes_others
        if self.woken:
            wake(connection, self.woken, now)
        if self.keys is not None:
            # What was abandoned while its request was under way is freed after that.
            asked = {id(request.permits) for request in self.asked}
            if before := [one for one in self.freed if id(one) not in asked]:
                self.keys.free(before)
            if self.asked:
                assert me is not None
                self.keys.take(self.asked, me)
            if after := [one for one in self.freed if id(one) in asked]:
                self.keys.free(after)
            self.wakes_others |= self.keys.finish()

    def address(self, seq: int) -> None:
        """Set the journal entry that the events for the broker belong to."""
        for number, row in enumerate(self.outbox):
            row["seq"], row["number"] = seq, number

    def hold_back_events(self, until: Microseconds) -> None:
        """Keep relayers from the events for the broker until that time, or until they are released."""
        for row in self.outbox:
            row["due_at"] = until

    def report(self) -> None:
        """Call :attr:`WaitRequest.on_open` of all waits, and note which permits are free. All must be durable."""
        for opening in self.opened:
            opening.on_open(opening.found)
        for permits in self.freed:
            permits.is_free = True

    def add(self, other: Effects) -> None:
        """Add other effects to these."""
        self.outgoing += other.outgoing
        self.outbox += other.outbox
        self.held_back += other.held_back
        self.opened += other.opened
        self.closed += other.closed
        self.ended |= other.ended
        self.woken |= other.woken
        self.children += other.children
        self.ended_children |= other.ended_children
        self.ending_children |= other.ending_children
        self.asked += other.asked
        self.freed += other.freed
        self.channels |= other.channels

    def bytes(self) -> int:
        """Return the size of the data that are sent."""
        size = 0
        for one in self.outgoing:
            size += len(one.row["data"])
        for row in self.outbox:
            size += len(row["data"])
        for child in self.children:
            size += len(child["input"])
        return size

    def add_results(self, part: Effects) -> None:
        """Add the results of a part of these effects, which had a transaction of its own."""
        self.matches += part.matches
        self.wakes_others |= part.wakes_others

    def parts(self) -> Iterator[tuple[str, Effects]]:
        """Yield instance ids, and the effects of each."""
        parts: dict[str, Effects] = {}

        def part(instance_id: str) -> Effects:
            return parts.setdefault(instance_id, Effects())

        for number, one in enumerate(self.outgoing):
            part(one.row["sender"] or f"\0message {number}").outgoing.append(one)
        for row in self.outbox:
            part(row["instance_id"]).outbox.append(row)
        for instance_id, seq in self.held_back:
            part(instance_id).held_back.append((instance_id, seq))
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
        for request in self.asked:
            part(request.permits.instance_id).asked.append(request)
        for permits in self.freed:
            part(permits.instance_id).freed.append(permits)
        yield from parts.items()
