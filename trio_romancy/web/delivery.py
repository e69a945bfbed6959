"""Delivery of the events of a request: all of them, or none if one is refused."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from attrs import frozen

from .._client.client import Client
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

_logger = logging.getLogger("trio_romancy.web")


@frozen
class Delivered:
    """Result of one event, which is durable."""

    event_id: str
    instance_id: str | None
    """Instance that the event started, now or when it first came; None if it starts none."""
    waiting: int
    """Number of instances that waited for it."""
    duplicate: bool
    """Whether it had come before. It was then dropped."""


async def deliver(
    client: Client, max_payload: int, events: Sequence[Event], *, is_batch: bool, on_progress: Callable[[], None]
) -> list[Delivered]:
    """Send the events in order, and start the workflows of events that have one. All is durable when it returns.

    After a cancellation or the death of the process, some of the events may have been delivered. A second delivery of
    the same events delivers the rest, and repeats nothing.

    Args:
      max_payload: the most bytes of JSON in the data of an event.
      is_batch: whether an error names the position of its event.
      on_progress: called after each event.

    Raises:
      RefusedError: if one of the events is refused. Then none was delivered.
    """
    workflows = []
    for index, event in enumerate(events):
        with refusals(index if is_batch else None):
            workflows.append(_check(event, max_payload))
            # send_event checks this too, but only after the events before this one have been sent.
            if is_batch and event.to is not None and await client.get_instance(event.to) is None:
                raise InstanceNotFoundError(event.to)
    delivered = []
    for index, (event, workflow) in enumerate(zip(events, workflows, strict=True)):
        with refusals(index if is_batch else None):
            delivered.append(await _deliver(client, event, workflow))
        on_progress()
    return delivered


def _check(event: Event, max_payload: int) -> Workflow[..., Any] | None:
    """Raise what the client would raise for this event. Returns the workflow that it starts; None if it starts none."""
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


async def _deliver(client: Client, event: Event, workflow: Workflow[..., Any] | None) -> Delivered:
    # The event is sent before its instance is started. Otherwise the new instance could receive it, too.
    sent = await client.send_event(event.type, event.data, id=event.id, **_options(event))
    if workflow is None:
        return Delivered(event.id, None, sent.waiting, sent.is_duplicate)
    # Also for a duplicate: the process that accepted it first may have died before it started the instance.
    instance_id = _instance_id(event)
    try:
        await client.start(workflow.name, _input(event), id=instance_id)
    except InstanceExistsError:  # the event came before, with other data
        return Delivered(event.id, instance_id, sent.waiting, duplicate=True)
    return Delivered(event.id, instance_id, sent.waiting, sent.is_duplicate)


def _input(event: Event) -> Any:
    return {} if event.data is None else event.data


def _instance_id(event: Event) -> str:
    """Return the id of the instance that an event starts, the same each time that it comes."""
    identity = dumps([event.source, event.id])
    return f"event-{hashlib.sha256(identity.encode()).hexdigest()}"


@contextmanager
def refusals(index: int | None = None, *, not_found: int = 400) -> Iterator[None]:
    """Turn a :class:`RomancyError` raised inside the block into a :class:`RefusedError`.

    Args:
      index: position of the event in its batch; None if there is no batch.
      not_found: the HTTP status for an instance that does not exist.
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
        # The message names the database and its fault. It belongs in the log, not in the answer.
        _logger.error("an HTTP request cannot be served: %s", error)
        return unavailable("the database cannot be used; the log says why")
    return unavailable(str(error))  # the app is not open
