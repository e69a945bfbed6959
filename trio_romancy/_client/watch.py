"""Watches one instance: an iterator over the changes of its status and its details."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio
from attrs import define, field

from .._runtime.run.local_result import LocalResult
from .._storage.sql import chains, instances
from ..errors import InstanceNotFoundError
from ..model import Instance, Status
from .engine import Engine, check_instance_id

_SHORTEST_POLL = 0.05
_LONGEST_POLL = 1.0
"""Seconds between two queries for an instance that another process may run."""


@define(eq=False)
class InstanceChanges:
    """Iterator over the changes of one instance. Made by :meth:`WorkflowHandle.watch`."""

    _require_engine: Callable[[str], Engine] = field(repr=False)
    _instance_id: str
    _last: tuple[Status, Any] | None = field(default=None, init=False)
    """Status and details that were returned last."""
    _local_result: LocalResult | None = field(default=None, init=False, repr=False)

    def __aiter__(self) -> InstanceChanges:
        return self

    async def __anext__(self) -> Instance:
        instance = await self.next_change()
        if instance is None:
            raise StopAsyncIteration
        return instance

    async def next_change(self) -> Instance | None:
        """Wait for the next change, and return the instance as it is then; None: it has ended."""
        engine = self._require_engine("handle.watch")
        poll = _SHORTEST_POLL
        if self._last is not None and self._last[0] is Status.RECURRED:
            last = await engine.read(chains.last_of, self._instance_id)
            self._instance_id = last or self._instance_id
            self._local_result = None
        elif self._last is not None and self._last[0].is_final:
            return None
        while True:
            changed = self._watched(engine).changed()  # taken before the query, so that no change falls in between
            instance = await engine.read(instances.get_instance, self._instance_id)
            if instance is None:
                raise InstanceNotFoundError(self._instance_id)
            if (state := (instance.status, instance.details)) != self._last:
                self._last = state
                return instance
            with trio.CancelScope() as scope:
                if not engine.learns_of_changes(self._instance_id):
                    scope.deadline = trio.current_time() + poll
                    poll = min(poll * 2, _LONGEST_POLL)
                await changed.wait()

    def _watched(self, engine: Engine) -> LocalResult:
        if self._local_result is None or self._local_result.status is not None:
            check_instance_id(self._instance_id)
            self._local_result = engine.watch_result(self._instance_id)
        return self._local_result
