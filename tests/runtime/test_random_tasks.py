"""Random workflows of many tasks take the same way on each replay, whatever order trio takes.

They are made of all that trio has for tasks to wait for each other, and of activities, sleeps and timeouts.
``TRIO_ROMANCY_RANDOM_TASKS=2000 pytest tests/runtime/test_random_tasks.py`` runs as many of them.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from itertools import pairwise
from typing import Any, TypeVar

import pytest
import trio
import trio.testing
from attrs import define, field
from sqlalchemy import Connection, delete, update
from trio._core import _run

from trio_romancy import ActivityError, App, RetryPolicy, TerminalError, WorkflowContext, activity, workflow
from trio_romancy._storage.sql.tables import history, instances
from trio_romancy._tasks.scheduler import Turns
from trio_romancy.model import Status
from trio_romancy.testing import Crash, How, run_with_crashes

COUNT = int(os.environ.get("TRIO_ROMANCY_RANDOM_TASKS", "16"))
TOGETHER = 8
"""Number of workflows that run side by side in one app."""
GROUPS = [[*range(first, min(first + TOGETHER, COUNT))] for first in range(0, COUNT, TOGETHER)]
R = TypeVar("R")
Node = dict[str, Any]
Program = list[Node]

MOST_NODES = 40
"""Number of nodes after which a program gets no more."""


@contextmanager
def random_trio(seed: int) -> Iterator[None]:
    """Make trio take other random orders than under another seed: of its batches, and of its sets of tasks."""
    before = _run._r, _run.Task.__hash__
    _run._r = generator = random.Random(seed)
    salt = generator.randrange(2**61)
    setattr(_run.Task, "__hash__", lambda task: hash((salt, task._counter)))  # noqa: B010 (mypy knows it as a method)
    try:
        yield
    finally:
        _run._r = before[0]
        setattr(_run.Task, "__hash__", before[1])  # noqa: B010


def run(seed: int, fn: Callable[..., Awaitable[R]], *args: Any) -> R:
    """Run an async function in trio under virtual time, with the random orders of that seed."""
    with random_trio(seed):
        return trio.run(fn, *args, clock=trio.testing.MockClock(autojump_threshold=0))


# -- what the workflows do ---------------------------------------------------------------------------------------------


@define
class Diary:
    """What the workflows have done, apart from their journals."""

    effects: dict[str, list[str]] = field(factory=lambda: defaultdict(list))
    """Activities that were carried out, by instance id."""
    traces: dict[str, list[list[str]]] = field(factory=lambda: defaultdict(list))
    """What the tasks of an instance did, in order, for each time that it was run."""

    def differences(self, instance_id: str) -> str | None:
        """Return where a run of an instance took another way than the run after it; None if none did."""
        traces = self.traces[instance_id]
        for number, (trace, longer) in enumerate(pairwise(traces)):
            for index, (was, now) in enumerate(zip(trace, longer, strict=False)):
                if was != now:
                    return f"run {number} of {instance_id}: step {index} was {was}, and then {now}"
        return None


diary = Diary()


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


ACTIVITIES = {"work": work, "stop_early": stop_early, "fail_often": fail_often}


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
    return player.trace


class Player:
    """One run of a random workflow."""

    def __init__(self, ctx: WorkflowContext) -> None:
        self.ctx = ctx
        self.trace: list[str] = []
        self.locks = [trio.Lock() for _ in range(2)]
        self.limiters = [trio.CapacityLimiter(number + 1) for number in range(2)]
        self.semaphores = [trio.Semaphore(number + 1) for number in range(2)]
        self.conditions = [trio.Condition() for _ in range(2)]
        self.channels = [trio.open_memory_channel[int](number) for number in range(2)]
        self.events = [trio.Event() for _ in range(2)]
        self.scopes: dict[int, trio.CancelScope] = {}
        self._run = ctx._run._run  # type: ignore[attr-defined]

    def note(self, step: str) -> None:
        """Note a step, unless the instance leaves memory, which no other run of it sees."""
        if not self._run.is_unwinding:
            self.trace.append(step)

    async def play(self, program: Program, held: frozenset[str]) -> None:
        for node in program:
            number = node["number"]
            self.note(f"{node['do']} {number}")
            try:
                await self._play(node, number, held)
            except trio.Cancelled:
                self.note(f"cancelled {number}")
                raise
            except Exception as error:
                self.note(f"{leaves(error)} {number}")
                raise
            self.note(f"after {number}")

    async def _play(self, node: Node, number: int, held: frozenset[str]) -> None:
        ctx, inner = self.ctx, node.get("inner", [])
        match node["do"]:
            case "work" | "stop_early" | "fail_often" as name:
                await ACTIVITIES[name].options(id=f"{name}:{number}")(ctx.instance_id, number, node["seconds"])
            case "sleep":
                await ctx.sleep(node["seconds"], id=f"sleep:{number}")
            case "yield":
                await trio.lowlevel.checkpoint()
            case "lock" | "limiter" | "semaphore" as kind:
                name = f"{kind}{node['which']}"
                if name not in held:
                    pool: Any = {"lock": self.locks, "limiter": self.limiters, "semaphore": self.semaphores}[kind]
                    async with pool[node["which"]]:
                        self.note(f"holds {number}")
                        await self.play(inner, held | {name})
            case "wait" | "await" | "send" | "receive" as what:
                with ctx.move_on_after(node["seconds"], id=f"timeout:{number}") as scope:
                    await self._wait_for_a_task(what, node["which"], number)
                self.note(f"timed out {scope.cancelled_caught}")
            case "notify":
                condition = self.conditions[node["which"]]
                async with condition:
                    condition.notify(node["count"])
            case "set":
                self.events[node["which"]].set()
            case "timeout":
                with ctx.move_on_after(node["seconds"], id=f"timeout:{number}") as scope:
                    await self.play(inner, held)
                self.note(f"timed out {scope.cancelled_caught}")
            case "scope":
                with trio.CancelScope() as scope:
                    self.scopes[node["which"]] = scope
                    await self.play(inner, held)
                self.note(f"was cancelled {scope.cancelled_caught}")
            case "cancel":
                if node["which"] in self.scopes:
                    self.scopes[node["which"]].cancel()
            case "finally":
                try:
                    await self.play(inner, held)
                finally:
                    with trio.CancelScope(shield=True):
                        await work.options(id=f"clean:{number}")(ctx.instance_id, number, node["seconds"])
            case "try":
                try:
                    await self.play(inner, held)
                except (ActivityError, ExceptionGroup) as error:
                    self.note(f"caught {leaves(error)}")
            case "nursery":
                async with trio.open_nursery() as nursery:
                    for branch in node["branches"]:
                        nursery.start_soon(self.play, branch, frozenset())
                    await self.play(inner, held)
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


def leaves(error: BaseException) -> str:
    """Return the types of the leaves of an exception, in their order."""
    if isinstance(error, BaseExceptionGroup):
        return " ".join(leaves(part) for part in error.exceptions)
    return f"{type(error).__name__}({getattr(error, 'activity_id', '')})"


class Generator:
    """Makes the program of a seed. Every duration in it is another, so no two things happen at the same time."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._number = 0

    def program(self) -> Program:
        # The nursery at the top makes sure that there are several tasks.
        branches = [self._steps(1) for _ in range(self._random.randrange(2, 6))]
        return [{"do": "nursery", "number": 0, "branches": branches, "inner": self._steps(1)}, *self._steps(1)]

    def _steps(self, depth: int) -> Program:
        return [self._step(depth) for _ in range(self._random.randrange(1, 4)) if self._number < MOST_NODES]

    def _step(self, depth: int) -> Node:
        pick, self._number = self._random, self._number + 1
        simple = ["work"] * 4 + ["sleep"] * 3 + ["yield"] * 2 + ["stop_early", "fail_often", "wait", "notify", "cancel"]
        simple += ["send", "receive", "set", "await"]
        nested = ["lock", "limiter", "semaphore", "timeout", "scope", "finally", "try", "nursery"]
        node: Node = {
            "do": pick.choice(simple if depth > 3 or pick.random() < 0.45 else nested),
            "number": self._number,
        }
        match node["do"]:
            case "work" | "stop_early" | "fail_often" | "finally":
                node["seconds"] = pick.uniform(0.1, 5)
            case "sleep" | "timeout":
                node["seconds"] = pick.uniform(1, 300)
            case "wait" | "await" | "send" | "receive":
                node["seconds"] = pick.uniform(1, 60)
            case "notify":
                node["count"] = pick.randrange(1, 4)
        if node["do"] in nested:
            node["inner"] = self._steps(depth + 1)
        if node["do"] == "nursery":
            node["branches"] = [self._steps(depth + 1) for _ in range(pick.randrange(1, 5))]
        node["which"] = pick.randrange(2)
        return node


