"""The worker processes."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random

import trio
from attrs import define, field

from ..support.fork_server import Process, fork_server_for
from .commands import FARTHEST
from .notes import lines
from .target import WORKERS, Target
from .versions import NEW, OLD
from .worker import READY

STOP_WITHIN = 60.0
"""Seconds in which a worker must have ended after SIGTERM, whatever the database does meanwhile."""

_IN_DOUBT = ("was interrupted after the cancellation was requested", "and could not compensate")
"""What is logged of activities that a death interrupted in a cancellation. The checker looks at their journals."""


@define(eq=False)
class Slot:
    """A place for one worker at a time, each under an id of its own."""

    number: int
    worker_id: str
    process: Process
    is_disturbed: bool = False
    """Whether something is being done to the worker."""

    def send(self, what: signal.Signals) -> None:
        """Send a signal to all processes of its group: a forked worker has a parent, and may have children."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, what)

    def command(self, what: str) -> None:
        """Have the worker carry out a command of :mod:`.commands`."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has died
            os.write(self.process.stdin.fileno(), what.encode() + b"\n")

    async def wait(self) -> int:
        """Wait for its end, and return its exit status."""
        return await trio.to_thread.run_sync(self.process.wait, abandon_on_cancel=True)


@define(eq=False)
class Crew:
    """All workers that there are and were."""

    _target: Target
    _logs: Path
    """The directory that they log into, and write their notes."""
    _dice: Random
    _options: Sequence[str] = ()
    """Of the worker process."""
    slots: list[Slot] = field(factory=list, init=False)
    worker_ids: list[str] = field(factory=list, init=False)
    problems: list[str] = field(factory=list, init=False)
    """What workers did that none must do."""

    async def hire(self) -> None:
        """Fill all slots, and wait until all work."""
        for number in range(self._target.slots):
            self.slots.append(Slot(number, *self._start(number)))
        for slot in self.slots:
            await self.settle(slot)

    def replace(self, slot: Slot) -> None:
        """Start another worker in the place of one that has ended."""
        slot.worker_id, slot.process = self._start(slot.number)

    async def settle(self, slot: Slot) -> None:
        """Wait until a worker works, or has ended."""
        while not self.is_ready(slot) and slot.process.poll() is None:  # noqa: ASYNC110
            await trio.sleep(0.1)

    async def stop(self, slot: Slot) -> None:
        """Stop a worker in order."""
        slot.send(signal.SIGTERM)
        with trio.move_on_after(STOP_WITHIN) as scope:
            status = await slot.wait()
        if scope.cancelled_caught:
            self.problems.append(f"worker {slot.worker_id} did not end within {STOP_WITHIN:g} s after SIGTERM")
            slot.send(signal.SIGKILL)
            await slot.wait()
        elif status and not (status == -signal.SIGTERM and not self.is_ready(slot)) and not self._has_exploded(slot):
            self.problems.append(f"worker {slot.worker_id} was stopped in order, and ended with status {status}")

    async def look_after(self) -> None:
        """Replace those who have ended by themselves, which none must except by poison, until cancelled."""
        while True:
            for slot in self.slots:
                if not slot.is_disturbed and (status := slot.process.poll()) is not None:
                    if not self._has_exploded(slot):
                        self.problems.append(f"worker {slot.worker_id} ended by itself, with status {status}")
                    self.replace(slot)
            await trio.sleep(0.2)

    def complaints(self, known: Sequence[str]) -> list[str]:
        """What workers have logged that neither a death nor an outage should lead to.

        Args:
          known: ids of instances and workers of which errors may be logged.
        """
        allowed = [*_IN_DOUBT, *known]
        return [
            f"worker {worker_id} has logged: {line}"
            for worker_id in self.worker_ids
            for line in self._log(worker_id).splitlines()
            if (" ERROR " in line or " CRITICAL " in line) and not any(text in line for text in allowed)
        ]

    def _has_exploded(self, slot: Slot) -> bool:
        return any(line["what"] == "explosion" for line in lines(self._logs, slot.worker_id))

    def _start(self, number: int) -> tuple[str, Process]:
        worker_id = WORKERS[len(self.worker_ids)]
        self.worker_ids.append(worker_id)
        url = self._target.url(number, worker_id)
        options = [*self._options, "--version", str(NEW if number % 2 else OLD)]
        if self._dice.random() < 0.5:
            options.append("--forked")
        # Workers on a file follow those that live, and a first one the machine: only a server has a clock of its own.
        if self._target.product != "sqlite" and self._dice.random() < 0.5:
            options.append(f"--clock-ahead={self._dice.uniform(-FARTHEST, FARTHEST):.3f}")
        arguments = [url, worker_id, str(self._logs), *options]
        with self._path(worker_id).open("wb") as log:
            file = log.fileno()
            process = fork_server_for(url).start(
                "tests.chaos.worker", *arguments, stdin=subprocess.PIPE, stdout=file, stderr=file
            )
        return worker_id, process

    def is_ready(self, slot: Slot) -> bool:
        """Whether the worker has held a lease."""
        return READY in self._log(slot.worker_id).splitlines()

    def _log(self, worker_id: str) -> str:
        return self._path(worker_id).read_text(errors="replace")

    def _path(self, worker_id: str) -> Path:
        return self._logs / f"{worker_id}.log"


@asynccontextmanager
async def open_crew(target: Target, logs: Path, dice: Random, options: Sequence[str] = ()) -> AsyncIterator[Crew]:
    """A crew at work. When the block ends all are stopped in order, and killed if it ends with an exception."""
    crew = Crew(target, logs, dice, options)
    try:
        await crew.hire()
        yield crew
        async with trio.open_nursery() as nursery:
            for slot in crew.slots:
                slot.is_disturbed = True
                nursery.start_soon(crew.stop, slot)
    finally:
        for slot in crew.slots:
            slot.send(signal.SIGKILL)
            slot.process.wait()
