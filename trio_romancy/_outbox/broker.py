"""The broker that the events of the outbox go to: posts one event, and judges the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from functools import cache
from ssl import SSLContext
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import trio
from attrs import define, field, frozen

from .._data.codec import loads
from .._settings import ContentMode, shown_broker_url
from .._storage.sql.outbox_claims import Claimed
from ..clock import hold_virtual_time, to_datetime
from ..errors import RomancyError

if TYPE_CHECKING:
    import httpx

_LARGEST_BODY = 64 * 1024
"""Most bytes of an answer that are read, so that its connection can be used again."""
_LONGEST_EXCERPT = 300
"""Most characters of an answer, and of a failure, that are stored."""
_BODY_WITHIN = 2.0
"""Seconds for the body of an answer once its status is known."""
_AGAIN = frozenset({408, 425, 429})
"""Statuses after which another attempt may succeed, besides all of 5xx."""


class Verdict(Enum):
    """Meaning of the broker's answer for an event."""

    TAKEN = "taken"
    LATER = "later"
    """Another attempt may succeed."""
    NEVER = "never"
    """No further attempt can succeed."""


@frozen
class Answer:
    """Result of one POST."""

    verdict: Verdict
    why: str | None = None
    """Reason why the event was not taken."""
    retry_after: float | None = None
    """Seconds that the broker wants to wait; None: it does not say."""


def require_web() -> None:
    """Check that the packages for posting events are installed.

    Raises:
      RomancyError: if one is missing, naming what to install.
    """
    try:
        import cloudevents.core.bindings.http  # noqa: F401
        import httpx  # noqa: F401
    except ImportError as error:
        raise RomancyError(
            f"broker_url needs httpx and cloudevents, version 2 or newer ({error}): pip install 'trio_romancy[web]'"
        ) from error


@asynccontextmanager
async def open_broker(
    url: str, *, headers: Mapping[str, str], content_mode: ContentMode, timeout: float, concurrency: int
) -> AsyncIterator[Broker]:
    """Open the broker at a URL. Its connections are kept open until the block ends.

    Args:
      url: the URL to post to; user and password in it are sent as basic authentication.
      headers: headers of each request.
      content_mode: how an event is put into a request.
      timeout: time limit of one POST as a whole, in seconds.
      concurrency: most connections.
    """
    import httpx

    parts = urlsplit(url)
    auth = None
    if parts.username is not None:
        # Without user and password, because httpx logs the URL of each request.
        auth = httpx.BasicAuth(unquote(parts.username), unquote(parts.password or ""))
        parts = parts._replace(netloc=parts.netloc.rpartition("@")[2])
    client = httpx.AsyncClient(
        auth=auth,
        verify=_tls(),
        timeout=timeout,
        follow_redirects=False,
        limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
        # Uncompressed, because only an excerpt of the answer is read.
        headers={"user-agent": "trio_romancy", "accept-encoding": "identity", **headers},
    )
    async with client:
        yield Broker(client, parts.geturl(), content_mode, timeout)


@cache
def _tls() -> SSLContext:
    """Return a TLS context. It is made once, because reading all certificates takes a while."""
    import httpx

    return httpx.create_ssl_context()


@define(eq=False)
class Broker:
    """A broker that takes CloudEvents over HTTP."""

    _client: httpx.AsyncClient = field(repr=False)
    _url: str
    _content_mode: ContentMode
    _timeout: float

    async def post(self, event: Claimed) -> Answer:
        """Post an event once, within the timeout. Every failure is an answer; no exception but a cancellation leaves.

        If the call is cancelled, the broker may or may not have the event. A virtual clock stands still meanwhile, and
        the timeout with it, because the network works in real time.
        """
        try:
            headers, body = _request(event, self._content_mode)
        except Exception as error:
            return Answer(Verdict.NEVER, f"it cannot be sent as a CloudEvent: {_excerpt(str(error))}")
        answer = None
        try:
            with hold_virtual_time(), trio.move_on_after(self._timeout):
                request = self._client.stream("POST", self._url, content=body, headers=headers)
                async with request as response:
                    answer = _judge(response)  # it counts even if the body does not arrive
                    answer = await _explain(answer, response)
        except Exception as error:
            if answer is None:
                answer = Answer(Verdict.LATER, _excerpt(f"{type(error).__name__}: {error}".removesuffix(": ")))
        return answer or Answer(Verdict.LATER, f"no answer within {self._timeout:g} s")


def _request(event: Claimed, mode: ContentMode) -> tuple[dict[str, str], bytes]:
    from cloudevents.core.bindings import http
    from cloudevents.core.v1.event import CloudEvent

    attributes = {
        "id": event.event_id,
        "source": event.source,
        "type": event.type,
        "time": to_datetime(event.time),
        "datacontenttype": "application/json",
    }
    if event.subject:  # an empty subject means none: CloudEvents has no empty ones
        attributes["subject"] = event.subject
    if mode == "binary":
        # As bytes, because the library encodes data that are no object in its own way.
        message = http.to_binary_event(CloudEvent(attributes, event.data.encode()))
    else:
        message = http.to_structured_event(CloudEvent(attributes, loads(event.data)))
    return message.headers, message.body


def _judge(response: httpx.Response) -> Answer:
    status = response.status_code
    if 200 <= status < 300:
        return Answer(Verdict.TAKEN)
    why = f"the broker answered {status} {response.reason_phrase}".rstrip()
    if status in _AGAIN or status >= 500:
        return Answer(Verdict.LATER, why, _retry_after(response.headers))
    if 300 <= status < 400:
        where = shown_broker_url(response.headers.get("location", "nowhere"))
        return Answer(Verdict.NEVER, f"{why}, a redirect to {where}; set broker_url to where the broker is")
    return Answer(Verdict.NEVER, why)


async def _explain(answer: Answer, response: httpx.Response) -> Answer:
    """Return the answer with an excerpt of its body."""
    body = b""
    with trio.move_on_after(_BODY_WITHIN):
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > _LARGEST_BODY:
                break
    said = _excerpt(" ".join(body[: 4 * _LONGEST_EXCERPT].decode("utf-8", "replace").split()))
    if answer.why is None or not said:
        return answer
    return Answer(answer.verdict, f"{answer.why}: {said}", answer.retry_after)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a ``Retry-After`` header, which holds a number of seconds or a date."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdecimal():
        return float(value[:12])
    until = _date(value)
    # Measured by the broker's own clock, if the answer has a date.
    now = _date(headers.get("date", "")) or datetime.now(UTC)
    return None if until is None else max((until - now).total_seconds(), 0.0)


def _date(value: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)


def _excerpt(text: str) -> str:
    return text if len(text) <= _LONGEST_EXCERPT else f"{text[:_LONGEST_EXCERPT]}..."
