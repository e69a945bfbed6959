"""Random workflows of many tasks: made of all that trio has for tasks to wait for each other, and of operations."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from datetime import datetime
from itertools import pairwise, zip_longest
from typing import Any

import sqlalchemy as sa
import trio
import trio.testing
from attrs import define, field

from trio_romancy import (
    MessageTimeoutError,
    RetryPolicy,
    TerminalError,
    WorkflowContext,
    activity,
    current_activity,
    workflow,
)

Node = dict[str, Any]
Program = list[Node]

MOST_NODES = 50
"""Number of nodes after which a program gets no more."""

SIMPLE = ["work"] * 4 + ["sleep"] * 3 + ["yield"] * 2 + ["stop_early", "fail_often", "wait", "notify", "cancel"]
SIMPLE += ["send", "receive", "set", "await", "raise", "tokens", "spawn", "store", "split", "patch"]
SIMPLE += ["publish"] * 2 + ["take"] * 2
NESTED = ["lock", "limiter", "semaphore", "timeout", "fail", "scope", "finally", "try", "nursery", "branch", "shield"]
NESTED += ["first", "start", "pipe", "stream", "generator", "map"]
FAILING = {"fail_often", "split", "fail", "raise"}
"""What may raise. Most of it is caught, for otherwise hardly a program would come to its second half."""
SHIELDED = ["work", "stop_early", "sleep", "sleep", "yield", "set", "cancel"]
"""What a shield may hold: each ends by itself, so the timeout of the whole workflow ends that."""
FORKED = {"nursery": 5, "first": 4, "start": 3, "pipe": 3, "stream": 3, "generator": 4, "map": 5}
"""The most programs that each kind of node has beside that inside it, plus one."""


class Generator:
    """Makes the program of a seed. Every duration in it is another, so no two things happen at the same time."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._number = 0

    def program(self) -> Program:
        # The nursery at the top makes sure that there are several tasks.
        branches = [self._steps(1) for _ in range(self._random.randrange(2, 6))]
        return [
            {"do": "nursery", "number": 0, "which": 0, "branches": branches, "inner": self._steps(1)},
            *self._steps(1),
        ]

    def _steps(self, depth: int) -> Program:
        return [self._step(depth) for _ in range(self._random.randrange(1, 4)) if self._number < MOST_NODES]

    def _step(self, depth: int, among: list[str] | None = None) -> Node:
        pick, self._number = self._random, self._number + 1
        node: Node = {
            "do": pick.choice(among or (SIMPLE if depth > 3 or pick.random() < 0.45 else NESTED)),
            "number": self._number,
            "which": pick.randrange(2),
            "count": pick.randrange(1, 4),
        }
        match node["do"]:
            case kind if kind in ACTIVITIES or kind in ("finally", "branch", "generator", "map"):
                node["seconds"] = pick.uniform(0.1, 5)
            case "sleep" | "timeout" | "fail":
                node["seconds"] = pick.uniform(1, 300)
            case "wait" | "await" | "send" | "receive" | "take":
                node["seconds"] = pick.uniform(1, 60)
        if node["do"] == "shield":
            node["inner"] = [self._step(depth + 1, SHIELDED) for _ in range(node["count"])]
        elif node["do"] in NESTED or node["do"] == "spawn":
            node["inner"] = self._steps(depth + 1)
        if node["do"] in FORKED:
            node["branches"] = [self._steps(depth + 1) for _ in range(pick.randrange(1, FORKED[node["do"]]))]
        if node["do"] in FAILING and pick.random() < 0.9:
            return {"do": "try", "number": 1000 + node["number"], "which": 0, "inner": [node]}
        return node


