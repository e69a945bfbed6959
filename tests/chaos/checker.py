"""Compares the evidence with what must have happened."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise

from attrs import define, field

from trio_romancy import EntryKind, Status

from .evidence import EntryRow, Evidence, InstanceRow
from .load import ANYTHING, Expected, Plan
from .workflows import ACCOUNTS, BALANCE, STOP

NO_OUTCOMES = frozenset({EntryKind.ATTEMPT_FAILED, EntryKind.RESUMED, EntryKind.ROLLBACK_REQUESTED})
"""Of every other kind of entry an operation has one at most. (The operation '' is the workflow function.)"""

_BEFORE_THE_END = frozenset(kind for kind in EntryKind if kind.is_delivered)
"""What workflow code is told, so that it must not be written any more once its function has ended."""


def find_violations(expected: Expected, evidence: Evidence, workers: Collection[str]) -> list[str]:
    """A sentence for each thing that must not be, naming the instance and the operation.

    Args:
      workers: ids of all workers, each of which wrote under a database user of this name.
    """
    return list(_Checker(expected, evidence, frozenset(workers)).violations())


def is_booking(operation_id: str) -> bool:
    """Whether the operation moves money, as an activity or as what undoes one."""
    return "book" in operation_id.removesuffix("/compensation").rpartition("/")[2]


@define(eq=False)
class _Checker:
    expected: Expected
    evidence: Evidence
    workers: frozenset[str]
    instances: dict[str, InstanceRow] = field(init=False)
    journals: dict[str, list[EntryRow]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.instances = {row.instance_id: row for row in self.evidence.instances}
        self.journals = defaultdict(list)
        for entry in self.evidence.entries:
            self.journals[entry.instance_id].append(entry)

    def violations(self) -> Iterator[str]:
        for instance_id, plan in self.expected.plans.items():
            row, journal = self.instances.get(instance_id), self.journals[instance_id]
            if row is None:
                yield f"{instance_id}: it was started, and is lost"
                continue
            for problem in self._of_instance(plan, row, journal):
                yield f"{instance_id}: {problem}"
        for unplanned in sorted((self.instances.keys() | self.journals.keys()) - self.expected.plans.keys()):
            parent, child = self.instances.get(unplanned.partition("/")[0]), self.instances.get(unplanned)
            if child is None or parent is None or not self._was_started(unplanned, parent):
                yield f"{unplanned}: nobody has started it"
                continue
            for problem in _of_child(child, parent, self.journals[unplanned], self._in_doubt(unplanned)):
                yield f"{unplanned}: {problem}"
        yield from self._of_events()
        yield from self._of_jobs()
        yield from self._of_money()
        yield from self._of_writers()
        for instance_id, operation_id in self.evidence.waiting:
            if (row := self.instances.get(instance_id)) is None or row.status.is_final:
                yield f"{instance_id}: it has ended, and {operation_id} is still held to wait"

    # -- one instance ----------------------------------------------------------------------------------------------

    def _of_instance(self, plan: Plan, row: InstanceRow, journal: Sequence[EntryRow]) -> Iterator[str]:
        yield from _status(plan, row, journal)
        if plan.stuck_because is not None:
            return
        yield from _recorded_once(journal)
        yield from _order(journal)
        yield from _compensations(plan, row, journal, self._in_doubt(row.instance_id))
        yield from _events_received(plan, row, journal)
        yield from _sleeps(plan, row, journal)
        if row.status is Status.COMPLETED:
            result = [e.payload["data"] for e in journal if e.kind is EntryKind.MESSAGE_RECEIVED][:-1]
            right = result if plan.kind == "receiver" else plan.result
            if right is not ANYTHING and row.output != right:
                yield f"it has returned {row.output!r}, and not {right!r}"

    def _was_started(self, child_id: str, parent: InstanceRow) -> bool:
        started = [e.payload["child"] for e in self.journals[parent.instance_id] if e.kind is EntryKind.CHILD_STARTED]
        return started.count(child_id) == 1

    def _in_doubt(self, instance_id: str) -> set[str]:
        """Compensations that an operator decides on: a death has interrupted their activities in a cancellation."""
        found = set()
        for entry in self.journals[instance_id]:
            if (
                entry.kind is EntryKind.ACTIVITY_CANCELLED
                and entry.payload is not None
                and entry.payload["was_interrupted"]
            ) or (entry.kind is EntryKind.CHILD_STARTED and self._in_doubt(entry.payload["child"])):
                found.add(f"{entry.operation_id}/compensation")
        return found

    # -- all of them -----------------------------------------------------------------------------------------------

    def _of_events(self) -> Iterator[str]:
        stored = Counter(message.event_id for message in self.evidence.messages if message.source is not None)
        for id in sorted(self.expected.events | {str(id) for id in stored}):
            accepted = int(id in self.expected.events)
            if stored[id] != accepted:
                yield f"event {id!r} was accepted {accepted} times, and is stored {stored[id]} times"

    def _of_jobs(self) -> Iterator[str]:
        taken: dict[int, list[EntryRow]] = defaultdict(list)
        for entry in self.evidence.entries:
            if entry.kind is EntryKind.MESSAGE_RECEIVED:
                taken[entry.payload["seq"]].append(entry)
        stored: dict[str, Counter[str]] = defaultdict(Counter)
        for message in self.evidence.messages:
            if message.source is not None:
                continue  # an event
            entries = taken.pop(message.seq, [])
            where = [f"{entry.instance_id} {entry.operation_id}" for entry in entries]
            name = f"job {message.data!r} of channel {message.channel!r}"
            if len(entries) > 1 or (not entries and message.data != STOP):
                yield f"{name} was received {len(entries)} times: {where}"
            for entry in entries:
                plan = self.expected.plans.get(entry.instance_id)
                if plan is None or plan.channel != message.channel:
                    yield f"{name} was received by {where[0]}, which had not subscribed"
                if entry.payload["data"] != message.data:
                    yield f"{name} was received by {where[0]} as {entry.payload['data']!r}"
                if message.taken_by != entry.instance_id:
                    yield f"{name} is held to be taken by {message.taken_by}, and was received by {where}"
            stored[message.channel][message.data] += message.data != STOP
        for seq, entries in taken.items():
            yield f"{entries[0].instance_id}: {entries[0].operation_id} has received message {seq}, which nobody sent"
        for channel in sorted(stored.keys() | self.expected.jobs.keys()):
            sent, found = Counter(self.expected.jobs.get(channel, ())), +stored[channel]
            if found != sent:
                yield f"channel {channel!r}: missing {sorted(sent - found)}, and too many {sorted(found - sent)}"

    def _of_money(self) -> Iterator[str]:
        booked: dict[tuple[str, str], list[int]] = defaultdict(list)
        balances = dict.fromkeys(range(ACCOUNTS), BALANCE)
        for booking in self.evidence.bookings:
            booked[booking.instance_id, booking.operation_id].append(booking.amount)
            balances[booking.account] += booking.amount
        recorded = {
            (entry.instance_id, entry.operation_id): entry
            for entry in self.evidence.entries
            if entry.kind in (EntryKind.ACTIVITY_COMPLETED, EntryKind.COMPENSATION_COMPLETED)
            and is_booking(entry.operation_id)
        }
        for id, operation in sorted(booked.keys() | recorded.keys()):
            amounts, entry = sorted(booked[id, operation]), recorded.get((id, operation))
            if entry is None:
                yield f"{id}: {operation} has booked {amounts}, and its completion is not recorded"
            elif len(amounts) != 2 or sum(amounts) != 0:
                yield f"{id}: {operation} has completed once, and has booked {amounts}"
            elif entry.kind is EntryKind.ACTIVITY_COMPLETED and amounts[1] != entry.payload["result"]:
                yield f"{id}: {operation} has booked {amounts}, and returned {entry.payload['result']}"
        for account, balance in balances.items():
            if self.evidence.balances.get(account) != balance:
                found = self.evidence.balances.get(account)
                yield f"account {account} holds {found}, and the ledger says {balance}"
        if sum(self.evidence.balances.values()) != ACCOUNTS * BALANCE:
            yield f"all accounts hold {sum(self.evidence.balances.values())}, and not {ACCOUNTS * BALANCE}"

    def _of_writers(self) -> Iterator[str]:
        if self.evidence.writes is None:
            return
        written = {(write.instance_id, write.seq) for write in self.evidence.writes}
        for entry in self.evidence.entries:
            if (entry.instance_id, entry.seq) not in written:
                yield f"{entry.instance_id}: nobody has seen who wrote entry {entry.seq}"
        operations = {(e.instance_id, e.seq): e.operation_id or e.kind for e in self.evidence.entries}
        for write in self.evidence.writes:
            if write.writer not in self.workers:
                continue  # the driver, who needs no lease
            what = f"entry {write.seq} ({operations.get((write.instance_id, write.seq))})"
            if write.leases != 1:
                yield f"{write.instance_id}: {what} was written by {write.writer} under a revoked lease"
            if write.owner not in (None, write.writer):
                yield f"{write.instance_id}: {what} was written by {write.writer}, while {write.owner} owned it"


def _status(plan: Plan, row: InstanceRow, journal: Sequence[EntryRow]) -> Iterator[str]:
    if plan.stuck_because is not None:
        if row.status is not Status.STUCK or row.owner is not None:
            yield f"it must be parked because of {plan.stuck_because!r}, and is {row.status}, owned by {row.owner}"
        return
    right = Status.CANCELLED if plan.is_cancelled else Status.FAILED if plan.fails else Status.COMPLETED
    if row.status is not right:
        why = "" if row.error is None else f": {row.error['error_type']}: {row.error['message']}"
        yield f"it must be {right}, and is {row.status}{why}"
    if not row.status.is_final:
        yield f"it has not ended; its journal ends with {[f'{e.operation_id}: {e.kind}' for e in journal[-2:]]}"
        return
    if row.owner is not None:
        yield f"it has ended, and is still owned by {row.owner}"
    ends = [entry.kind for entry in journal if entry.kind.ends_function]
    if ends != [f"workflow_{row.status}"]:
        yield f"it is {row.status}, and its journal says {[str(end) for end in ends]}"


def _of_child(
    row: InstanceRow, parent: InstanceRow, journal: Sequence[EntryRow], in_doubt: Collection[str]
) -> Iterator[str]:
    """Children do well by themselves, and are rolled back with their parents."""
    right = Status.COMPLETED if parent.status is Status.COMPLETED else Status.CANCELLED
    if parent.status.is_final and row.status is not right:
        yield f"it must be {right}, because its parent is {parent.status}, and is {row.status}"
    if row.owner is not None and row.status.is_final:
        yield f"it has ended, and is still owned by {row.owner}"
    ends = [str(entry.kind) for entry in journal if entry.kind.ends_function]
    is_rolled_back = any(entry.kind is EntryKind.ROLLBACK_REQUESTED for entry in journal)
    if row.status.is_final and ends != ["workflow_completed" if is_rolled_back else f"workflow_{row.status}"]:
        yield f"it is {row.status}, and its journal says {ends}"
    yield from _recorded_once(journal)
    yield from _order(journal)
    yield from _compensations(Plan(row.instance_id, "child"), row, journal, in_doubt)


def _recorded_once(journal: Sequence[EntryRow]) -> Iterator[str]:
    outcomes = defaultdict(list)
    for entry in journal:
        if entry.kind not in NO_OUTCOMES:
            outcomes[entry.operation_id].append(f"{entry.seq}: {entry.kind}")
    for operation_id, entries in outcomes.items():
        if len(entries) > 1:
            yield f"operation {operation_id!r} has {len(entries)} outcomes: {entries}"
    done = {}
    for entry in journal:
        if entry.kind is EntryKind.ATTEMPT_FAILED and entry.operation_id in done:
            yield f"operation {entry.operation_id!r} was attempted again after its outcome"
        elif entry.kind not in NO_OUTCOMES:
            done[entry.operation_id] = entry.seq


def _order(journal: Sequence[EntryRow]) -> Iterator[str]:
    for before, after in pairwise(journal):
        # A number can be missing, says trio_romancy.Entry.
        if after.seq <= before.seq:
            yield f"entry {after.seq} ({after.operation_id}) follows entry {before.seq}"
        if after.recorded_at < before.recorded_at:
            yield f"entry {after.seq} ({after.operation_id}) was recorded before entry {before.seq}"
    end = next((entry.seq for entry in journal if entry.kind.ends_function), None)
    for entry in journal:
        if end is not None and entry.seq > end and entry.kind in _BEFORE_THE_END:
            yield f"{entry.operation_id}: entry {entry.seq} tells a function something that has ended"


def _compensations(
    plan: Plan, row: InstanceRow, journal: Sequence[EntryRow], in_doubt: Collection[str]
) -> Iterator[str]:
    undone = [entry.operation_id for entry in journal if entry.kind is EntryKind.COMPENSATION_COMPLETED]
    for entry in journal:
        if entry.kind is EntryKind.COMPENSATION_FAILED and entry.operation_id not in in_doubt:
            yield f"{entry.operation_id} has failed for good"
    completed = _undoable(journal) if row.status is not Status.COMPLETED else []
    right = [id for id in (f"{id}/compensation" for id in reversed(completed)) if id not in in_doubt]
    if not row.status.is_final:
        return
    if undone != right:
        missing, extra = Counter(right) - Counter(undone), Counter(undone) - Counter(right)
        yield f"compensated {undone}, and not {right}: missing {sorted(missing)}, and too many {sorted(extra)}"
    if row.status is Status.FAILED and plan.undone is not None and len(right) != plan.undone:
        yield f"{plan.undone} activities must have been undone, and not {right}"


def _undoable(journal: Sequence[EntryRow]) -> list[str]:
    """What a rollback has to undo, in the order of the journal: a child that has completed in the place of its end."""
    found: list[str] = []
    for entry in journal:
        if entry.kind is EntryKind.CHILD_STARTED or (
            entry.kind is EntryKind.ACTIVITY_COMPLETED and entry.payload.get("compensation")
        ):
            found.append(entry.operation_id)
        elif entry.kind is EntryKind.CHILD_ENDED:
            child = entry.operation_id.removesuffix("/result")
            found.remove(child)
            if entry.payload["status"] == Status.COMPLETED:
                found.append(child)
    return found


def _events_received(plan: Plan, row: InstanceRow, journal: Sequence[EntryRow]) -> Iterator[str]:
    entries = [entry for entry in journal if entry.kind is EntryKind.EVENT_RECEIVED]
    received = [entry.payload["event"]["id"] for entry in entries]
    for entry, id in zip(entries, received, strict=True):
        if id not in plan.events:
            yield f"{entry.operation_id} has received event {id!r}, which is not for it"
    for id, times in Counter(received).items():
        if times > 1:
            yield f"event {id!r} was received {times} times"
    if received != plan.events[: len(received)]:
        yield f"events were received in the order {received}, and not {plan.events}"
    if row.status is Status.COMPLETED and (missing := set(plan.events) - set(received)):
        yield f"events {sorted(missing)} were accepted, and not received"


def _sleeps(plan: Plan, row: InstanceRow, journal: Sequence[EntryRow]) -> Iterator[str]:
    now = row.created_at
    fired = [entry for entry in journal if entry.kind is EntryKind.TIMER_FIRED]
    for entry, seconds in zip(fired, plan.sleeps, strict=False):
        if entry.recorded_at < now + round(seconds * 1_000_000):
            yield f"{entry.operation_id} fired {(entry.recorded_at - now) / 1e6:.3f} s after {seconds:g} s had begun"
        now = entry.recorded_at
