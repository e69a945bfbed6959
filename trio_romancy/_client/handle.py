"""Handles of instances: what ``app.start`` and ``app.handle`` return."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

import trio
from attrs import define, field

from .._data import patient_json
from .._data.codec import Codec, loads
from .._data.diagnosis import name_of
from .._data.large import LARGE, decoded
from .._runtime.run.local_result import LocalResult
from .._storage.sql import instances
from .._storage.sql.termination import TERMINATED
from ..clock import Duration, seconds
from ..errors import (
    InstanceNotFoundError,
    InvalidDataError,
    ResultTimeoutError,
    RomancyError,
    WorkflowCancelledError,
    WorkflowFailedError,
    WorkflowStuckError,
    WorkflowTerminatedError,
)
from ..model import ErrorInfo, Instance, Status
from . import steering
from .engine import Engine, check_instance_id
from .watch import InstanceChanges

R = TypeVar("R")

_MAY_GO_ON = (Status.STUCK, Status.FAILED)
"""Statuses that an operator can change, so that a kept result may be out of date."""


@define(eq=False)
class WorkflowHandle(Generic[R]):
    """One instance, as its clients see it. The instance does not depend on its handles."""

    instance_id: str
    _require_engine: Callable[[str], Engine] = field(repr=False)
    _codec: Codec[R] | None = field(repr=False)
    """Codec of the result; None: it is plain JSON data."""
    _declared: str = field(repr=False)
    """Where the type of the result is declared, for a message."""
    _local_result: LocalResult | None = field(repr=False)

    async def result(self, timeout: Duration | None = None) -> R:
        """Wait until the instance has ended, and return the result of its workflow, which is durable by then.

        Cancelling the wait does not cancel the instance.

        Args:
          timeout: time limit of the wait: seconds, or a timedelta; None or ``math.inf``: no limit.

        Raises:
          WorkflowFailedError: if the workflow failed.
          WorkflowCancelledError: if it was cancelled; if it was terminated, its subclass WorkflowTerminatedError.
          WorkflowStuckError: if it is parked. Once it is resumed, ``result`` can be called again.
          InstanceNotFoundError: if there is no such instance.
          InvalidDataError: if its result does not fit what the workflow returns in this process, or the type that
            :meth:`App.handle` was given.
          ResultTimeoutError: if it has not ended in time.
        """
        ended = None
        if timeout is None:
            ended = await self._wait()
        else:
            limit = seconds(timeout)
            with trio.move_on_after(limit):
                ended = await self._wait()
            if ended is None:
                raise ResultTimeoutError(self.instance_id, limit)
        status, output, error = ended
        if status is not Status.COMPLETED:
            raise self._failure(status, error)
        text = output or "null"
        try:
            return await decoded(len(text), lambda: self._decode(text))
        except InvalidDataError as problem:
            assert self._codec is not None
            raise InvalidDataError(
                f"instance {self.instance_id!r} has completed, but its result does not fit "
                f"{name_of(self._codec.annotation)}, {self._declared}; app.get_instance has it as plain JSON data",
                problem.problems,
            ) from None

    async def cancel(self, reason: str | None = None) -> bool:
        """Request the cancellation of the instance: see :meth:`App.cancel`."""
        return await steering.cancel(self._require_engine("handle.cancel"), self.instance_id, reason)

    async def terminate(self, reason: str | None = None, *, compensate: bool = False) -> bool:
        """End the instance at once, whatever its code does: see :meth:`App.terminate`."""
        return await steering.terminate(
            self._require_engine("handle.terminate"), self.instance_id, reason, compensate=compensate
        )

    async def resume(self) -> bool:
        """Let the instance go on if it is stuck: see :meth:`App.resume`."""
        return await steering.resume(self._require_engine("handle.resume"), self.instance_id)

    async def retry(self) -> bool:
        """Start the instance again from its first failed operation: see :meth:`App.retry`."""
        return await steering.retry(self._require_engine("handle.retry"), self.instance_id)

    async def status(self) -> Status:
        """Return the status of the instance, as the database shows it now.

        Raises:
          InstanceNotFoundError: if there is no such instance.
        """
        return (await self._instance("handle.status")).status

    async def details(self) -> Any:
        """Return what the workflow or an activity said last by ``set_details``, as plain JSON data.

        It is None if nothing was said, and once the instance has ended.

        Raises:
          InstanceNotFoundError: if there is no such instance.
        """
        return (await self._instance("handle.details")).details

    def watch(self) -> InstanceChanges:
        """Iterate over the changes of status and details: ``async for instance in handle.watch()``.

        The first item is the instance as it is now. Each further one follows when its status or its details have
        changed; states that it has left again meanwhile are passed over. The iteration ends with the instance, and goes
        on with its successor if it recurs. An instance that this process runs is not polled for.

        Cancelling an iteration does not cancel the instance.

        Raises:
          InstanceNotFoundError: by the iteration, if there is no such instance.
        """
        return InstanceChanges(self._require_engine, self.instance_id)

    async def _instance(self, call: str) -> Instance:
        engine = self._require_engine(call)
        check_instance_id(self.instance_id)
        instance = await engine.read(instances.get_instance, self.instance_id)
        if instance is None:
            raise InstanceNotFoundError(self.instance_id)
        return instance

    def _wait(self) -> Coroutine[Any, Any, tuple[Status, str | None, ErrorInfo | None]]:
        engine, local_result = self._require_engine("handle.result"), self._local_result
        if local_result is None or local_result.status in _MAY_GO_ON:
            check_instance_id(self.instance_id)
            local_result = engine.local_result(self.instance_id)
        return engine.wait(self.instance_id, local_result)

    def _decode(self, text: str) -> R:
        """Return the result that JSON text stands for.

        Raises:
          InvalidDataError: if it does not fit the type of the result.
        """
        value = loads(text) if len(text) < LARGE else patient_json.loads(text)
        result: R = value if self._codec is None else self._codec.decode_stored(value)
        return result

    def _failure(self, status: Status, error: ErrorInfo | None) -> RomancyError:
        assert error is not None
        if status is Status.STUCK:
            return WorkflowStuckError(self.instance_id, error.error_type, error.message)
        if error.error_type == TERMINATED:
            return WorkflowTerminatedError(self.instance_id, error.message or None, error.uncompensated)
        if status is Status.CANCELLED:
            return WorkflowCancelledError(self.instance_id, error.message or None, error.uncompensated)
        return WorkflowFailedError(
            self.instance_id,
            error.error_type,
            error.message,
            error.traceback,
            error.uncompensated,
            error.error_types,
            error.details,
        )