@define
class Diary:
    """What the workflows have done, apart from their journals."""

    effects: dict[str, list[str]] = field(factory=lambda: defaultdict(list))
    """Activities that were carried out, by instance id."""
    traces: dict[str, list[list[tuple[datetime, str]]]] = field(factory=lambda: defaultdict(list))
    """What the tasks of an instance did, in order and with ``ctx.now()``, for each time that it was run."""

    def clear(self) -> None:
        """Forget everything."""
        self.effects.clear()
        self.traces.clear()

    def keep_last(self, instance_id: str) -> None:
        """Forget all runs of an instance but the last one."""
        self.traces[instance_id] = self.traces[instance_id][-1:]

    def differences(self, instance_id: str, until: datetime | None = None) -> list[str]:
        """Return where each run of an instance took another way than the run after it.

        Args:
          until: time of the entry up to which they have the same journal; None: the first run leaves memory before it
            tells the workflow anything that the next one does not.
        """
        found = []
        for number, (trace, other) in enumerate(pairwise(self.traces[instance_id])):
            if until is not None:
                trace, other = ([step for step in steps if step[0] < until] for steps in (trace, other))
            for index, (was, now) in enumerate(zip_longest(trace, other) if until else zip(trace, other, strict=False)):
                if was != now:
                    found.append(f"run {number} of {instance_id}: step {index} was {was}, and then {now}")
                    break
        return found


diary = Diary()


