"""Does to the workers, to their connections and to the database what happens to them, and worse."""

from __future__ import annotations

import logging
import math
import signal
from collections import Counter
from random import Random

import trio
from attrs import define, field

from .crew import Crew, Slot
from .target import Disaster, Target
from .worker import LEASE

_logger = logging.getLogger("chaos.nemesis")

PAUSE = (0.3, 1.1)
"""The least and the most seconds between two misdeeds."""

TRUCE = (0.5, 4.0)
"""The same between two disasters, so that there is something to be disturbed again."""


@define(eq=False)
class Nemesis:
    """Commits misdeeds, several at a time, but leaves one worker in peace. It ends with all workers at work."""

    _target: Target
    _crew: Crew
    _dice: Random
    _only: frozenset[str] | None = None
    """The misdeeds to keep to; None: all that the target allows."""
    counts: Counter[str] = field(factory=Counter, init=False)
    _peace: float = field(default=-math.inf, init=False)
    """From when on the servers may meet with another disaster."""

    async def run(self, seconds: float) -> None:
        """Go on for that long, and put everything in order again."""
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(seconds):
                deck: list[str] = []
                while True:
                    deck = deck or self._shuffled()
                    misdeed = deck.pop()
                    if not self._commit(misdeed, nursery):
                        deck.insert(0, misdeed)
                    await trio.sleep(self._dice.uniform(*PAUSE))
                    self._crew.look_after()
        self._crew.look_after()

    def _shuffled(self) -> list[str]:
        """One round of misdeeds, so that even a short run has some of each."""
        deck = ["kill", "kill", "kill", "freeze", "freeze", "freeze", "stop"]
        if self._target.ways:
            deck += ["cut", "cut", "cut", "stall"]
        if any(len(way.proxies) > 1 for way in self._target.ways):
            deck += ["detour"]
        deck += self._target.disasters
        deck = [one for one in deck if self._only is None or one in self._only]
        self._dice.shuffle(deck)
        return deck

    def _commit(self, misdeed: str, nursery: trio.Nursery) -> bool:
        """Begin a misdeed. Returns False if it must wait for others to end."""
        if misdeed == "cut":
            way = self._dice.randrange(len(self._target.ways))
            self._note(misdeed, f"way {way}")
            self._target.ways[way].cut()
            return True
        if misdeed in self._target.disasters:
            if trio.current_time() < self._peace:
                return False
            self._peace = math.inf
            self._note(misdeed, self._target.name)
            nursery.start_soon(self._strike, self._target.disasters[misdeed])
            return True
        peaceful = [slot for slot in self._crew.slots if not slot.is_disturbed]
        if len(peaceful) < 2:
            return False
        slot = self._dice.choice(peaceful)
        slot.is_disturbed = True
        self._note(misdeed, slot.worker_id)
        deed = {
            "kill": self._kill,
            "freeze": self._freeze,
            "stop": self._stop,
            "stall": self._stall,
            "detour": self._detour,
        }[misdeed]
        may_begin = self._dice.random() < 0.8
        seconds = self._dice.uniform(0, 1) if misdeed in ("kill", "stop") else LEASE * self._dice.uniform(1.1, 2)

        async def disturb() -> None:
            await deed(slot, seconds)
            if may_begin:  # or else a worker may die while it begins
                await self._crew.settle(slot)
            slot.is_disturbed = False

        nursery.start_soon(disturb)
        return True

    def _note(self, misdeed: str, victim: str) -> None:
        self.counts[misdeed] += 1
        _logger.info("%s %s", misdeed, victim)

    async def _strike(self, disaster: Disaster) -> None:
        await disaster(self._dice)
        self._peace = trio.current_time() + self._dice.uniform(*TRUCE)

    async def _kill(self, slot: Slot, seconds: float) -> None:
        slot.send(signal.SIGKILL)
        await slot.wait()
        await trio.sleep(seconds)
        self._crew.replace(slot)

    async def _freeze(self, slot: Slot, seconds: float) -> None:
        slot.send(signal.SIGSTOP)
        await trio.sleep(seconds)
        slot.send(signal.SIGCONT)

    async def _stop(self, slot: Slot, seconds: float) -> None:
        await self._crew.stop(slot)
        await trio.sleep(seconds)
        self._crew.replace(slot)

    async def _stall(self, slot: Slot, seconds: float) -> None:
        """The network of one worker stands still for longer than its lease, and then brings all that was sent."""
        way = self._target.ways[slot.number]
        way.stall()
        await trio.sleep(seconds)
        way.resume()

    async def _detour(self, slot: Slot, seconds: float) -> None:
        """One worker loses the server that it uses, and no others do: it is refused, or hears nothing any more."""
        proxy = self._target.ways[slot.number].main_proxy
        if self._dice.random() < 0.5:
            proxy.stall()
            await trio.sleep(seconds)
            proxy.resume()
        else:
            proxy.refuse()
            proxy.cut()
            await trio.sleep(seconds)
            proxy.accept()
