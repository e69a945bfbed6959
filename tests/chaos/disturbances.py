"""Which worker was disturbed when, alone or with all others, so that it may have lost its lease."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import trio
from attrs import define, field, frozen

from .notes import REMARKABLE_GAP, Notes

_PULSE = 0.1


@frozen
class Span:
    """A time in which a worker could not renew its lease, although others could."""

    worker_id: str | None
    """None: any worker."""
    begun_at: float
    """On the machine's monotonic clock, as all times here."""
    ended_at: float
    """Infinite for a death."""


@define(eq=False)
class Disturbances:
    """What the nemesis has done to single workers. What meets all alike is left out: no lease may be lost by that."""

    late: float
    """Seconds after its end for which a disturbance counts: what went wrong in it is noticed later."""
    spans: list[Span] = field(factory=list)
    machine_gaps: int = field(default=0, init=False)
    """How often the machine was too busy to run this process."""

    @contextmanager
    def of(self, worker_id: str | None) -> Iterator[None]:
        """Note that the worker is disturbed during the block."""
        begun_at = time.monotonic()
        try:
            yield
        finally:
            self.spans.append(Span(worker_id, begun_at, time.monotonic()))

    def died(self, worker_id: str) -> None:
        """Note that the worker is about to be killed, or to be told to end."""
        self.spans.append(Span(worker_id, time.monotonic(), math.inf))

    def add(self, notes: Notes) -> None:
        """Add what processes have noted themselves."""
        self.spans += [Span(one.worker_id, one.at, math.inf) for one in notes.explosions]
        self.spans += [Span(*gap) for gap in notes.gaps]

    def explain(self, worker_id: str, begun_at: float, again_at: float) -> bool:
        """Whether what the worker began may have been begun again by another one, or by itself under a new lease."""
        return any(
            span.worker_id in (None, worker_id) and span.begun_at <= again_at and span.ended_at + self.late >= begun_at
            for span in self.spans
        )

    def had_lost(self, worker_id: str, at: float) -> bool:
        """Whether the worker may have lost its instances to others at that time, and have come back later."""
        return any(
            span.worker_id == worker_id and span.begun_at <= at <= span.ended_at + self.late < math.inf
            for span in self.spans
        )

    async def watch_machine(self) -> None:
        """Note when the machine is so busy that this process itself stands still, until cancelled."""
        last = time.monotonic()
        while True:
            await trio.sleep(_PULSE)
            now = time.monotonic()
            if now - last > REMARKABLE_GAP:
                self.spans.append(Span(None, last, now))
                self.machine_gaps += 1
            last = now
