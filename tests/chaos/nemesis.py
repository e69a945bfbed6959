"""Does to the workers, to their connections and to the database what happens to them, and worse."""

from __future__ import annotations

import logging
import math
from collections import Counter

import trio
from attrs import define, field

from .faults import FAMILIES, Fault, Scene, ServerFault, SmallFault, WorkerFault

_logger = logging.getLogger("chaos.nemesis")

PAUSE = (0.3, 1.1)
"""The least and the most seconds between two faults."""

TRUCE = (0.5, 4.0)
"""The same between two faults of servers, so that there is something to be disturbed again."""

FIRST = "poison"
"""The fault that a run begins with, if it may: it takes longest until its end."""


@define(eq=False)
class Nemesis:
    """Commits faults, several at a time, but leaves one worker in peace. It ends with all workers at work."""

    _scene: Scene
    _only: frozenset[str] | None = None
    """Names of the faults to keep to; None: all that the target allows."""
    counts: Counter[str] = field(factory=Counter, init=False)
    _peace: float = field(default=-math.inf, init=False)
    """From when on the servers may meet with another fault."""

    async def run(self, seconds: float) -> None:
        """Go on for that long, and put everything in order again."""
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(seconds):
                deck = sorted(self._shuffled(), key=lambda fault: fault.name == FIRST)
                while True:
                    deck = deck or self._shuffled()
                    fault = deck.pop()
                    if not self._commit(fault, nursery):
                        deck.insert(0, fault)
                    await trio.sleep(self._scene.dice.uniform(*PAUSE))

    def _shuffled(self) -> list[Fault]:
        """One round of faults, so that even a short run has some of each."""
        faults = [fault for family in FAMILIES for fault in family.faults(self._scene.target)]
        if self._only is not None and (unknown := self._only - {fault.name for fault in faults}):
            raise ValueError(f"{self._scene.target.name} has no faults {sorted(unknown)}")
        deck = [fault for fault in faults for _ in range(fault.times) if self._only is None or fault.name in self._only]
        self._scene.dice.shuffle(deck)
        return deck

    def _commit(self, fault: Fault, nursery: trio.Nursery) -> bool:
        """Begin a fault. Returns False if it must wait for others to end."""
        match fault:
            case SmallFault():
                self._note(fault, "")
                nursery.start_soon(fault.act, self._scene)
            case ServerFault():
                if trio.current_time() < self._peace:
                    return False
                self._peace = math.inf
                self._note(fault, self._scene.target.name)
                nursery.start_soon(self._strike, fault)
            case WorkerFault():
                peaceful = [slot for slot in self._scene.crew.slots if not slot.is_disturbed]
                if len(peaceful) < 2:
                    return False
                slot = self._scene.dice.choice(peaceful)
                slot.is_disturbed = True
                self._note(fault, slot.worker_id)
                may_begin = self._scene.dice.random() < 0.8

                async def disturb() -> None:
                    await fault.act(self._scene, slot)
                    if may_begin:  # or else a worker may die while it begins
                        await self._scene.crew.settle(slot)
                    slot.is_disturbed = False

                nursery.start_soon(disturb)
        return True

    def _note(self, fault: Fault, victim: str) -> None:
        self.counts[fault.name] += 1
        _logger.info("%s %s", fault.name, victim)

    async def _strike(self, fault: ServerFault) -> None:
        await fault.act(self._scene)
        _logger.info("%s is over", fault.name)
        self._peace = trio.current_time() + self._scene.dice.uniform(*TRUCE)
