"""One run of chaos, from the first worker to the verdict."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path
from random import Random

import trio
from attrs import define, field

from trio_romancy import App, EntryKind

from ..support.broker import LOSE, TAKE, Answer, Post, no, open_broker
from .checker import find_violations
from .crew import open_crew
from .disturbances import Disturbances
from .evidence import Evidence, read_evidence, told
from .faults import Scene
from .load import Expected, Load
from .nemesis import Nemesis
from .notes import Notes, read_notes
from .parked import find_parked
from .posts import find_posts
from .repeats import find_repeats
from .target import Target
from .worker import LEASE

FINISH_WITHIN = 240.0
"""Seconds in which all that was begun must have ended once the nemesis has. Poison takes a minute on a busy machine."""

BEGIN_WITHIN = 60.0

REJOIN_WITHIN = 30.0
"""Seconds in which those who work must hold a lease, and no others, once the nemesis has ended."""


@define
class Report:
    """What has happened."""

    name: str
    seed: int
    violations: list[str]
    faults: Counter[str]
    workers: int
    expected: Expected
    evidence: Evidence
    notes: Notes
    machine_gaps: int
    """How often the machine was too busy to run this process."""
    finish_seconds: float = 0.0
    """From the end of the nemesis to that of the last instance."""
    _kinds: Counter[EntryKind] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._kinds = Counter(entry.kind for entry in self.evidence.entries)

    def __str__(self) -> str:
        plans = self.expected.plans.values()
        ended = Counter(f"{plan.kind}{' (cancelled)' if plan.is_cancelled else ''}" for plan in plans if plan.seconds)
        slowest = max(plans, key=lambda plan: plan.seconds or 0, default=None)
        lines = [
            f"{self.name}, seed {self.seed}: {len(self.violations)} violations",
            f"  {sum(ended.values())} of {len(plans)} instances ended: {_counted(ended)}",
            f"  {len(self.evidence.entries)} entries: {_counted(self._kinds)}",
            f"  {len(self.expected.events)} events, {len(self.evidence.messages)} messages with these, "
            f"{len(self.evidence.bookings)} bookings, {self.workers} workers",
            f"  faults: {_counted(self.faults)}; finished {self.finish_seconds:.1f} s after the last",
            f"  {len(self.notes.runs)} attempts noted, {len(self.notes.explosions)} workers killed by poison, "
            f"{len(self.notes.gaps)} times one stood still, {self.machine_gaps} times the machine",
        ]
        if slowest is not None and slowest.seconds is not None:
            lines.append(
                f"  the slowest instance was {slowest.instance_id}, with {slowest.seconds:.1f} s; "
                f"for {self._longest_silence():.1f} s nobody has recorded anything"
            )
        return "\n".join(lines + [f"  VIOLATION {problem}" for problem in self.violations])

    def _longest_silence(self) -> float:
        times = sorted(entry.recorded_at for entry in self.evidence.entries)
        return max((after - before for before, after in pairwise(times)), default=0) / 1e6


async def run_chaos(
    target: Target,
    directory: Path,
    *,
    seed: int,
    seconds: float,
    options: Sequence[str] = (),
    faults: frozenset[str] | None = None,
    finish_within: float = FINISH_WITHIN,
) -> Report:
    """Let workers work and the nemesis disturb them for so many seconds. Then let everything finish, and judge it.

    Args:
      directory: where workers log, and the journals are written to.
      options: of the worker processes.
      faults: names of those that the nemesis keeps to; None: all.
    """
    rejoin_within = min(REJOIN_WITHIN, finish_within)
    _log_to(directory / "nemesis.log")
    async with AsyncExitStack() as exits:
        app = await exits.enter_async_context(App(target.client_url, worker=False))
        await trio.to_thread.run_sync(target.make_tables)
        disturbances = Disturbances(late=2 * LEASE)
        broker = await exits.enter_async_context(open_broker())
        broker.decide = _moody(Random(seed + 3))
        options = [*options, "--broker", broker.url]
        async with open_crew(target, directory, Random(seed + 2), options) as crew:
            load = Load(app, Random(seed))
            nemesis = Nemesis(Scene(target, crew, load, Random(seed + 1), disturbances), faults)
            async with trio.open_nursery() as watchers:
                watchers.start_soon(crew.look_after)
                watchers.start_soon(disturbances.watch_machine)
                with trio.move_on_after(BEGIN_WITHIN + seconds + finish_within) as scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(load.run)
                        with trio.fail_after(BEGIN_WITHIN):
                            await load.has_begun.wait()
                        await nemesis.run(seconds)
                        load.is_stopping = True
                        ending = trio.current_time()
                        scope.deadline = ending + finish_within
                finish_seconds = trio.current_time() - ending
                problems = await _leases(target, {slot.worker_id for slot in crew.slots}, rejoin_within)
                await _settle(target, load.expected, rejoin_within)
                watchers.cancel_scope.cancel()
        problems += await _leases(target, set(), rejoin_within)
    evidence = await trio.to_thread.run_sync(lambda: read_evidence(target.execute, watched=target.watches_writers))
    notes = read_notes(directory, crew.worker_ids)
    disturbances.add(notes)
    (directory / "journals.txt").write_text(told(evidence))
    violations = find_violations(load.expected, evidence, crew.worker_ids)
    violations += find_repeats(notes, disturbances)
    violations += find_parked(load.expected, evidence, notes)
    violations += find_posts(load.expected, evidence, broker.taken)
    violations += [*_unfinished(load, scope, finish_within), *problems, *crew.problems]
    violations += crew.complaints(load.expected.known)
    return Report(
        target.name,
        seed,
        violations,
        nemesis.counts,
        len(crew.worker_ids),
        load.expected,
        evidence,
        notes,
        disturbances.machine_gaps,
        finish_seconds,
    )


async def _settle(target: Target, expected: Expected, seconds: float) -> None:
    """Wait until events for the broker are posted, and what cannot be read is parked. The checker looks again."""
    parked = [plan.instance_id for plan in expected.plans.values() if plan.stuck_because is not None]
    ids = ", ".join(f"'{id}'" for id in ["", *parked])
    due = "SELECT 1 FROM romancy_outbox WHERE due_at IS NOT NULL"
    unsettled = f"{due} UNION ALL SELECT 1 FROM romancy_instances WHERE status <> 'stuck' AND instance_id IN ({ids})"
    with trio.move_on_after(seconds):
        while await trio.to_thread.run_sync(target.execute, unsettled):  # noqa: ASYNC110
            await trio.sleep(0.2)


def _moody(dice: Random) -> Callable[[Post], Answer]:
    """What a broker decides that refuses some events for now, and takes some without an answer."""

    def decide(post: Post) -> Answer:
        return dice.choices([TAKE, LOSE, no(503)], [8, 1, 1])[0]

    return decide


async def _leases(target: Target, right: set[str], seconds: float) -> list[str]:
    """Those who work hold a lease, also if they have lost one before; and nobody else does."""
    with trio.move_on_after(seconds):
        while True:
            holders = {
                id for (id,) in await trio.to_thread.run_sync(target.execute, "SELECT worker_id FROM romancy_workers")
            }
            if holders == right:
                return []
            await trio.sleep(0.2)
    return [f"workers {sorted(right)} are at work, and {sorted(holders)} hold a lease"]


def _unfinished(load: Load, scope: trio.CancelScope, seconds: float) -> list[str]:
    if not scope.cancelled_caught:
        return []
    waiting = [plan.instance_id for plan in load.expected.plans.values() if plan.seconds is None]
    return [f"not all had ended {seconds:g} s after the nemesis; the driver still waited for {waiting}"]


def _log_to(path: Path) -> None:
    logger = logging.getLogger("chaos")
    logger.setLevel(logging.INFO)
    logger.handlers = [logging.FileHandler(path)]
    logger.handlers[0].setFormatter(logging.Formatter("%(asctime)s %(message)s"))


def _counted(counts: Counter[str] | Counter[EntryKind]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items())) or "none"
