"""Terminations that a worker carries out: of instances in its memory, and of instances that it has claimed."""

from __future__ import annotations

import logging
from functools import partial
from typing import Protocol

import trio

from ..._data.log_fields import about
from ..._observe.instance_events import log_termination
from ..._storage.journal.journal import Journal
from ..._storage.sql.claims import Claim
from ..._storage.sql.termination import Termination, terminate
from ...clock import Clock
from ...errors import LeaseLostError
from ..run.environment import RunHost
from ..run.run import InstanceRun
from ..run.saga import to_undo

_logger = logging.getLogger("trio_romancy.supervisor")

_AGAIN_AFTER = 1.0
"""Seconds after which a termination that the database has refused is tried again."""


class TerminationHost(RunHost, Protocol):
    """The supervisor, as its terminations see it."""

    def terminated(self, claim: Claim, termination: Termination | None, run: InstanceRun | None, /) -> None:
        """Act on a termination. Called before the next batch of the journal is closed."""
        ...


class Terminations:
    """Terminates instances that this worker owns.

    A run that is terminated is abandoned first, so that it can record nothing more. The end is recorded without
    waiting for the run, because its code may never end.
    """

    def __init__(self, journal: Journal, clock: Clock, host: TerminationHost) -> None:
        self._journal = journal
        self._clock = clock
        self._host = host
        self._begun: set[InstanceRun] = set()
        """Runs that are being terminated."""
        self._left: set[InstanceRun] = set()
        """Runs whose instance was terminated before their code had ended."""

    def terminate(self, claim: Claim, run: InstanceRun) -> None:
        """Abandon a run, and end its instance. A second call does nothing."""
        if run in self._begun:
            return
        self._begun.add(run)
        running = [operation.id for operation in run.in_flight.by_id.values() if operation.is_executing]
        run.abandon()
        self._host.start_soon(partial(self._end, claim, run, running))

    async def _end(self, claim: Claim, run: InstanceRun, running: list[str]) -> None:
        try:
            await self._end_at_last(claim, run, running)
        finally:
            self._begun.discard(run)

    async def _end_at_last(self, claim: Claim, run: InstanceRun, running: list[str]) -> None:
        if run.commit is not None:
            await run.commit.wait()  # nothing is recorded after the end
        while True:
            try:
                await self.carry_out(claim, run, running)
            except LeaseLostError:
                return  # the next worker that claims the instance terminates it
            except Exception:
                message = "instance %s: it could not be terminated, trying again"
                _logger.exception(message, claim.instance_id, extra=about(claim.instance_id, claim.workflow))
                await trio.sleep(_AGAIN_AFTER)
            else:
                return

    async def carry_out(self, claim: Claim, run: InstanceRun | None = None, running: list[str] | None = None) -> None:
        """End an instance whose termination was requested, durably.

        Args:
          run: the run that was abandoned; None if there was none.
          running: ids of the operations whose code was abandoned.

        Raises:
          LeaseLostError: if the worker loses its lease first.
        """

        def tell(termination: Termination | None) -> None:
            if termination is not None:
                log_termination(termination)
            self._host.terminated(claim, termination, run)

        await self._journal.call_then(tell, terminate, claim.instance_id, self._clock.now(), to_undo, running or [])

    def leave(self, run: InstanceRun) -> None:
        """Note that the instance of a run has ended, although the code of the run has not."""
        self._left.add(run)

    def was_left(self, run: InstanceRun) -> bool:
        """Tell, when the code of a run has ended, whether the instance was terminated before."""
        was_left = run in self._left
        self._left.discard(run)
        return was_left
