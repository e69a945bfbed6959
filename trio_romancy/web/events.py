"""Parsing of CloudEvents, in the three content modes of the HTTP protocol binding 1.0.2."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from enum import Enum
from typing import Any
from urllib.parse import unquote

from attrs import frozen
from cloudevents.core.base import BaseCloudEvent, EventFactory
from cloudevents.core.bindings import http
from cloudevents.core.exceptions import CloudEventValidationError
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from dateutil.parser import isoparse
from starlette.datastructures import Headers

from .._data.ids import MAX_ID, is_id
from . import strict_json
from .answers import RefusedError

TO = "romancyinstance"
"""Extension attribute with the id of the one instance that receives the event."""

MAX_BATCH = 1_000
"""Most events in one batch."""
MAX_ATTRIBUTES = 64
"""Most attributes of an event."""
MAX_ATTRIBUTE = 8_192
"""Most characters in an attribute that is not an id."""

_REQUIRED = ("specversion", "id", "source", "type")
_IDS = ("id", "source", "type", "subject", TO)
"""Attributes with the rules and the length of an id."""
_OWN = (*_REQUIRED, "subject", "time", TO)
"""Attributes with a field of their own in :class:`Event`; the others are its metadata."""

_FORMAT = "application/cloudevents+json"
_BATCH_FORMAT = "application/cloudevents-batch+json"
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Characters that CloudEvents does not allow in text."""
_ESCAPED = re.compile(r"\\(.)")


class Mode(Enum):
    """Layout of an event in a request."""

    STRUCTURED = "structured"
    """The body is the event."""
    BATCHED = "batched"
    """The body is an array of events."""
    BINARY = "binary"
    """The headers are the attributes of the event, the body is its data."""


@frozen
class Event:
    """A valid event, as far as can be checked without the database."""

    id: str
    source: str
    type: str
    subject: str | None
    time: datetime | None
    """Time of the event, in UTC."""
    to: str | None
    """The one instance that receives it."""
    data: Any
    """JSON data; None if the event has no data. Bytes are text in base64, as trio_romancy stores them."""
    metadata: dict[str, Any]
    """The other attributes."""


def content_mode(headers: Headers) -> Mode:
    """Return the content mode of a request.

    Raises:
      RefusedError: if the headers are those of no content mode.
    """
    given = headers.getlist("content-type")
    if len(given) > 1:
        raise _invalid("there are several Content-Type headers")
    media_type = _media_type(given[0]) if given else ""
    if media_type == _FORMAT:
        return Mode.STRUCTURED
    if media_type == _BATCH_FORMAT:
        return Mode.BATCHED
    if not media_type.startswith("application/cloudevents") and any(name.startswith("ce-") for name in headers):
        return Mode.BINARY
    raise RefusedError(
        415,
        "UnsupportedMediaType",
        f"an event comes as {_FORMAT}, as {_BATCH_FORMAT}, or with headers that begin with ce-",
    )


def read_events(mode: Mode, headers: Headers, body: bytes) -> list[Event]:
    """Return the events in a request.

    Raises:
      RefusedError: if one of them is not valid, or exceeds a limit.
    """
    if mode is Mode.BINARY:
        return [_event(lambda: http.from_binary(http.HTTPMessage(_attribute_headers(headers), body), _json, _checked))]
    if mode is Mode.STRUCTURED:
        return [_event(lambda: http.from_structured(http.HTTPMessage({}, body), _json, _checked))]
    # The library does not support batches.
    raws = _loads(body, "the batch")
    if not isinstance(raws, list):
        raise _invalid("a batch is an array of events")
    if len(raws) > MAX_BATCH:
        raise RefusedError(
            413, "ContentTooLarge", f"a batch may have {MAX_BATCH} events here, this one has {len(raws)}"
        )
    return [_event_at(index, raw) for index, raw in enumerate(raws)]


# -- attributes --------------------------------------------------------------------------------------------------------


def _event_at(index: int, raw: Any) -> Event:
    try:
        return _event(lambda: _json.from_object(raw, _checked))
    except RefusedError as error:
        raise error.at(index) from None


def _event(read: Any) -> Event:
    try:
        event: BaseCloudEvent = read()
        time = event.get_time()
        in_utc = None if time is None else time.astimezone(UTC)
    except CloudEventValidationError as error:
        raise _invalid("; ".join(f"{problem}" for problems in error.errors.values() for problem in problems)) from None
    except (ValueError, OverflowError) as error:  # the time is the only attribute that the library parses
        raise _invalid(f"the attribute 'time' is not a timestamp: {error}") from None
    attributes = event.get_attributes()
    return Event(
        id=event.get_id(),
        source=event.get_source(),
        type=event.get_type(),
        subject=event.get_subject(),
        time=in_utc,
        to=attributes.get(TO),
        data=event.get_data(),
        metadata={name: value for name, value in attributes.items() if name not in _OWN},
    )


