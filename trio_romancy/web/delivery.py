"""Events from outside into the app: all of a request, or none if one of them is bad."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from attrs import frozen

from .._data.codec import dumps
from .._definitions.registry import registry
from .._definitions.values import Workflow
from .._storage.outgoing import event_row
from ..errors import (
    DatabaseError,
    InstanceExistsError,
    InstanceNotFoundError,
    InvalidDataError,
    PayloadTooLargeError,
    RomancyError,
)
from .answers import RefusedError, unavailable
from .events import Event

if TYPE_CHECKING:
    from ..app import App

_logger = logging.getLogger("trio_romancy.web")


@frozen
class Delivered:
    """What became of an event. It is durable."""

    event_id: str
    instance_id: str | None
    """The instance that it has started, now or when it first came; None: it starts none."""
    waiting: int
    """How many instances waited for it."""
    duplicate: bool
    """Whether it had come before, so that it was dropped."""


async def deliver(
    app: App, max_payload: int, events: Sequence[Event], *, is_batch: bool, on_progress: Callable[[], None]
) -> list[Delivered]:
    """Send the events, in order, and start the workflows that they are for. Durable when it returns.

    If it is cancelled or the process dies, a part may have been done. The same events can be delivered again: what was
    done is not done twice, and the rest is done then.

    Args:
      max_payload: bytes of JSON that the data of an event may have.
      on_progress: called when something has become durable.

    Raises:
      RefusedError: if one of them cannot be delivered; then none is.
    """
    workflows = []
    for index, event in enumerate(events):
        with refusals(index if is_batch else None):
            workflows.append(_check(event, max_payload))
            # Who sends it asks too, but by then the events before it have been sent.
            if is_batch and event.to is not None and await app.get_instance(event.to) is None:
                raise InstanceNotFoundError(event.to)
    delivered = []
    for index, (event, workflow) in enumerate(zip(events, workflows, strict=True)):
        with refusals(index if is_batch else None):
            delivered.append(await _deliver(app, event, workflow))
        on_progress()
    return delivered


def _check(event: Event, max_payload: int) -> Workflow[..., Any] | None:
    """Refuse what the app would refuse. Returns the workflow that the event starts."""
    event_row(event.type, event.data, id=event.id, **_options(event), now=0, max_payload=max_payload)
    workflow = registry.find_workflow(event.type)
    if workflow is None or not workflow.event_handler or event.to is not None:
        return None
    text, _ = workflow.input.check(_input(event))
    if len(text) > max_payload:
        raise PayloadTooLargeError(
            f"the input of workflow {workflow.name!r} is {len(text)} bytes of JSON, and max_payload is {max_payload}"
        )
    return workflow


def _options(event: Event) -> dict[str, Any]:
    return {
        "source": event.source,
        "subject": event.subject,
        "to": event.to,
        "time": event.time,
        "metadata": event.metadata or None,
    }


async def _deliver(app: App, event: Event, workflow: Workflow[..., Any] | None) -> Delivered:
    # First to those who wait for it, then to the new instance, which would receive it otherwise.
    sent = await app.send_event(event.type, event.data, id=event.id, **_options(event))
    if workflow is None:
        return Delivered(event.id, None, sent.waiting, sent.is_duplicate)
    # Also for a duplicate: whoever sent it first may have died before this.
    instance_id = _instance_id(event)
    try:
        await app.start(workflow.name, _input(event), id=instance_id)
    except InstanceExistsError:  # it came before, with other data
        return Delivered(event.id, instance_id, sent.waiting, duplicate=True)
    return Delivered(event.id, instance_id, sent.waiting, sent.is_duplicate)


def _input(event: Event) -> Any:
    return {} if event.data is None else event.data


def _instance_id(event: Event) -> str:
    """Of the one instance that an event starts, however often it comes."""
    identity = dumps([event.source, event.id])
    return f"event-{hashlib.sha256(identity.encode()).hexdigest()}"


@contextmanager
def refusals(index: int | None = None, *, not_found: int = 400) -> Iterator[None]:
    """Turn what the app says into the answer that it means over HTTP.

    Args:
      index: of the event in its batch.
      not_found: the status that it means if there is no such instance.
    """
    try:
        yield
    except RomancyError as error:
        refused = _refused(error, not_found)
        raise (refused if index is None else refused.at(index)) from error


def _refused(error: RomancyError, not_found: int) -> RefusedError:
    kind = type(error).__name__
    if isinstance(error, InvalidDataError):
        return RefusedError(400, kind, str(error))
    if isinstance(error, PayloadTooLargeError):
        return RefusedError(413, kind, str(error))
    if isinstance(error, InstanceNotFoundError):
        return RefusedError(not_found, kind, str(error))
    if isinstance(error, DatabaseError):
        # Where the database is, and why it does not work, is not for everybody.
        _logger.error("an HTTP request cannot be served: %s", error)
        return unavailable("the database cannot be used; the log says why")
    return unavailable(str(error))  # the app is not running