# -- runs --------------------------------------------------------------------------------------------------------------


@define
class Played:
    """What became of an instance."""

    ended: Any
    """Its result, or its error."""
    journal: list[tuple[str, str, Any]]
    """Operation ids, kinds and payloads."""
    effects: list[str]


async def play(app: App, seeds: list[int]) -> dict[str, Played]:
    """Run the workflows of these seeds side by side."""
    handles = [await app.start(random_tasks.options(id=f"p{seed}"), seed) for seed in seeds]
    return {handle.instance_id: await outcome(app, handle.instance_id) for handle in handles}


async def outcome(app: App, instance_id: str) -> Played:
    """Wait for the end of an instance, and return what became of it."""
    try:
        ended: Any = await app.handle(instance_id).result()
    except Exception as error:
        ended = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    journal = [(entry.operation_id, entry.kind.value, entry.payload) for entry in await app.history(instance_id)]
    for _, kind, payload in journal:
        if kind.endswith("_failed"):
            payload.pop("traceback")  # on a replay it has other frames
    return Played(ended, journal, sorted(diary.effects[instance_id]))


async def play_again(app: App, instance_id: str, keep: int) -> Played:
    """Have an instance that has ended run again from the first entries of its journal, as after a crash."""
    engine = app._require_engine("play_again")
    diary.effects.pop(instance_id, None)
    await engine.database.run(_rewind, instance_id, keep)
    assert engine.worker is not None
    while True:
        found = await app.get_instance(instance_id)
        assert found is not None
        if found.status.is_final or found.status is Status.STUCK:
            break
        engine.worker.notify_due()
        await trio.sleep(1)
    return await outcome(app, instance_id)