def _checked(attributes: dict[str, Any], data: Any) -> CloudEvent:
    """Return an event, after a check of its attributes."""
    attributes = {name: value for name, value in attributes.items() if value is not None}
    if missing := [name for name in _REQUIRED if name not in attributes]:
        raise _invalid(f"the event has no {' and no '.join(missing)}")
    if len(attributes) > MAX_ATTRIBUTES:
        raise _invalid(f"an event may have {MAX_ATTRIBUTES} attributes here, this one has {len(attributes)}")
    for name, value in attributes.items():
        if name in _IDS and not is_id(value):
            raise _invalid(f"the attribute {name!r} must be text of 1 to {MAX_ID} characters")
        if len(name) > MAX_ID or not isinstance(value, (str, int, datetime)):  # bool is an int
            raise _invalid(f"the attribute {name[:MAX_ID]!r} must be text, a whole number, true or false")
        if isinstance(value, str):
            if len(value) > MAX_ATTRIBUTE:
                raise _invalid(f"the attribute {name!r} may have {MAX_ATTRIBUTE} characters, it has {len(value)}")
            if _CONTROL.search(value):
                raise _invalid(f"the attribute {name!r} has a control character in it")
    has_time = "time" in attributes
    event = CloudEvent(attributes, data)
    if not has_time:
        del event.get_attributes()["time"]  # the library has added the current time
    return event


def _attribute_headers(headers: Headers) -> dict[str, str]:
    """Return the headers that describe the event."""
    found: dict[str, str] = {}
    for name, value in headers.items():
        if name.startswith("ce-"):
            if name in found:
                raise _invalid(f"there are several {name} headers")
            found[name] = _unquoted(name, value)
        elif name == "content-type" and value:
            found[name] = value
    if "ce-datacontenttype" in found:
        raise _invalid("the type of the data belongs in the header Content-Type, not in ce-datacontenttype")
    return found


def _unquoted(name: str, value: str) -> str:
    """Return the value of a header without quotes around it. The library decodes percent signs."""
    if _QUOTED.fullmatch(value):
        value = _ESCAPED.sub(r"\1", value[1:-1])
    try:
        unquote(value, errors="strict")
    except UnicodeDecodeError:
        value = "\xff"
    if not value.isascii():
        raise _invalid(f"the header {name} must be ASCII; other characters are UTF-8 with percent signs")
    return value


# -- data --------------------------------------------------------------------------------------------------------------


class _StrictFormat(JSONFormat):
    """The JSON format of the library, but strict: the library turns invalid values into other values."""

    def read(self, event_factory: EventFactory | None, data: str | bytes) -> BaseCloudEvent:
        assert event_factory is not None and isinstance(data, bytes)
        return self.from_object(_loads(data, "the event"), event_factory)

    def from_object(self, raw: Any, event_factory: EventFactory) -> BaseCloudEvent:
        if not isinstance(raw, dict):
            raise _invalid("an event is a JSON object")
        attributes = {name: value for name, value in raw.items() if name not in ("data", "data_base64")}
        if isinstance(attributes.get("time"), str):
            attributes["time"] = isoparse(attributes["time"])
        if raw.get("data_base64") is None:
            return event_factory(attributes, raw.get("data"))
        if "data" in raw:
            raise _invalid("an event has data or data_base64, not both")
        content = _from_base64(raw["data_base64"])
        if isinstance(content_type := attributes.get("datacontenttype"), str):
            return event_factory(attributes, self.read_data(content, content_type))
        return event_factory(attributes, _as_text(content))

    def read_data(self, body: bytes, datacontenttype: str | None) -> Any:
        if not body:
            return None
        media_type = _media_type(datacontenttype or "application/json")
        if _is_of(media_type, "json"):
            return _loads(body, "the data")
        if media_type.startswith("text/") or _is_of(media_type, "xml"):
            return _text(body, datacontenttype or "")
        return _as_text(body)


_json = _StrictFormat()


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _is_of(media_type: str, syntax: str) -> bool:
    return media_type.endswith((f"/{syntax}", f"+{syntax}"))


def _loads(body: bytes, what: str) -> Any:
    try:
        return strict_json.loads(body)
    except ValueError as error:
        raise _invalid(f"{what} cannot be read: {error}") from None


def _text(body: bytes, content_type: str) -> str:
    charset = re.search(r';\s*charset\s*=\s*"?([^\s";]*)', content_type, re.IGNORECASE)
    if charset is not None and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        raise RefusedError(415, "UnsupportedMediaType", "text must be UTF-8")
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise _invalid(f"the data is not text in UTF-8: {error}") from None


def _from_base64(value: Any) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (ValueError, TypeError):
        raise _invalid("data_base64 is not base64") from None


def _as_text(content: bytes) -> str:
    """Return bytes as trio_romancy stores them."""
    return base64.b64encode(content).decode("ascii")


def _invalid(message: str) -> RefusedError:
    return RefusedError(400, "InvalidEvent", message)