class Trouble(Exception):
    """An error of the workflow's own code."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.activity_id = f"raise:{number}"


@activity(name="random_work")
async def work(instance_id: str, number: int, seconds: float) -> int:
    await trio.sleep(seconds)
    diary.effects[instance_id].append(f"work {number}")
    return number


@activity(name="random_stop_early", cancellable=True)
async def stop_early(instance_id: str, number: int, seconds: float) -> int:
    await trio.sleep(seconds)
    return number


@activity(name="random_fail_often", retry=RetryPolicy.fixed(2, 0.123))
async def fail_often(instance_id: str, number: int, seconds: float) -> int:
    await trio.sleep(seconds)
    if number % 2:
        raise ConnectionError(number)
    raise TerminalError(str(number))


@activity(name="random_store")
async def store(instance_id: str, number: int, seconds: float) -> int:
    await trio.sleep(seconds)
    await current_activity().session.execute(sa.select(sa.literal(number)))
    return number


@activity(name="random_split", retry=RetryPolicy.fixed(3, 0.371))
async def split(instance_id: str, number: int, seconds: float) -> int:
    async with trio.open_nursery() as nursery:
        for part in range(3):
            nursery.start_soon(trio.sleep, seconds * (1 + part / 10))
    return number


@activity(name="random_publish")
async def publish(instance_id: str, number: int, seconds: float) -> None:
    await trio.sleep(seconds)
    current_activity().publish("numbers", number, to=instance_id)


ACTIVITIES: dict[str, Any] = {
    "work": work,
    "stop_early": stop_early,
    "fail_often": fail_often,
    "store": store,
    "split": split,
    "publish": publish,
}


@workflow
async def random_tasks(ctx: WorkflowContext, seed: int) -> list[str]:
    player = Player(ctx)
    diary.traces[ctx.instance_id].append(player.trace)
    async with AsyncExitStack() as stack:
        for channel in player.channels:
            for end in channel:
                await stack.enter_async_context(end)
        with ctx.move_on_after(100_000, id="root"):
            await player.play(Generator(seed).program(), frozenset())
    player.note("end")
    return [step for _, step in player.trace]


class Player:
    """One run of a random workflow."""

    def __init__(self, ctx: WorkflowContext) -> None:
        self.ctx = ctx
        self.trace: list[tuple[datetime, str]] = []
        self.locks = [trio.Lock() for _ in range(2)]
        self.limiters = [trio.CapacityLimiter(number + 1) for number in range(2)]
        self.semaphores = [trio.Semaphore(number + 1) for number in range(2)]
        self.conditions = [trio.Condition() for _ in range(2)]
        self.channels = [trio.open_memory_channel[int](number) for number in range(2)]
        self.events = [trio.Event() for _ in range(2)]
        self.scopes: dict[int, trio.CancelScope] = {}
        self.nurseries: dict[int, trio.Nursery] = {}
        self._run = ctx._run._run  # type: ignore[attr-defined]

    def note(self, step: str) -> None:
        """Note a step, unless the instance leaves memory, which no other run of it sees."""
        if not self._run.is_unwinding:
            self.trace.append((self.ctx.now(), step))

    async def play(self, program: Program, held: frozenset[str] = frozenset()) -> None:
        for node in program:
            number = node["number"]
            self.note(f"{node['do']} {number}")
            try:
                await self._play(node, number, held)
            except trio.Cancelled:
                self.note(f"cancelled {number}")
                raise
            except BaseException as error:
                self.note(f"{leaves(error)} {number}")
                raise
            self.note(f"after {number}")

    async def _play(self, node: Node, number: int, held: frozenset[str]) -> None:
        ctx, inner, which = self.ctx, node.get("inner", []), node["which"]
        match node["do"]:
            case "work" | "stop_early" | "fail_often" | "store" | "split" | "publish" as name:
                # A third of those that are split take longer, and no two of them have the same timeout.
                timeout = 3 + node["seconds"] * 0.3 if name == "split" else None
                called = ACTIVITIES[name].options(id=f"{name}:{number}", timeout=timeout)
                await called(ctx.instance_id, number, node["seconds"])
            case "sleep":
                await ctx.sleep(node["seconds"], id=f"sleep:{number}")
            case "take":
                await ctx.subscribe("numbers", "direct", id=f"subscribe:{number}")
                try:
                    self.note(
                        f"takes {(await ctx.receive('numbers', timeout=node['seconds'], id=f'take:{number}')).data}"
                    )
                except MessageTimeoutError:
                    self.note(f"takes nothing {number}")
            case "patch":
                self.note(f"patched {ctx.patched(f'change-{number}')}")
            case "yield":
                await trio.lowlevel.checkpoint()
            case "raise":
                raise Trouble(number)
            case "lock" | "limiter" | "semaphore" as kind:
                name = f"{kind}{which}"
                if name not in held:
                    pool: Any = {"lock": self.locks, "limiter": self.limiters, "semaphore": self.semaphores}[kind]
                    async with pool[which]:
                        self.note(f"holds {number}")
                        await self.play(inner, held | {name})
            case "wait" | "await" | "send" | "receive" as what:
                with ctx.move_on_after(node["seconds"], id=f"timeout:{number}") as scope:
                    await self._wait_for_a_task(what, which, number)
                self.note(f"timed out {scope.cancelled_caught}")
            case "notify":
                condition = self.conditions[which]
                async with condition:
                    condition.notify(node["count"])
            case "set":
                self.events[which].set()
                self.events[which] = trio.Event()
            case "tokens":
                self.limiters[which].total_tokens = node["count"]
            case "timeout":
                with ctx.move_on_after(node["seconds"], id=f"timeout:{number}") as scope:
                    self.scopes[which] = scope
                    await self.play(inner, held)
                self.note(f"timed out {scope.cancelled_caught}")
            case "fail":
                with ctx.fail_after(node["seconds"], id=f"timeout:{number}"):
                    await self.play(inner, held)
            case "scope":
                with trio.CancelScope() as scope:
                    self.scopes[which] = scope
                    await self.play(inner, held)
                self.note(f"was cancelled {scope.cancelled_caught}")
            case "shield":
                with trio.CancelScope(shield=True):
                    await self.play(inner, held)
            case "cancel":
                if which in self.scopes:
                    self.scopes[which].cancel()
            case "finally":
                try:
                    await self.play(inner, held)
                finally:
                    await self._clean_up(number, node["seconds"])
            case "try":
                try:
                    await self.play(inner, held)
                except Exception as error:
                    self.note(f"caught {leaves(error)}")
            case "branch":
                with ctx.branch(f"branch-{number}"):
                    self.note(f"draws {ctx.random.random()}")
                    await work(ctx.instance_id, number, node["seconds"])
                    await self.play(inner, held)
                    await ctx.sleep(node["seconds"])
            case "nursery":
                async with trio.open_nursery() as nursery:
                    self.nurseries[which] = nursery
                    for branch in node["branches"]:
                        nursery.start_soon(self.play, branch)
                    await self.play(inner, held)
            case "spawn":
                try:
                    self.nurseries[which].start_soon(self.play, inner)
                except (KeyError, RuntimeError) as error:
                    self.note(f"not spawned: {error}")
            case "first":
                async with trio.open_nursery() as nursery:
                    self.scopes[which] = nursery.cancel_scope
                    for branch in node["branches"]:
                        nursery.start_soon(self._play_and_cancel, branch, nursery.cancel_scope)
                    await self.play(inner, held)
            case "start":
                async with trio.open_nursery() as nursery:
                    self.scopes[which] = nursery.cancel_scope
                    self.note(f"started {await nursery.start(self._start, node['branches'])}")
                    await self.play(inner, held)
            case "pipe":
                await self._play_pipe(node, number)
            case "stream":
                await self._play_stream(node["branches"], inner)
            case "generator":
                async with aclosing(self._generate(node, number)) as played:
                    async for count in played:
                        if count == node["count"]:
                            break
                        await self.play(inner[count - 1 : count], held)
            case "map":

                async def play(branch: Program) -> None:
                    await self.play(branch)
                    await ctx.sleep(node["seconds"])

                on_error: Any = ("cancel", "continue")[which]
                await ctx.map(play, node["branches"], at_once=node["count"], on_error=on_error, id=f"map-{number}")
            case unknown:
                raise AssertionError(unknown)

    async def _wait_for_a_task(self, what: str, which: int, number: int) -> None:
        """Wait for what another task of the workflow may do."""
        match what:
            case "wait":
                async with self.conditions[which]:
                    await self.conditions[which].wait()
            case "await":
                await self.events[which].wait()
            case "send":
                await self.channels[which][0].send(number)
            case "receive":
                self.note(f"got {await self.channels[which][1].receive()}")

    async def _clean_up(self, number: int, seconds: float) -> None:
        with trio.CancelScope(shield=True):
            await work.options(id=f"clean:{number}")(self.ctx.instance_id, number, seconds)

    async def _play_and_cancel(self, program: Program, scope: trio.CancelScope) -> None:
        await self.play(program)
        scope.cancel()

    async def _start(self, programs: list[Program], *, task_status: trio.TaskStatus[int]) -> None:
        await self.play(programs[0])
        task_status.started(len(programs))
        for program in programs[1:]:
            await self.play(program)

    async def _play_pipe(self, node: Node, number: int) -> None:
        """Have tasks share the ends of a channel, which they close."""
        send, receive = trio.open_memory_channel[int](node["which"])

        async def produce(program: Program, end: trio.MemorySendChannel[int]) -> None:
            async with end:
                for step in program:
                    await self.play([step])
                    await end.send(step["number"])

        async def consume(name: str, end: trio.MemoryReceiveChannel[int]) -> None:
            async with end:
                async for got in end:
                    self.note(f"{name} {number} got {got}")
                    await self.ctx.sleep(got / 17, id=f"{name}:{number}:{got}")

        async with send, receive, trio.open_nursery() as nursery:
            for program in node["branches"]:
                nursery.start_soon(produce, program, send.clone())
            for name in ("left", "right"):
                nursery.start_soon(consume, name, receive.clone())
            await send.aclose()
            await receive.aclose()
            await self.play(node["inner"])

    async def _play_stream(self, programs: list[Program], answers: Program) -> None:
        """Have two tasks talk through a pair of streams."""
        left, right = trio.testing.memory_stream_pair()

        async def talk() -> None:
            async with left:
                for program in programs:
                    await self.play(program)
                    await left.send_all(bytes(len(programs)))
                    self.note(f"heard {await left.receive_some(1)!r}")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk)
            async with right:
                while heard := await right.receive_some():
                    self.note(f"received {len(heard)}")
                    step, answers = answers[:1], answers[1:]
                    await self.play(step)
                    await right.send_all(b"a")

    async def _generate(self, node: Node, number: int) -> AsyncGenerator[int, None]:
        try:
            for index, program in enumerate(node["branches"]):
                await self.play(program)
                yield index + 1
        finally:
            await self._clean_up(number, node["seconds"])


def leaves(error: BaseException) -> str:
    """Return the types of the leaves of an exception, in their order."""
    if isinstance(error, BaseExceptionGroup):
        return " ".join(leaves(part) for part in error.exceptions)
    return f"{type(error).__name__}({getattr(error, 'activity_id', '')})"
