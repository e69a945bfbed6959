"""Random workflows of many tasks take the same way on each replay, whatever order trio takes.

``TRIO_ROMANCY_RANDOM_TASKS=2000 pytest -n 3 tests/runtime/test_random_tasks.py`` runs 2,000 instead of a few.
"""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest
import trio
import trio.testing
from attrs import define, evolve, field
from sqlalchemy import Connection, delete, update
from trio._core import _run

from trio_romancy import App
from trio_romancy._storage.sql.tables import history, instances
from trio_romancy._tasks.scheduler import Turns
from trio_romancy.model import Status
from trio_romancy.testing import Crash, How, run_with_crashes

from ..support.definitions import definitions_of
from . import random_programs
from .random_programs import diary, random_tasks

COUNT = int(os.environ.get("TRIO_ROMANCY_RANDOM_TASKS", "16"))
TOGETHER = 8
"""Number of workflows that run side by side in one app."""
GROUPS = [[*range(first, min(first + TOGETHER, COUNT))] for first in range(0, COUNT, TOGETHER)]
LATER = datetime.max.replace(tzinfo=UTC)
R = TypeVar("R")


@pytest.fixture(autouse=True)
def only_own_definitions(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test sees the definitions of its own module only, and those of the programs."""
    with definitions_of(request.module.__name__, random_programs.__name__):
        yield


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


# -- runs --------------------------------------------------------------------------------------------------------------


@define
class Played:
    """What became of an instance."""

    ended: Any
    """Its result, or its error."""
    journal: list[tuple[str, str, Any]]
    """Operation ids, kinds and payloads."""
    effects: list[str]
    times: list[datetime] = field(eq=False)
    """Times of the entries."""


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
    entries = await app.history(instance_id)
    journal = [(entry.operation_id, entry.kind.value, entry.payload) for entry in entries]
    for _, kind, payload in journal:
        if kind.endswith("_failed"):
            payload.pop("traceback")  # on a replay it has other frames
        for key in ("seq", "sent_at", "after"):  # the numbers of messages, which other instances send as well
            if isinstance(payload, dict):
                payload.pop(key, None)
    return Played(ended, journal, sorted(diary.effects[instance_id]), [entry.recorded_at for entry in entries])


async def play_again(app: App, instance_id: str, keep: int) -> Played:
    """Have an instance that has ended run again from the first entries of its journal, as after a crash."""
    engine = app._require_engine("play_again")
    diary.effects.pop(instance_id, None)
    dropped = (await app.history(instance_id))[keep]
    await engine.database.run(_rewind, instance_id, dropped.seq)
    assert engine.worker is not None
    while True:
        found = await app.get_instance(instance_id)
        assert found is not None
        if found.status.is_final or found.status is Status.STUCK:
            break
        engine.worker.notify_due()
        await trio.sleep(1)
    return await outcome(app, instance_id)


def _rewind(connection: Connection, instance_id: str, dropped: int) -> None:
    connection.execute(delete(history).where(history.c.instance_id == instance_id, history.c.seq >= dropped))
    values = {"status": "running", "output": None, "error": None, "wake_at": 0, "finished_at": None}
    connection.execute(update(instances).where(instances.c.instance_id == instance_id).values(**values))


# -- comparisons ------------------------------------------------------------------------------------------------------


def played(trio_seed: int, seeds: list[int], idle_timeout: float) -> dict[str, Played]:
    """Run workflows without crashes, with the random orders of a seed."""

    async def main() -> dict[str, Played]:
        async with App(":memory:", idle_timeout=idle_timeout) as app:
            return await play(app, seeds)

    diary.clear()
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
            broken.extend(diary.differences(id))
    return broken


def broken_by_replays(seeds: list[int]) -> list[str]:
    """Return how runs over a journal, or over the beginning of one, differ from the run that wrote it."""
    broken: list[str] = []
    pick = random.Random(seeds[0])

    async def main() -> None:
        async with App(":memory:") as app:
            for id, expected in (await play(app, seeds)).items():
                broken.extend(diary.differences(id))
                if "Stuck" in str(expected.ended):
                    broken.append(f"{id}: {expected.ended}")
                    continue
                # An end is a single entry here, for nothing in these workflows is compensated.
                diary.keep_last(id)
                again = await play_again(app, id, len(expected.journal) - 1)
                if again != evolve(expected, effects=[]):
                    broken.append(f"replay of {id}: {difference(expected, again)}")
                    continue
                broken.extend(diary.differences(id, until=LATER))
                diary.keep_last(id)
                keep = pick.randrange(len(expected.journal))
                again = await play_again(app, id, keep)
                if again.journal[:keep] != expected.journal[:keep] or "Stuck" in str(again.ended):
                    broken.append(f"{id} from entry {keep} on: {difference(expected, again)}")
                broken.extend(diary.differences(id, until=expected.times[keep]))

    diary.clear()
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
            diary.keep_last(id)
            again = await play_again(app, id, len(once.journal) - 1)
            if again != evolve(once, effects=[]):
                broken.append(f"replay of {id} after {crashes}: {difference(once, again)}")
            broken.extend(diary.differences(id, until=LATER))

    diary.clear()
    with random_trio(5):
        result = run_with_crashes(scenario, crashes)
    return [*broken, *result.broken_guarantees]


def difference(expected: Played, got: Played) -> str:
    """Return the first difference between two runs."""
    for index, pair in enumerate(zip(expected.journal, got.journal, strict=False)):
        if pair[0] != pair[1]:
            return f"entry {index + 1} is {pair[1]} instead of {pair[0]}"
    if isinstance(got.ended, list):
        for index, pair in enumerate(zip(expected.ended, got.ended, strict=False)):
            if pair[0] != pair[1]:
                return f"step {index} is {pair[1]} instead of {pair[0]}, after {expected.ended[:index]}"
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
