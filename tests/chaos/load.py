"""Keeps starting instances, sends them what they wait for, and notes what must have become of them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from itertools import count
from random import Random
from typing import Any

import trio
from attrs import define, field

from trio_romancy import App, WorkflowCancelledError, WorkflowFailedError, WorkflowStuckError
from trio_romancy._definitions.values import Workflow

from . import harmful, versions, workflows
from .workflows import ACCOUNTS, EVENT, STOP

AT_ONCE = 14
"""Rounds that run beside each other, of one to four instances each."""

SOURCE = "/chaos"

ANYTHING = object()
"""A result that cannot be known beforehand."""

PARKED_FOR = 1.0
"""Seconds between two looks at an instance that no live worker can run just now."""

CHANGED, ONLY_NEW = versions.define_new()


@define(eq=False)
class Plan:
    """What must become of an instance."""

    instance_id: str
    kind: str
    result: Any = ANYTHING
    """Plain JSON data."""
    fails: bool = False
    undone: int | None = None
    """How many activities are compensated if it fails; None: whatever the journal says."""
    events: list[str] = field(factory=list)
    """Ids of those that it receives, in this order."""
    sleeps: list[float] = field(factory=list)
    """Seconds that it sleeps, one after the other."""
    channel: str | None = None
    """Where it takes jobs from."""
    is_cancelled: bool = False
    """Whether its cancellation was accepted."""
    stuck_because: str | None = None
    """What the error says of an instance that must be parked; None: it must not be."""
    is_of_one_version: bool = False
    """Whether only workers of the new version may be able to run it, so that it may be parked without one."""
    seconds: float | None = None
    """From its start to its end, as the driver saw it."""


@define(eq=False)
class Expected:
    """What was accepted, and what must have become of it."""

    plans: dict[str, Plan] = field(factory=dict)
    """By instance id."""
    events: set[str] = field(factory=set)
    jobs: dict[str, set[str]] = field(factory=dict)
    """By channel."""
    damaged: set[str] = field(factory=set)
    """Ids of workers that there never were, whose rows cannot be read, and of instances of which an event cannot."""

    @property
    def known(self) -> list[str]:
        """Ids of the instances and workers of which errors may be logged."""
        plans = self.plans.values()
        ids = [plan.instance_id for plan in plans if plan.stuck_because is not None or plan.is_of_one_version]
        return [*ids, *self.damaged]


@define(eq=False)
class Load:
    """Rounds of every kind, in an order that the dice give, until told to stop."""

    _app: App
    _dice: Random
    expected: Expected = field(factory=Expected, init=False)
    has_begun: trio.Event = field(factory=trio.Event, init=False)
    """Set when the first instance has ended."""
    is_stopping: bool = field(default=False, init=False)
    _nursery: trio.Nursery = field(init=False)
    _is_poisoned: bool = field(default=False, init=False)
    _numbers: Any = field(factory=lambda: count(1), init=False)

    async def run(self) -> None:
        """Returns once all that was begun has ended, after :attr:`is_stopping` was set."""
        rounds = [
            self._saga,
            self._events,
            self._sleeps,
            self._jobs,
            self._transfer,
            self._family,
            self._parent,
            self._changed,
            self._only_new,
            self._teller,
        ]

        async def run_one_after_the_other(first: int) -> None:
            for turn in count(first):
                if self.is_stopping:
                    return
                await rounds[turn % len(rounds)](next(self._numbers))

        async with trio.open_nursery() as self._nursery:
            for first in range(AT_ONCE):
                self._nursery.start_soon(run_one_after_the_other, first)

    # -- rounds ----------------------------------------------------------------------------------------------------

    async def _saga(self, number: int) -> None:
        steps, end = self._dice.randint(1, 5), self._dice.choice(["well", "caught", "terminal", "exhausted"])
        total = sum(number + step if step % 2 else 1 + step for step in range(steps))
        fails = end in ("terminal", "exhausted")
        plan = Plan(f"saga-{number}", "saga", total, fails=fails, undone=steps)
        await self._run(plan, workflows.saga, number, steps, end)

    async def _events(self, number: int) -> None:
        """Several wait for the same events, of a type or about a subject; or each for those that are sent to it."""
        how = self._dice.choice(["type", "subject", "addressee"])
        type, subject = (f"{EVENT} {number}", None) if how == "type" else (EVENT, f"subject {number}")
        amount, pause = self._dice.randint(1, 5), self._dice.choice([0.0, 0.1, 0.6])
        plans = [Plan(f"waiter-{number}-{index}", "waiter") for index in range(self._dice.randint(1, 3))]
        sent: list[tuple[int, str, str | None]] = []
        """Data, id and addressee of each event."""
        for data in range(amount):
            addressees = [plan.instance_id for plan in plans] if how == "addressee" else [None]
            sent += [(data, f"event-{number}-{data}-to-{addressee}", addressee) for addressee in addressees]

        async def send() -> None:
            for data, id, addressee in sent:
                self.expected.events.add(id)
                send = partial(self._app.send_event, type, data, source=SOURCE, id=id, subject=subject, to=addressee)
                await self._torn(send)
                await send()  # again, if it was not torn before it was accepted
                await trio.sleep(self._dice.choice([0.0, 0.05, 0.7]))

        async with trio.open_nursery() as nursery:
            for plan in plans:
                plan.result = list(range(amount))
                plan.events = [id for _, id, addressee in sent if addressee in (None, plan.instance_id)]
                await self._start(plan, workflows.waiter, type, subject, amount, pause)
                nursery.start_soon(self._see_to_the_end, plan)
            nursery.start_soon(send)

    async def _sleeps(self, number: int) -> None:
        durations = [self._dice.choice([0.0, 0.1, 0.5, 1.5]) for _ in range(self._dice.randint(1, 3))]
        plan = Plan(f"sleeper-{number}", "sleeper", "woken", sleeps=durations)
        await self._run(plan, workflows.sleeper, durations)

    async def _jobs(self, number: int) -> None:
        channel, receivers = f"jobs {number}", self._dice.randint(2, 3)
        by_sender = [f"job-{number}-s{index}" for index in range(self._dice.randint(1, 4))]
        by_client = [f"job-{number}-c{index}" for index in range(self._dice.randint(1, 4))]
        self.expected.jobs[channel] = {*by_sender, *by_client}
        async with trio.open_nursery() as nursery:
            for index in range(receivers):
                plan = Plan(f"receiver-{number}-{index}", "receiver", channel=channel)
                await self._start(plan, workflows.receiver, channel)
                # One is left, or the jobs would be.
                nursery.start_soon(partial(self._see_to_the_end, plan, may_cancel=index > 0))
            sender = Plan(f"sender-{number}", "sender", len(by_sender))
            async with trio.open_nursery() as senders:
                senders.start_soon(partial(self._run, sender, workflows.sender, channel, by_sender, may_cancel=False))
                for job in by_client:
                    await self._app.publish(channel, job)
            for _ in range(receivers):
                await self._app.publish(channel, STOP)

    async def _transfer(self, number: int) -> None:
        moves = [
            [*self._dice.sample(range(ACCOUNTS), 2), self._dice.randint(1, 9)] for _ in range(self._dice.randint(1, 5))
        ]
        plan = Plan(f"transfer-{number}", "transfer", sum(move[2] for move in moves))
        await self._run(plan, workflows.transfer, moves, self._dice.choice([0.0, 0.05, 0.4]))

    async def _family(self, number: int) -> None:
        width = self._dice.randint(2, 5)
        plan = Plan(f"family-{number}", "family", [child + 1 for child in range(width)])
        await self._run(plan, workflows.family, number, width)

    async def _parent(self, number: int) -> None:
        width, end = self._dice.randint(1, 3), self._dice.choice(["well", "terminal"])
        children = sum(1 + number + child + 1 for child in range(width))
        plan = Plan(f"parent-{number}", "parent", 2 + children, fails=end == "terminal", undone=1 + width)
        await self._run(plan, workflows.parent, number, width, end)

    async def _changed(self, number: int) -> None:
        plan = Plan(f"changed-{number}", "changed", 2 * number, is_of_one_version=True)
        await self._run(plan, CHANGED, number)

    async def _only_new(self, number: int) -> None:
        plan = Plan(f"only-new-{number}", "only new", number, is_of_one_version=True)
        await self._run(plan, ONLY_NEW, number)

    async def _teller(self, number: int) -> None:
        times = self._dice.randint(1, 4)
        plan = Plan(f"teller-{number}", "teller", times)
        await self._run(plan, workflows.teller, number, times)

    # -- what the nemesis asks for ---------------------------------------------------------------------------------

    def start_holder(self, seconds: float) -> None:
        """Start an instance whose activity holds the event loop for that long."""
        number = next(self._numbers)
        plan = Plan(f"holder-{number}", "holder", number)
        self._nursery.start_soon(self._run, plan, harmful.holder, number, seconds)

    def start_forker(self) -> None:
        """Start an instance whose activity forks its process."""
        number = next(self._numbers)
        plan = Plan(f"forker-{number}", "forker", number)
        self._nursery.start_soon(self._run, plan, harmful.forker, number)

    def start_careless(self) -> None:
        """Start an instance whose activity leaves a mess, and fails."""
        number = next(self._numbers)
        plan = Plan(f"careless-{number}", "careless", fails=True)
        self._nursery.start_soon(self._run, plan, harmful.careless, self._dice.randrange(len(harmful.MISTAKES)))

    def start_poison(self) -> None:
        """Start an instance whose rollback kills its process again and again, unless there is one."""
        if not self._is_poisoned:
            self._is_poisoned = True
            self._nursery.start_soon(self._poison, next(self._numbers))

    async def _poison(self, number: int) -> None:
        plan = Plan(f"poison-{number}", "poison", stuck_because="max_recoveries")
        await self._run(plan, harmful.poison, number, may_cancel=False)
        self._is_poisoned = False

    async def start_prey(self) -> Plan:
        """Start an instance that waits for :meth:`feed_prey`."""
        number = next(self._numbers)
        plan = Plan(f"prey-{number}", "prey", number)
        await self._start(plan, harmful.prey, number)
        return plan

    async def feed_prey(self, plan: Plan) -> None:
        """Send an instance what it waits for, and wait for its end beside all others."""
        id = f"event for {plan.instance_id}"
        plan.events.append(id)
        self.expected.events.add(id)
        await self._app.send_event(EVENT, None, source=SOURCE, id=id, subject=f"prey {plan.instance_id}")
        self._nursery.start_soon(partial(self._see_to_the_end, plan, may_cancel=False))

    def now(self) -> int:
        """Return the time, in microseconds since the epoch."""
        return time.time_ns() // 1000

    # -- one instance ----------------------------------------------------------------------------------------------

    async def _run(self, plan: Plan, workflow: Workflow[..., Any], *args: Any, may_cancel: bool = True) -> None:
        await self._start(plan, workflow, *args)
        await self._see_to_the_end(plan, may_cancel=may_cancel)

    async def _start(self, plan: Plan, workflow: Workflow[..., Any], *args: Any) -> None:
        self.expected.plans[plan.instance_id] = plan
        start = partial(self._app.start, workflow.options(id=plan.instance_id), *args)
        await self._torn(start)
        await start()

    async def _see_to_the_end(self, plan: Plan, *, may_cancel: bool = True) -> None:
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            if may_cancel and self._dice.random() < 0.15:
                nursery.start_soon(self._cancel, plan, self._dice.uniform(0, 1))
            with suppress(WorkflowFailedError, WorkflowCancelledError):  # the database tells more
                await self._end(plan)
            plan.seconds = trio.current_time() - begun
        self.has_begun.set()

    async def _end(self, plan: Plan) -> None:
        while True:
            try:
                await self._app.handle(plan.instance_id).result()
                return
            except WorkflowStuckError:
                if not plan.is_of_one_version:
                    return
            await trio.sleep(PARKED_FOR)

    async def _cancel(self, plan: Plan, seconds: float) -> None:
        await trio.sleep(seconds)
        plan.is_cancelled = await self._app.cancel(plan.instance_id, "chaos")

    async def _torn(self, call: Callable[[], Awaitable[object]]) -> None:
        """Now and then, make a call and let nobody wait for its answer, so that it must be made again."""
        if self._dice.random() < 0.2:
            with trio.move_on_after(self._dice.uniform(0, 0.02)):
                await call()
