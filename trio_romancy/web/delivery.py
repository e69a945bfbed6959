"""Delivery of the events of a request: all of them, or none if one is refused."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from attrs import field, frozen

from .._client.client import Client
from .._data.codec import dumps
from .._definitions.registry import registry
from .._definitions.values import Workflow
from .._storage.outgoing import check_input, event_row
from .._storage.sql.rows import MessageRow
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


@frozen
class Prepared:
    """A valid event, ready to be stored. It is encoded once, however large it is."""

    event: Event
    row: MessageRow
    workflow: Workflow[..., Any] | None
    """Workflow that it starts, with the id of the instance; None if it starts none."""
    input_text: str = ""
    arguments: list[Any] = field(factory=list)


def prepare(events: Sequence[Event], max_payload: int, *, is_batch: bool) -> list[Prepared]:
    """Check the events and encode them. May be called in a thread.

    Args:
      max_payload: the most bytes of JSON in the data of an event.
      is_batch: whether an error names the position of its event.

    Raises:
      RefusedError: if one of the events is refused.
    """
    prepared = []
    for index, event in enumerate(events):
        with refusals(index if is_batch else None):
            prepared.append(_prepare(event, max_payload))
    return prepared


def _prepare(event: Event, max_payload: int) -> Prepared:
    row = event_row(
        event.type,
        event.data,
        source=event.source,
        id=event.id,
        subject=event.subject,
        to=event.to,
        time=event.time,
        metadata=event.metadata or None,
        now=0,
        max_payload=max_payload,
        is_json=True,
    )
    workflow = registry.find_workflow(event.type)
    if workflow is None or not workflow.event_handler or event.to is not None:
        return Prepared(event, row, None)
    text, arguments = workflow.input.check(_input(event), is_json=True)
    check_input(workflow.name, text, max_payload)
    return Prepared(event, row, workflow.options(id=_instance_id(event)), text, arguments)


async def deliver(
    client: Client, prepared: Sequence[Prepared], *, is_batch: bool, on_progress: Callable[[], None]
) -> list[Delivered]:
    """Send the events in order, and start the workflows of events that have one. All is durable when it returns.

    After a cancellation or the death of the process, some of the events may have been delivered. A second delivery of
    the same events delivers the rest, and repeats nothing.

    Args:
      is_batch: whether an error names the position of its event.
      on_progress: called after each event.

    Raises:
      RefusedError: if one of the events is refused. Then none was delivered.
    """
    for index, one in enumerate(prepared):
        # The journal checks this too, but only after the events before this one have been sent.
        if is_batch and (to := one.event.to) is not None:
            with refusals(index):
                if await client.get_instance(to) is None:
                    raise InstanceNotFoundError(to)
    delivered = []
    for index, one in enumerate(prepared):
        with refusals(index if is_batch else None):
            delivered.append(await _deliver(client, one))
        on_progress()
    return delivered


async def _deliver(client: Client, prepared: Prepared) -> Delivered:
    id, workflow = prepared.event.id, prepared.workflow
    # The event is sent before its instance is started. Otherwise the new instance could receive it, too.
    sent = await client.send_prepared(prepared.row)
    if workflow is None:
        return Delivered(id, None, sent.waiting, sent.is_duplicate)
    # Also for a duplicate: the process that accepted it first may have died before it started the instance.
    try:
        await client.start_prepared(workflow, prepared.input_text, prepared.arguments)
    except InstanceExistsError:  # the event came before, with other data
        return Delivered(id, workflow.id, sent.waiting, duplicate=True)
    return Delivered(id, workflow.id, sent.waiting, sent.is_duplicate)


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
