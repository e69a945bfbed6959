"""What users send: events and messages are checked and turned into rows, and inputs are checked."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from typing import Any

from .._data.codec import codec
from .._data.ids import checked_id
from ..clock import Microseconds, from_datetime
from ..errors import DataProblem, InvalidDataError, InvalidInputError, PayloadTooLargeError
from .sql.messages import new_message
from .sql.rows import MessageRow

DEFAULT_SOURCE = "trio_romancy"
"""The source of events that are sent without one."""


def event_row(
    type: str,
    data: object,
    *,
    source: str,
    id: str,
    subject: str | None,
    to: str | None,
    time: datetime | None,
    metadata: Mapping[str, Any] | None,
    now: Microseconds,
    max_payload: int,
    is_json: bool = False,
) -> MessageRow:
    """Return the row of an event.

    Args:
      to: the instance that the event is for; None for any.
      time: when the event happened, as an aware datetime.
      max_payload: the most bytes of JSON in data and metadata.
      is_json: whether the data were read from JSON text.

    Raises:
      InvalidInputError: if the event is not valid. It has all problems.
      PayloadTooLargeError: if data and metadata are larger than ``max_payload``.
    """
    what = "the event cannot be sent"
    problems = _problems(type=type, source=source, id=id)
    if subject is not None:
        problems += _problems(subject=subject)
    if to is not None:
        problems += _problems(to=to)
    event_time = None
    if time is not None:
        try:
            event_time = from_datetime(time)
        except (AttributeError, TypeError, ValueError) as error:
            problems.append(DataProblem("$.time", str(error)))
    texts = _texts(what, data, metadata, max_payload, problems, is_json=is_json)
    return new_message(
        type,
        texts[0],
        now,
        addressee=to,
        subject=subject,
        source=source,
        event_id=id,
        event_time=event_time,
        metadata=texts[1],
    )


def message_row(
    channel: str,
    data: object,
    *,
    metadata: Mapping[str, Any] | None,
    to: str | None,
    now: Microseconds,
    max_payload: int,
    sender: str | None = None,
    id: str | None = None,
) -> MessageRow:
    """Return the row of a message on a channel.

    Args:
      to: the instance that the message is for; None for any.
      max_payload: the most bytes of JSON in data and metadata.
      id: a unique id if the message may be stored twice, so that the second is found to be a duplicate.

    Raises:
      InvalidInputError: if the message is not valid. It has all problems.
      PayloadTooLargeError: if data and metadata are larger than ``max_payload``.
    """
    what = "the message cannot be sent"
    problems = _problems(channel=channel)
    if to is not None:
        problems += _problems(to=to)
    texts = _texts(what, data, metadata, max_payload, problems)
    return new_message(channel, texts[0], now, addressee=to, event_id=id, sender=sender, metadata=texts[1])


def check_input(workflow: str, text: str, max_payload: int) -> None:
    """Raise :exc:`PayloadTooLargeError` if the JSON text of an input is larger than it may be."""
    if len(text) > max_payload:
        raise PayloadTooLargeError(
            f"the input of workflow {workflow!r} is {len(text)} bytes of JSON, and max_payload is {max_payload}; "
            f"store it elsewhere and pass a reference"
        )


def check_names(what: str, **names: object) -> None:
    """Raise :class:`InvalidInputError` if one of these is not a valid name. The error begins with ``what``."""
    if problems := _problems(**names):
        raise InvalidInputError(what, problems)


def _problems(**names: object) -> list[DataProblem]:
    problems = []
    for name, value in names.items():
        try:
            checked_id(value, f"its {name}")
        except ValueError as error:
            problems.append(DataProblem(f"$.{name}", str(error)))
    return problems


def _texts(
    what: str,
    data: object,
    metadata: Mapping[str, Any] | None,
    max_payload: int,
    problems: list[DataProblem],
    *,
    is_json: bool = False,
) -> tuple[str, str | None]:
    text, metadata_text = "null", None
    try:
        text = codec(Any).encode_json(data)[0] if is_json else to_json(data)
    except InvalidDataError as error:
        problems += [DataProblem(f"$.data{problem.path[1:]}", problem.message) for problem in error.problems]
    if metadata is not None:
        try:
            if not isinstance(metadata, Mapping):
                raise InvalidDataError(what, [DataProblem("$", f"expected a mapping, got {metadata!r}")])
            metadata_text = to_json(dict(metadata))
        except InvalidDataError as error:
            problems += [DataProblem(f"$.metadata{problem.path[1:]}", problem.message) for problem in error.problems]
    if problems:
        raise InvalidInputError(what, problems)
    size = len(text) + len(metadata_text or "")
    if size > max_payload:
        raise PayloadTooLargeError(
            f"{what}: its data are {size} bytes of JSON, and max_payload is {max_payload}; store them elsewhere and "
            f"send a reference"
        )
    return text, metadata_text


def to_json(value: object) -> str:
    """Return a value as JSON text: plain JSON data, or one value of a type that can be stored.

    Raises:
      InvalidDataError: if the value cannot be stored. It has all problems.
    """
    if value is None or (isinstance(value, (bool, int, float, str, list, dict)) and not isinstance(value, Enum)):
        return codec(Any).encode(value)[0]
    try:
        kind = codec(type(value))
    except TypeError as error:
        raise InvalidDataError("this value cannot be stored", [DataProblem("$", str(error))]) from None
    return kind.encode(value)[0]
