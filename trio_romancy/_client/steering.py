"""Steers instances: cancels them, terminates them, resumes them, retries them."""

from __future__ import annotations

from .._data.end_request import EndRequest
from .._observe.instance_events import log_termination
from .._runtime.run.saga import to_undo
from .._storage.sql import rewind, steering
from .._storage.sql.termination import request_termination
from ..errors import InstanceNotFoundError
from .engine import Engine, check_instance_id


def check_request(instance_id: str, reason: object, what: str) -> None:
    """Check what a request to end an instance says.

    Raises:
      InstanceNotFoundError: if no instance can have the id.
      TypeError: if the reason is not text.
    """
    check_instance_id(instance_id)
    if reason is not None and not isinstance(reason, str):
        raise TypeError(f"the reason of a {what} is text, not {reason!r}")


async def cancel(engine: Engine, instance_id: str, reason: str | None) -> bool:
    """Store a request to cancel an instance. Return whether the instance will end as cancelled, or has.

    Raises:
      InstanceNotFoundError: if there is no such instance.
      RomancyError: from an activity with an open session, on a database with one writer.
    """
    check_request(instance_id, reason, "cancellation")
    with engine.apart_from_session("cancel an instance"):
        answer = await engine.write(steering.request_cancel, instance_id, reason, engine.clock.now())
    if answer is None:
        raise InstanceNotFoundError(instance_id)
    return answer.accepted


async def terminate(engine: Engine, instance_id: str, reason: str | None, *, compensate: bool) -> bool:
    """Have an instance ended at once, whatever its code does. Return whether it ends because of this.

    Raises: as of :func:`cancel`.
    """
    check_request(instance_id, reason, "termination")
    now = engine.clock.now()
    request = EndRequest(reason, now, terminates=True, compensates=compensate)
    with engine.apart_from_session("terminate an instance"):
        answer = await engine.write(request_termination, instance_id, request, now, to_undo)
    if answer is None:
        raise InstanceNotFoundError(instance_id)
    engine.tell_change(instance_id)
    if (done := answer.done) is not None:
        log_termination(done)
        engine.tell_end(done)
    return answer.accepted


async def resume(engine: Engine, instance_id: str) -> bool:
    """Make a stuck instance due again. Return whether there was something to resume.

    Raises: as of :func:`cancel`.
    """
    check_instance_id(instance_id)
    with engine.apart_from_session("resume an instance"):
        resumed = await engine.write(steering.resume, instance_id, engine.clock.now())
    if resumed is None:
        raise InstanceNotFoundError(instance_id)
    engine.tell_change(instance_id)
    return resumed


async def retry(engine: Engine, instance_id: str) -> bool:
    """Rewind a failed instance to its first failed operation. Return whether it had failed.

    Raises:
      InstanceNotFoundError: if there is no such instance.
      RomancyError: if the instance cannot be rewound; or from an activity with an open session, as of :func:`cancel`.
    """
    check_instance_id(instance_id)
    with engine.apart_from_session("retry an instance"):
        retried = await engine.write(rewind.rewind, instance_id, engine.clock.now())
    if retried is None:
        raise InstanceNotFoundError(instance_id)
    engine.tell_change(instance_id)
    return retried