def _rewind(connection: Connection, instance_id: str, keep: int) -> None:
    connection.execute(delete(history).where(history.c.instance_id == instance_id, history.c.seq > keep))
    values = {"status": "running", "output": None, "error": None, "wake_at": 0, "finished_at": None}
    connection.execute(update(instances).where(instances.c.instance_id == instance_id).values(**values))


# -- comparisons ------------------------------------------------------------------------------------------------------


def played(trio_seed: int, seeds: list[int], idle_timeout: float) -> dict[str, Played]:
    """Run workflows without crashes, with the random orders of a seed."""

    async def main() -> dict[str, Played]:
        async with App(":memory:", idle_timeout=idle_timeout) as app:
            return await play(app, seeds)

    diary.effects.clear()
    diary.traces.clear()
    return run(trio_seed, main)


def broken_by_passivations(seeds: list[int]) -> list[str]:
    """Return how runs of the same workflows differ that trio runs in other orders, with passivations and without."""
    broken = []
    first = played(1, seeds, idle_timeout=1e9)
    for trio_seed, idle_timeout in ((2, 1e9), (3, 0.5)):
        again = played(trio_seed, seeds, idle_timeout)
        for id, expected in first.items():
            if again[id] != expected:
                broken.append(f"{id} with trio's orders {trio_seed}: {difference(expected, again[id])}")
            if (problem := diary.differences(id)) is not None:
                broken.append(problem)
    return broken


def broken_by_replays(seeds: list[int]) -> list[str]:
    """Return how runs over a journal, or over the beginning of one, differ from the run that wrote it."""
    broken: list[str] = []
    pick = random.Random(seeds[0])

    async def main() -> None:
        async with App(":memory:") as app:
            for id, expected in (await play(app, seeds)).items():
                # An end is a single entry here, for nothing in these workflows is compensated.
                again = await play_again(app, id, len(expected.journal) - 1)
                if again != Played(expected.ended, expected.journal, []):
                    broken.append(f"replay of {id}: {difference(expected, again)}")
                keep = pick.randrange(len(expected.journal))
                again = await play_again(app, id, keep)
                if again.journal[:keep] != expected.journal[:keep] or "Stuck" in str(again.ended):
                    broken.append(f"{id} from entry {keep} on: {difference(expected, again)}")

    diary.effects.clear()
    diary.traces.clear()
    run(4, main)
    return broken


def broken_by_crashes(seeds: list[int]) -> list[str]:
    """Return what crashes have done to workflows: each must end, and its replay take the same way."""
    pick = random.Random(seeds[0])
    crashes = {Crash(pick.randrange(1, 60), pick.choice([*How])) for _ in range(3)}
    broken: list[str] = []

    async def scenario(app: App) -> None:
        ended = await play(app, seeds)
        for id, once in ended.items():
            if "Stuck" in str(once.ended):
                broken.append(f"{id} after {crashes}: {once.ended}")
                continue
            diary.traces[id] = diary.traces[id][-1:]
            again = await play_again(app, id, len(once.journal) - 1)
            if again != Played(once.ended, once.journal, []):
                broken.append(f"replay of {id} after {crashes}: {difference(once, again)}")

    diary.effects.clear()
    diary.traces.clear()
    with random_trio(5):
        result = run_with_crashes(scenario, crashes)
    return [*broken, *result.broken_guarantees]


def difference(expected: Played, got: Played) -> str:
    """Return the first difference between two runs."""
    for index, pair in enumerate(zip(expected.journal, got.journal, strict=False)):
        if pair[0] != pair[1]:
            return f"entry {index + 1} is {pair[1]} instead of {pair[0]}"
    return f"{got.ended} instead of {expected.ended}, {got.effects} instead of {expected.effects}"


@pytest.mark.time_limit(120 + 3 * COUNT)
@pytest.mark.parametrize("broken", [broken_by_passivations, broken_by_replays, broken_by_crashes])
def test_random_workflows_take_the_same_way_on_each_replay(broken: Any) -> None:
    assert [problem for seeds in GROUPS for problem in broken(seeds)] == []


@pytest.mark.parametrize("broken", [broken_by_passivations, broken_by_replays])
def test_without_an_order_of_their_own_they_would_not(broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(6)

    def add_anywhere(turns: Turns, task: Any) -> None:
        turns._order[task] = chance.randrange(1000)

    monkeypatch.setattr(Turns, "add", add_anywhere)
    assert broken(GROUPS[0])
