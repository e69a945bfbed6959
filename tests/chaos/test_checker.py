"""The checker finds what it is there for, on evidence made by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import define, evolve, field

from trio_romancy import EntryKind, Status

from .checker import find_violations, is_booking
from .disturbances import Disturbances, Span
from .evidence import Booking, EntryRow, Evidence, InstanceRow, MessageRow, Write
from .load import Expected, Plan
from .notes import Explosion, Notes, Run, read_notes
from .parked import find_parked
from .posts import find_posts
from .repeats import find_repeats
from .worker import MAX_RECOVERIES
from .workflows import ACCOUNTS, BALANCE, BROKEN_ID, EVENT, STOP

pytestmark = pytest.mark.long

WORKER, OTHER_WORKER, DRIVER = "worker1", "worker2", "root"


@define(eq=False)
class World:
    """What was expected, and the evidence."""

    expected: Expected = field(factory=Expected)
    evidence: Evidence = field(factory=lambda: Evidence(balances=dict.fromkeys(range(ACCOUNTS), BALANCE), writes=[]))
    notes: Notes = field(factory=Notes)
    taken: list[str] = field(factory=list)
    """Ids of the events that the broker has taken."""

    def add(self, plan: Plan, status: Status, output: Any, *entries: tuple[str, EntryKind, Any]) -> None:
        """An instance that has ended, and its journal."""
        self.expected.plans[plan.instance_id] = plan
        self.evidence.instances.append(InstanceRow(plan.instance_id, status, output))
        for seq, (operation_id, kind, payload) in enumerate(entries, 1):
            self.evidence.entries.append(EntryRow(plan.instance_id, seq, operation_id, kind, payload, seq * 1_000_000))
            self.writes.append(Write(plan.instance_id, seq, WORKER, 1, WORKER))

    @property
    def writes(self) -> list[Write]:
        assert self.evidence.writes is not None
        return self.evidence.writes

    def book(self, instance_id: str, operation_id: str, giver: int, taker: int, amount: int) -> None:
        for account, change in ((giver, -amount), (taker, amount)):
            self.evidence.bookings.append(Booking(instance_id, operation_id, account, change))
            self.evidence.balances[account] += change

    def instance(self, instance_id: str, /, **changes: Any) -> None:
        """Change a row."""
        rows = self.evidence.instances
        rows[:] = [evolve(row, **changes) if row.instance_id == instance_id else row for row in rows]

    def entry(self, instance_id: str, operation_id: str, /, **changes: Any) -> None:
        """Change the entries of an operation."""
        rows = self.evidence.entries
        rows[:] = [
            evolve(row, **changes) if (row.instance_id, row.operation_id) == (instance_id, operation_id) else row
            for row in rows
        ]

    def append(self, instance_id: str, operation_id: str, kind: EntryKind, payload: Any = None, seq: int = 99) -> None:
        """One more entry at the end of a journal, which somebody with a lease has written."""
        self.evidence.entries.append(EntryRow(instance_id, seq, operation_id, kind, payload, seq * 1_000_000))
        self.writes.append(Write(instance_id, seq, WORKER, 1, WORKER))

    def remove(self, instance_id: str, operation_id: str) -> None:
        """Remove the entries of an operation."""
        rows = self.evidence.entries
        rows[:] = [row for row in rows if (row.instance_id, row.operation_id) != (instance_id, operation_id)]

    def violations(self) -> list[str]:
        found = find_violations(self.expected, self.evidence, [WORKER, OTHER_WORKER])
        found += find_parked(self.expected, self.evidence, self.notes)
        return [*found, *find_posts(self.expected, self.evidence, self.taken)]


def undoable(result: int) -> dict[str, Any]:
    return {"result": result, "compensation": {"name": "chaos_book_back"}}


def event(id: str) -> dict[str, Any]:
    return {"seq": int(id[-1]), "event": {"id": id}, "data": int(id[-1])}


def good_world() -> World:
    """One in which all is as it should be."""
    world = World()
    world.add(
        Plan("saga", "saga", fails=True, undone=2),
        Status.FAILED,
        None,
        ("chaos_book_for_now:1", EntryKind.ACTIVITY_COMPLETED, undoable(5)),
        ("chaos_note:1", EntryKind.ATTEMPT_FAILED, {}),
        ("chaos_note:1", EntryKind.ATTEMPT_FAILED, {}),
        ("chaos_note:1", EntryKind.ACTIVITY_COMPLETED, undoable(1)),
        ("chaos_refuse:1", EntryKind.ACTIVITY_FAILED, {}),
        ("", EntryKind.WORKFLOW_FAILED, {}),
        ("chaos_note:1/compensation", EntryKind.COMPENSATION_COMPLETED, {}),
        ("chaos_book_for_now:1/compensation", EntryKind.COMPENSATION_COMPLETED, {}),
    )
    world.book("saga", "chaos_book_for_now:1", 0, 1, 5)
    world.book("saga", "chaos_book_for_now:1/compensation", 1, 0, 5)
    world.add(
        Plan("transfer", "transfer", 3),
        Status.COMPLETED,
        3,
        ("chaos_book:1", EntryKind.ACTIVITY_COMPLETED, {"result": 3}),
        ("", EntryKind.WORKFLOW_COMPLETED, None),
    )
    world.book("transfer", "chaos_book:1", 2, 3, 3)
    for name in ("waiter", "other waiter"):
        world.add(
            Plan(name, "waiter", [1, 2], events=["event-1", "event-2"]),
            Status.COMPLETED,
            [1, 2],
            ("wait_event:1", EntryKind.EVENT_RECEIVED, event("event-1")),
            ("wait_event:2", EntryKind.EVENT_RECEIVED, event("event-2")),
            ("", EntryKind.WORKFLOW_COMPLETED, None),
        )
    world.add(
        Plan("cancelled waiter", "waiter", [3], events=["event-3"], is_cancelled=True),
        Status.CANCELLED,
        None,
        ("cancel", EntryKind.CANCEL_REQUESTED, {}),
        ("", EntryKind.WORKFLOW_CANCELLED, {}),
    )
    world.expected.events |= {"event-1", "event-2", "event-3"}
    world.evidence.messages += [MessageRow(n, EVENT, f"event-{n}", "/chaos", None, n) for n in (1, 2, 3)]
    world.expected.jobs["jobs"] = {"job-1", "job-2"}
    for number in (1, 2):
        name, job = f"receiver-{number}", f"job-{number}"
        world.add(
            Plan(name, "receiver", channel="jobs"),
            Status.COMPLETED,
            [job],
            ("subscribe:1", EntryKind.SUBSCRIBED, {}),
            ("receive:1", EntryKind.MESSAGE_RECEIVED, {"seq": 10 + number, "data": job}),
            ("receive:2", EntryKind.MESSAGE_RECEIVED, {"seq": 20 + number, "data": STOP}),
            ("", EntryKind.WORKFLOW_COMPLETED, None),
        )
        world.evidence.messages.append(MessageRow(10 + number, "jobs", None, None, name, job))
        world.evidence.messages.append(MessageRow(20 + number, "jobs", None, None, name, STOP))
    child = {"child": "parent/chaos_saga:1"}
    world.add(
        Plan("parent", "parent", fails=True, undone=2),
        Status.FAILED,
        None,
        ("chaos_saga:1", EntryKind.CHILD_STARTED, child),
        ("chaos_note:1", EntryKind.ACTIVITY_COMPLETED, undoable(1)),
        ("chaos_saga:1/result", EntryKind.CHILD_ENDED, child | {"status": "completed"}),
        ("chaos_refuse:1", EntryKind.ACTIVITY_FAILED, {}),
        ("", EntryKind.WORKFLOW_FAILED, {}),
        ("chaos_saga:1/compensation", EntryKind.COMPENSATION_COMPLETED, {}),
        ("chaos_note:1/compensation", EntryKind.COMPENSATION_COMPLETED, {}),
    )
    world.add(
        Plan("parent/chaos_saga:1", "child"),
        Status.CANCELLED,
        1,
        ("chaos_note:1", EntryKind.ACTIVITY_COMPLETED, undoable(1)),
        ("", EntryKind.WORKFLOW_COMPLETED, {}),
        ("", EntryKind.ROLLBACK_REQUESTED, {}),
        ("chaos_note:1/compensation", EntryKind.COMPENSATION_COMPLETED, {}),
    )
    del world.expected.plans["parent/chaos_saga:1"]  # its parent has started it, and nobody else
    world.add(
        Plan("teller", "teller", 2),
        Status.COMPLETED,
        2,
        ("tell 1", EntryKind.ACTIVITY_COMPLETED, {"result": 1}),
        ("tell 0", EntryKind.ACTIVITY_COMPLETED, {"result": 0}),
        ("", EntryKind.WORKFLOW_COMPLETED, None),
    )
    world.taken += ["teller tell 1", "teller tell 0", "teller tell 1"]
    world.evidence.outbox += [("teller", f"teller tell {number}", "sent") for number in (0, 1)]
    world.evidence.outbox.append(("waiter", BROKEN_ID, "invalid"))
    world.expected.damaged.add("waiter")
    world.add(
        Plan("poison", "poison", stuck_because="max_recoveries"),
        Status.STUCK,
        None,
        ("chaos_arm:1", EntryKind.ACTIVITY_COMPLETED, undoable(0)),
        ("chaos_refuse:1", EntryKind.ACTIVITY_FAILED, {}),
        ("", EntryKind.WORKFLOW_FAILED, {}),
    )
    world.instance("poison", error={"error_type": "RomancyError", "message": "max_recoveries is 5"})
    world.add(
        Plan("sleeper", "sleeper", "woken", sleeps=[1.0, 0.5]),
        Status.COMPLETED,
        "woken",
        ("sleep:1", EntryKind.TIMER_FIRED, None),
        ("sleep:2", EntryKind.TIMER_FIRED, None),
        ("", EntryKind.WORKFLOW_COMPLETED, None),
    )
    return world


def test_it_finds_nothing_where_nothing_is_wrong() -> None:
    assert good_world().violations() == []


@pytest.mark.parametrize("was_interrupted", [True, False])
def test_a_compensation_may_fail_only_if_its_activity_was_interrupted(was_interrupted: bool) -> None:
    world = good_world()
    world.add(
        Plan("interrupted", "saga", is_cancelled=True),
        Status.CANCELLED,
        None,
        ("cancel", EntryKind.CANCEL_REQUESTED, {}),
        ("chaos_note:1", EntryKind.ACTIVITY_CANCELLED, {"was_interrupted": True} if was_interrupted else None),
        ("", EntryKind.WORKFLOW_CANCELLED, {}),
        ("chaos_note:1/compensation", EntryKind.COMPENSATION_FAILED, {}),
    )
    failed = ["interrupted: chaos_note:1/compensation has failed for good"]
    assert world.violations() == ([] if was_interrupted else failed)


def test_it_finds_nothing_if_nobody_has_watched_the_writers() -> None:
    world = good_world()
    world.evidence.writes = None
    assert world.violations() == []


def test_what_the_driver_writes_needs_no_lease() -> None:
    world = good_world()
    world.append("saga", "", EntryKind.RESUMED)
    world.writes[-1] = evolve(world.writes[-1], writer=DRIVER, leases=0, owner=None)
    assert world.violations() == []


@pytest.mark.parametrize(
    ("operation_id", "is_one"),
    [
        ("chaos_book:1", True),
        ("child 2/chaos_book:1", True),
        ("book 3/compensation", True),
        ("chaos_note:1/compensation", False),
        ("child 2/chaos_work:1", False),
    ],
)
def test_it_knows_what_moves_money(operation_id: str, is_one: bool) -> None:
    assert is_booking(operation_id) is is_one


def lose_an_instance(world: World) -> None:
    world.evidence.instances = [row for row in world.evidence.instances if row.instance_id != "sleeper"]


def leave_a_writer_unseen(world: World) -> None:
    world.writes.pop()


def make_an_instance(world: World) -> None:
    world.evidence.instances.append(InstanceRow("stray", Status.COMPLETED))


def book_again(world: World) -> None:
    world.book("transfer", "chaos_book:1", 2, 3, 3)


def book_half(world: World) -> None:
    booking = world.evidence.bookings.pop()
    world.evidence.balances[booking.account] -= booking.amount


def book_another_amount(world: World) -> None:
    world.entry("transfer", "chaos_book:1", payload={"result": 4})


def print_money(world: World) -> None:
    world.evidence.balances[7] += 1


def store_an_event_again(world: World) -> None:
    world.evidence.messages.append(MessageRow(30, EVENT, "event-1", "/chaos", None, 1))


def lose_an_event(world: World) -> None:
    del world.evidence.messages[0]


def lose_a_job(world: World) -> None:
    world.evidence.messages = [row for row in world.evidence.messages if row.data != "job-1"]
    world.remove("receiver-1", "receive:1")
    world.instance("receiver-1", output=[])


def send_a_job_again(world: World) -> None:
    world.evidence.messages.append(MessageRow(31, "jobs", None, None, "receiver-1", "job-2"))
    world.append("receiver-1", "receive:0", EntryKind.MESSAGE_RECEIVED, {"seq": 31, "data": "job-2"})


def receive_a_job_again(world: World) -> None:
    world.append("receiver-2", "receive:3", EntryKind.MESSAGE_RECEIVED, {"seq": 11, "data": "job-1"})


def receive_a_job_of_others(world: World) -> None:
    world.expected.plans["receiver-1"].channel = "other jobs"


def take_a_job_for_another(world: World) -> None:
    world.evidence.messages = [
        evolve(row, taken_by="receiver-2") if row.seq == 11 else row for row in world.evidence.messages
    ]


def receive_what_nobody_sent(world: World) -> None:
    world.append("receiver-2", "receive:3", EntryKind.MESSAGE_RECEIVED, {"seq": 77, "data": "job-9"})


def receive_nothing(world: World) -> None:
    world.remove("receiver-1", "receive:1")
    world.instance("receiver-1", output=[])


def receive_events_in_another_order(world: World) -> None:
    world.entry("waiter", "wait_event:1", payload=event("event-2"))
    world.entry("waiter", "wait_event:2", payload=event("event-1"))


def write_without_a_lease(world: World) -> None:
    world.writes[0] = evolve(world.writes[0], leases=0)


def write_for_another_owner(world: World) -> None:
    world.writes[0] = evolve(world.writes[0], owner=OTHER_WORKER)


def compensate_in_another_order(world: World) -> None:
    world.entry("saga", "chaos_note:1/compensation", operation_id="x")
    world.entry("saga", "chaos_book_for_now:1/compensation", operation_id="chaos_note:1/compensation")
    world.entry("saga", "x", operation_id="chaos_book_for_now:1/compensation")


def compensate_what_completed(world: World) -> None:
    world.append("transfer", "chaos_book:1/compensation", EntryKind.COMPENSATION_COMPLETED)
    world.book("transfer", "chaos_book:1/compensation", 3, 2, 3)


def park(world: World, instance_id: str) -> None:
    world.instance(instance_id, status=Status.STUCK, error={"error_type": "OSError", "message": "killed"})


def explode_too_often(world: World) -> None:
    world.notes.explosions = [Explosion("poison", WORKER, at) for at in range(MAX_RECOVERIES + 2)]


CASES: list[tuple[Callable[[World], Any], str]] = [
    (lose_an_instance, "sleeper: it was started, and is lost"),
    (make_an_instance, "stray: nobody has started it"),
    (lambda world: world.instance("waiter", status=Status.WAITING), "waiter: it has not ended"),
    (lambda world: world.instance("waiter", status=Status.STUCK), "waiter: it must be completed, and is stuck"),
    (lambda world: world.instance("saga", status=Status.CANCELLED), "saga: it must be failed, and is cancelled"),
    (lambda world: world.instance("cancelled waiter", status=Status.COMPLETED), "must be cancelled, and is completed"),
    (lambda world: world.instance("waiter", owner=WORKER), "waiter: it has ended, and is still owned by worker1"),
    (lambda world: world.entry("waiter", "", kind=EntryKind.WORKFLOW_FAILED), "its journal says ['workflow_failed']"),
    (lambda world: world.instance("waiter", output=[2, 1]), "waiter: it has returned [2, 1], and not [1, 2]"),
    (lambda world: world.instance("receiver-1", output=[]), "receiver-1: it has returned [], and not ['job-1']"),
    (
        lambda world: world.append("sleeper", "sleep:2", EntryKind.TIMER_FIRED),
        "sleeper: operation 'sleep:2' has 2 outcomes",
    ),
    (
        lambda world: world.append("saga", "chaos_refuse:1", EntryKind.ACTIVITY_COMPLETED, {"result": 1}),
        "saga: operation 'chaos_refuse:1' has 2 outcomes",
    ),
    (
        lambda world: world.append("saga", "chaos_note:1/compensation", EntryKind.COMPENSATION_COMPLETED),
        "saga: operation 'chaos_note:1/compensation' has 2 outcomes",
    ),
    (
        lambda world: world.append("transfer", "chaos_book:1", EntryKind.ATTEMPT_FAILED),
        "transfer: operation 'chaos_book:1' was attempted again after its outcome",
    ),
    (
        lambda world: world.append("sleeper", "sleep:3", EntryKind.TIMER_FIRED),
        "sleeper: sleep:3: entry 99 tells a function something that has ended",
    ),
    (lambda world: world.entry("sleeper", "sleep:2", recorded_at=1), "sleeper: entry 2 (sleep:2) was recorded before"),
    (lambda world: world.entry("sleeper", "sleep:2", seq=1), "sleeper: entry 1 (sleep:2) follows entry 1"),
    (lambda world: world.entry("sleeper", "sleep:1", recorded_at=900_000), "sleeper: sleep:1 fired 0.900 s after 1 s"),
    (lambda world: world.remove("saga", "chaos_note:1/compensation"), "missing ['chaos_note:1/compensation']"),
    (
        lambda world: world.append("saga", "chaos_refuse:1/compensation", EntryKind.COMPENSATION_COMPLETED),
        "too many ['chaos_refuse:1/compensation']",
    ),
    (compensate_in_another_order, "saga: compensated ['chaos_book_for_now:1/compensation', 'chaos_note:1"),
    (compensate_what_completed, "transfer: compensated ['chaos_book:1/compensation'], and not []"),
    (
        lambda world: world.entry("saga", "chaos_note:1/compensation", kind=EntryKind.COMPENSATION_FAILED),
        "saga: chaos_note:1/compensation has failed for good",
    ),
    (lambda world: setattr(world.expected.plans["saga"], "undone", 3), "saga: 3 activities must have been undone"),
    (
        lambda world: world.append("waiter", "wait_event:3", EntryKind.EVENT_RECEIVED, event("event-3")),
        "waiter: wait_event:3 has received event 'event-3', which is not for it",
    ),
    (
        lambda world: world.append("waiter", "wait_event:3", EntryKind.EVENT_RECEIVED, event("event-2")),
        "waiter: event 'event-2' was received 2 times",
    ),
    (receive_events_in_another_order, "waiter: events were received in the order ['event-2', 'event-1']"),
    (
        lambda world: world.remove("waiter", "wait_event:2"),
        "waiter: events ['event-2'] were accepted, and not received",
    ),
    (store_an_event_again, "event 'event-1' was accepted 1 times, and is stored 2 times"),
    (lose_an_event, "event 'event-1' was accepted 1 times, and is stored 0 times"),
    (receive_a_job_again, "job 'job-1' of channel 'jobs' was received 2 times"),
    (receive_nothing, "job 'job-1' of channel 'jobs' was received 0 times"),
    (receive_a_job_of_others, "was received by receiver-1 receive:1, which had not subscribed"),
    (take_a_job_for_another, "is held to be taken by receiver-2, and was received by ['receiver-1 receive:1']"),
    (
        lambda world: world.entry("receiver-1", "receive:1", payload={"seq": 11, "data": "job-7"}),
        "was received by receiver-1 receive:1 as 'job-7'",
    ),
    (receive_what_nobody_sent, "receiver-2: receive:3 has received message 77, which nobody sent"),
    (lose_a_job, "channel 'jobs': missing ['job-1']"),
    (send_a_job_again, "channel 'jobs': missing [], and too many ['job-2']"),
    (book_again, "transfer: chaos_book:1 has completed once, and has booked [-3, -3, 3, 3]"),
    (book_half, "transfer: chaos_book:1 has completed once, and has booked [-3]"),
    (book_another_amount, "transfer: chaos_book:1 has booked [-3, 3], and returned 4"),
    (lambda world: world.remove("transfer", "chaos_book:1"), "its completion is not recorded"),
    (print_money, "account 7 holds 1001, and the ledger says 1000"),
    (print_money, "all accounts hold 12001, and not 12000"),
    (
        lambda world: world.evidence.waiting.append(("waiter", "wait_event:2")),
        "waiter: it has ended, and wait_event:2 is still held to wait",
    ),
    (
        lambda world: world.instance("parent/chaos_saga:1", status=Status.COMPLETED),
        "parent/chaos_saga:1: it must be cancelled, because its parent is failed, and is completed",
    ),
    (
        lambda world: world.remove("parent/chaos_saga:1", "chaos_note:1/compensation"),
        "parent/chaos_saga:1: compensated [], and not ['chaos_note:1/compensation']",
    ),
    (
        lambda world: world.remove("parent", "chaos_saga:1/compensation"),
        "parent: compensated ['chaos_note:1/compensation'], and not ['chaos_saga:1/compensation', 'chaos_note:1/",
    ),
    (
        lambda world: world.entry("parent", "chaos_saga:1", payload={"child": "parent/chaos_saga:2"}),
        "parent/chaos_saga:1: nobody has started it",
    ),
    (lambda world: park(world, "waiter"), "waiter: it is parked without a cause of its own: killed"),
    (lambda world: park(world, "parent/chaos_saga:1"), "chaos_saga:1: it is parked without a cause of its own: killed"),
    (lambda world: park(world, "poison"), "poison: it is parked, and its error does not say 'max_recoveries': killed"),
    (
        lambda world: world.instance("poison", status=Status.COMPENSATING),
        "poison: it must be parked because of 'max_recoveries', and is compensating",
    ),
    (lambda world: world.instance("poison", owner=WORKER), "and is stuck, owned by worker1"),
    (lambda world: world.taken.pop(0), "received ['teller tell 0', 'teller tell 1'], and not"),
    (lambda world: world.taken.remove("teller tell 0"), "received ['teller tell 1'], and not"),
    (lambda world: world.taken.append("saga tell 7"), "saga: the broker has received ['saga tell 7'], and not []"),
    (lambda world: world.remove("teller", "tell 0"), "teller: the broker has received"),
    (lambda world: world.evidence.outbox.append(("saga", "x", "failed")), "saga: event 'x' is failed in the outbox"),
    (lambda world: world.expected.damaged.clear(), "waiter: its event in the outbox cannot be read, and is invalid"),
    (explode_too_often, f"poison: it has killed {MAX_RECOVERIES + 2} workers"),
    (leave_a_writer_unseen, "sleeper: nobody has seen who wrote entry 3"),
    (write_without_a_lease, "saga: entry 1 (chaos_book_for_now:1) was written by worker1 under a revoked lease"),
    (write_for_another_owner, "(chaos_book_for_now:1) was written by worker1, while worker2 owned it"),
]


@pytest.mark.parametrize(("spoil", "violation"), CASES, ids=[violation for _, violation in CASES])
def test_it_finds(spoil: Callable[[World], Any], violation: str) -> None:
    world = good_world()
    spoil(world)
    found = world.violations()
    assert any(violation in one for one in found), found


# -- no activity twice without a death ---------------------------------------------------------------------------------

FIRST, AGAIN = 10.0, 14.0
"""When the two attempts began."""

LATE = 3.0

REASONS: dict[str, tuple[str, list[Span]]] = {
    "the first has raised": ("raised", []),
    "its worker died": ("returned", [Span(WORKER, 11.0, math.inf)]),
    "its worker had died before": ("nothing more was heard of it", [Span(WORKER, 9.0, math.inf)]),
    "its worker was cut off": ("interrupted", [Span(WORKER, 11.0, 13.0)]),
    "its worker had been cut off just before": ("returned", [Span(WORKER, 6.0, 8.0)]),
    "any worker could be cut off": ("returned", [Span(None, 11.0, 13.0)]),
    "the other one was cut off, lost the instance to the first, and came back": (
        "returned",
        [Span(OTHER_WORKER, 6.0, 8.0)],
    ),
}
NO_REASONS: dict[str, tuple[str, list[Span]]] = {
    "nothing had happened": ("returned", []),
    "it was only interrupted": ("interrupted", []),
    "another worker died": ("returned", [Span(OTHER_WORKER, 11.0, math.inf)]),
    "the other one was cut off only after the first had begun": ("returned", [Span(OTHER_WORKER, 11.0, 13.0)]),
    "the other one had been cut off long before": ("returned", [Span(OTHER_WORKER, 4.0, 6.0)]),
    "its worker had been cut off long before": ("returned", [Span(WORKER, 4.0, 6.0)]),
    "its worker died later": ("returned", [Span(WORKER, 15.0, math.inf)]),
}


def repeats(end: str, spans: list[Span]) -> list[str]:
    runs = [
        Run("saga", "chaos_note:1", 1, WORKER, FIRST, end),
        Run("saga", "chaos_note:2", 1, WORKER, FIRST, "returned"),
        Run("saga", "chaos_note:1", 1, OTHER_WORKER, AGAIN, "returned"),
    ]
    return list(find_repeats(Notes(runs), Disturbances(LATE, spans)))


@pytest.mark.parametrize("why", REASONS)
def test_an_activity_may_run_again_if(why: str) -> None:
    assert repeats(*REASONS[why]) == []


@pytest.mark.parametrize("why", NO_REASONS)
def test_an_activity_must_not_run_again_although(why: str) -> None:
    (found,) = repeats(*NO_REASONS[why])
    assert found.startswith("saga: chaos_note:1 ran twice without a death: on worker1")


def test_what_processes_note_is_read(tmp_path: Path) -> None:
    lines = [
        {"what": "begun", "at": 1.0, "run": 1, "instance": "a", "operation": "x:1", "attempt": 1},
        {"what": "raised", "at": 2.0, "run": 1},
        {"what": "gap", "at": 4.0, "since": 3.0},
        {"what": "begun", "at": 5.0, "run": 2, "instance": "a", "operation": "x:1", "attempt": 2},
        {"what": "explosion", "at": 6.0, "instance": "b"},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "worker1.notes").write_text(text + '{"what": "retur')  # it died as it wrote
    notes = read_notes(tmp_path, [WORKER, OTHER_WORKER])
    assert notes.runs == [
        Run("a", "x:1", 1, WORKER, 1.0, "raised"),
        Run("a", "x:1", 2, WORKER, 5.0, "nothing more was heard of it"),
    ]
    disturbances = Disturbances(LATE)
    disturbances.add(notes)
    assert disturbances.spans == [Span(WORKER, 6.0, math.inf), Span(WORKER, 3.0, 4.0)]
