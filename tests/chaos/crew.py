"""The worker processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from attrs import define, field

from .target import WORKERS, Target
from .worker import READY

ROOT = Path(__file__).parents[2]

STOP_WITHIN = 60.0
"""Seconds in which a worker must have ended after SIGTERM, whatever the database does meanwhile."""

_IN_DOUBT = ("was interrupted after the cancellation was requested", "and could not compensate")
"""What is logged of activities that a death interrupted in a cancellation. The checker looks at their journals."""


@define(eq=False)
class Slot:
    """A place for one worker at a time, each under an id of its own."""

    number: int
    worker_id: str
    process: subprocess.Popen[bytes]
    is_disturbed: bool = False
    """Whether something is being done to the worker."""

    def send(self, what: signal.Signals) -> None:
        self.process.send_signal(what)

    async def wait(self) -> int:
        """Wait for its end, and return its exit status."""
        return await trio.to_thread.run_sync(self.process.wait, abandon_on_cancel=True)


@define(eq=False)
class Crew:
    """All workers that there are and were."""

    _target: Target
    _logs: Path
    """The directory that they log into."""
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
        while not self._is_ready(slot) and slot.process.poll() is None:  # noqa: ASYNC110
            await trio.sleep(0.1)

    async def stop(self, slot: Slot) -> None:
        """Stop a worker in order."""
        slot.send(signal.SIGTERM)
        with trio.move_on_after(STOP_WITHIN) as scope:
            status = await slot.wait()
        if scope.cancelled_caught:
            self.problems.append(f"worker {slot.worker_id} did not end within {STOP_WITHIN:g} s after SIGTERM")
            slot.process.kill()
            await slot.wait()
        elif status and not (status == -signal.SIGTERM and not self._is_ready(slot)):
            self.problems.append(f"worker {slot.worker_id} was stopped in order, and ended with status {status}")

    def look_after(self) -> None:
        """Replace those who have ended by themselves, which none must."""
        for slot in self.slots:
            if not slot.is_disturbed and (status := slot.process.poll()) is not None:
                self.problems.append(f"worker {slot.worker_id} ended by itself, with status {status}")
                self.replace(slot)

    def complaints(self) -> list[str]:
        """What workers have logged that neither a death nor an outage should lead to."""
        return [
            f"worker {worker_id} has logged: {line}"
            for worker_id in self.worker_ids
            for line in self._log(worker_id).splitlines()
            if (" ERROR " in line or " CRITICAL " in line) and not any(text in line for text in _IN_DOUBT)
        ]

    def _start(self, number: int) -> tuple[str, subprocess.Popen[bytes]]:
        worker_id = WORKERS[len(self.worker_ids)]
        self.worker_ids.append(worker_id)
        url = self._target.url(number, worker_id)
        command = [sys.executable, "-m", "tests.chaos.worker", url, worker_id, *self._options]
        return worker_id, self._open(command, self._path(worker_id))

    def _open(self, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """Not in a thread of its own: should that end, so would the process."""
        with log.open("wb") as output:
            return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def _is_ready(self, slot: Slot) -> bool:
        return READY in self._log(slot.worker_id).splitlines()

    def _log(self, worker_id: str) -> str:
        return self._path(worker_id).read_text(errors="replace")

    def _path(self, worker_id: str) -> Path:
        return self._logs / f"{worker_id}.log"


@asynccontextmanager
async def open_crew(target: Target, logs: Path, options: Sequence[str] = ()) -> AsyncIterator[Crew]:
    """A crew at work. When the block ends all are stopped in order, and killed if it ends with an exception."""
    crew = Crew(target, logs, options)
    try:
        await crew.hire()
        yield crew
        async with trio.open_nursery() as nursery:
            for slot in crew.slots:
                slot.is_disturbed = True
                nursery.start_soon(crew.stop, slot)
    finally:
        for slot in crew.slots:
            slot.process.kill()
            slot.process.wait()
