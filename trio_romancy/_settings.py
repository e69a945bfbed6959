"""Options of an app: the settings that its parts are given, and the checks of what users pass."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any, Literal, TypeVar, get_args
from urllib.parse import SplitResult, urlsplit

from attrs import field, frozen

from .clock import Duration, Microseconds, microseconds
from .model import Status
from .retry import RetryPolicy

T = TypeVar("T")

ContentMode = Literal["structured", "binary"]
"""Form of an event in a request: all of it as JSON in the body, or its attributes as headers ``ce-...``."""

LEAVE_WITHIN = 1.5
"""Seconds that the database may take, once a worker or a relayer has stopped, to record what it gives back."""
RELAY_GRACE = 5.0
"""Seconds for events that are being sent when the relayer is stopped."""

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")


# -- checks of options and arguments -----------------------------------------------------------------------------------


def checked_token(token: str) -> bytes:
    """Return a bearer token as clients send it.

    Raises:
      ValueError: if a header cannot carry it unchanged and uncut. The message does not show it.
    """
    if not isinstance(token, str) or not token or not all("!" <= character <= "~" for character in token):
        raise ValueError("token is a string of ASCII characters without spaces, and not empty")
    return token.encode("ascii")


def checked_origins(origins: Collection[str]) -> frozenset[str]:
    """Return the names of webhook senders in lower case.

    Raises:
      TypeError, ValueError: if they are not names that a header can carry.
    """
    if isinstance(origins, str) or not isinstance(origins, Collection):
        raise TypeError(f"webhook_origins is a collection of names, not {origins!r}")
    for origin in origins:
        if not isinstance(origin, str) or not origin or not all("!" <= character <= "~" for character in origin):
            raise ValueError(f"a name in webhook_origins is an ASCII string without spaces, not {origin!r}")
    return frozenset(origin.lower() for origin in origins)


def checked_duration(name: str, value: Duration, *, least: int) -> Microseconds:
    """Return a duration in microseconds.

    Args:
      name: name of the option, for the message.
      value: seconds, or a timedelta.
      least: the shortest duration allowed, in microseconds: 0 or 1.

    Raises:
      ValueError: if it is not a duration, too short, too long to be stored, or endless.
    """
    limit = checked_limit(name, value, least=least)
    if limit is None:
        raise ValueError(f"{name} is a duration with an end, not {value!r}")
    return limit


def checked_limit(name: str, value: Duration, *, least: int) -> Microseconds | None:
    """Return a duration in microseconds; None if it is endless.

    Args:
      name: name of the option, for the message.
      value: seconds, or a timedelta.
      least: the shortest duration allowed, in microseconds: 0 or 1.

    Raises:
      ValueError: if it is not a duration, too short, or too long to be stored.
    """
    try:
        duration = microseconds(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if duration is not None and duration < least:
        than = "longer than" if least else "at least"
        raise ValueError(f"{name} is a number of seconds (or a timedelta) {than} zero, not {value!r}")
    return duration


def in_seconds(duration: Microseconds | None) -> float:
    """Return a limit in seconds; ``math.inf`` for none."""
    return math.inf if duration is None else duration / 1_000_000


MAX_PAYLOAD = 256 * 1024 * 1024
"""Largest ``max_payload``, in bytes. No database takes a statement of more than four times as much."""


def check_numbers(*, least: int = 1, most: int | None = None, **numbers: int) -> None:
    """Check options that are whole numbers.

    Raises:
      ValueError: naming the first one that is not a whole number, below ``least``, or above ``most``.
    """
    for name, number in numbers.items():
        if not isinstance(number, int) or number < least:
            raise ValueError(f"{name} is a whole number, at least {least}, not {number!r}")
        if most is not None and number > most:
            raise ValueError(f"{name} is at most {most}, not {number!r}")


def as_statuses(status: Status | Collection[Status] | None) -> list[Status]:
    """Return one status, several, or no status as a list.

    Raises:
      ValueError: if a member is not a status.
    """
    given = () if status is None else (status,) if isinstance(status, str) else status
    return [Status(each) for each in given]


def checked_broker_url(url: Any) -> str:
    """Return the URL of a broker.

    Raises:
      ValueError: if it is not one of HTTP. The message does not show a password.
    """
    with suppress(ValueError):
        parts = urlsplit(url) if isinstance(url, str) else SplitResult("", "", "", "", "")
        is_clean = isinstance(url, str) and url.isascii() and not re.search(r"[\x00-\x20\x7f]", url)
        if is_clean and parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            checked: str = url
            return checked
    raise ValueError(
        f"broker_url is the URL that events are posted to, such as https://user:password@broker.example.org/events, "
        f"not {shown_broker_url(url)}"
    )


def shown_broker_url(url: Any) -> str:
    """Return the URL as it may be shown: without user, password, query and fragment."""
    if not isinstance(url, str):
        return repr(url)
    with suppress(ValueError):
        parts = urlsplit(url)
        if "@" in parts.path:  # the user and the password, after a missing slash
            return "what was given"
        return repr(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl())
    return "what was given"


def checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers for the broker, with their names in lower case.

    Raises:
      ValueError: naming a header that cannot be sent. The message does not show its value.
    """
    checked: dict[str, str] = {}
    if not isinstance(headers, Mapping):
        raise ValueError("headers is a mapping of header names to their values")
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name) or name.lower().startswith("ce-"):
            raise ValueError(f"headers: {name!r} is not the name of a header that can be set")
        if not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
            raise ValueError(f"headers: the value of {name!r} is not a line of ASCII text")
        checked[name.lower()] = value
    return checked


def checked_content_mode(mode: ContentMode) -> ContentMode:
    """Return a content mode.

    Raises:
      ValueError: if there is no such mode.
    """
    if mode not in get_args(ContentMode):
        raise ValueError(f'content_mode is "structured" or "binary", not {mode!r}')
    return mode


# -- groups of options -------------------------------------------------------------------------------------------------


def _checked_age(age: Duration | None) -> float | None:
    limit = None if age is None else checked_limit("max_age", age, least=1)
    return None if limit is None else limit / 1_000_000


@frozen(kw_only=True)
class Limits:
    """Limits of an :class:`App` that most programs leave as they are: ``App(limits=Limits(threads=100))``.

    Raises:
      ValueError: if a limit is not valid.
    """

    threads: int = 40
    """Most threads in which plain ``def`` activities run at once. Further ones wait for a free thread. A thread cannot
    be stopped, and counts until it has ended, also if its activity has exceeded its timeout."""
    max_payload: int = 4 * 1024 * 1024
    """Largest input, result or message, in bytes of JSON, at most 256 MiB. On MariaDB and MySQL, ``max_allowed_packet``
    of the server must be four times as much."""
    max_recoveries: int = 3
    """Most deaths of its worker that an instance may outlive without progress in between. After one more it is parked
    as stuck, because it probably takes the process down."""

    def __attrs_post_init__(self) -> None:
        check_numbers(threads=self.threads)
        check_numbers(most=MAX_PAYLOAD, max_payload=self.max_payload)
        check_numbers(least=0, max_recoveries=self.max_recoveries)


@frozen(kw_only=True)
class OutboxSettings:
    """How a worker posts the events of the :attr:`~App.outbox` to the broker: ``App(outbox=OutboxSettings(...))``.

    Raises:
      ValueError: if a setting is not valid.
    """

    headers: Mapping[str, str] = field(factory=dict, converter=checked_headers, repr=False)
    """Headers that are sent with each event, such as ``Authorization``."""
    content_mode: ContentMode = field(default="structured", converter=checked_content_mode)
    """``"structured"`` posts an event as one JSON object, ``"binary"`` its data in the body and its attributes in
    headers."""
    max_attempts: int = 100
    """Number of attempts to post an event after which it has failed; 0: no limit."""
    max_age: float | None = field(default=None, converter=_checked_age)
    """Seconds (or a timedelta) after which an event that could not be posted has expired; None: no limit."""

    def __attrs_post_init__(self) -> None:
        check_numbers(least=0, max_attempts=self.max_attempts)


def _checked_web_timeout(timeout: Duration) -> float:
    return in_seconds(checked_limit("timeout", timeout, least=1))


def _checked_body_timeout(timeout: Duration) -> float:
    return in_seconds(checked_limit("body_timeout", timeout, least=1))


@frozen(kw_only=True)
class WebSettings:
    """What clients of :attr:`App.asgi` must present and may send: ``App(web=WebSettings(token=...))``.

    Raises:
      ValueError: if a setting is not valid.
    """

    token: str | None = field(default=None, repr=False)
    """Token that clients must present, as ``Authorization: Bearer ...``, for all requests but those for its health.
    Without a token it takes events from every client, and cancels nothing."""
    body_limit: int | None = None
    """Largest body of a request, in bytes; None: ``max_payload`` and 64 KiB."""
    body_timeout: float = field(default=60.0, converter=_checked_body_timeout)
    """Seconds (or a timedelta) that the body of a request may take to arrive."""
    timeout: float = field(default=5.0, converter=_checked_web_timeout)
    """Seconds (or a timedelta) that the database may be away before clients are told to try again."""
    webhook_origins: frozenset[str] = field(default=frozenset(), converter=checked_origins)
    """Names of senders, such as ``"eventgrid.example.com"``, or ``"*"`` for all of them, that are allowed to deliver in
    the handshake of CloudEvents webhooks. If there are none, there is no handshake."""

    def __attrs_post_init__(self) -> None:
        if self.token is not None:
            checked_token(self.token)
        if self.body_limit is not None:
            check_numbers(body_limit=self.body_limit)


def checked_group(name: str, group: T | None, kind: type[T]) -> T:
    """Return a group of options; its defaults if none is given.

    Raises:
      TypeError: if it is something else.
    """
    if group is not None and not isinstance(group, kind):
        raise TypeError(f"{name} is made with {kind.__name__}(...), and not {type(group).__name__}")
    return kind() if group is None else group


# -- settings ----------------------------------------------------------------------------------------------------------


@frozen
class Settings:
    """Settings that all actors of a worker share."""

    retry: RetryPolicy
    """Retry policy of activities and compensations that have none."""
    max_payload: int
    """Largest input, result or message, in bytes of JSON."""
    idle_timeout: float
    """Microseconds that an instance must have waited before it leaves memory; infinite: it stays."""
    lease_time: Microseconds
    """Time for which a lease holds after its last renewal."""
    code_version: str | None = None
    """Version of the workflow code; None: as :func:`.code_version` makes it."""
    check_arguments: bool = False
    """Whether a replay compares the arguments of recorded calls."""


@frozen
class WorkerLimits:
    """Limits on the work of one worker."""

    max_running: int
    """Most instances in memory that do not just wait."""
    max_resident: int
    """Most instances in memory."""
    max_recoveries: int
    """Most deaths of its worker that an instance may outlive without progress in between."""
    shutdown_timeout: float
    """Seconds that running activities have to finish when the worker stops; may be infinite."""
    threads: int
    """Most threads for plain ``def`` activities."""


@frozen(kw_only=True)
class RelaySettings(OutboxSettings):
    """The broker that the relayer sends events to, and the limits and delays of its attempts."""

    broker_url: str = field(converter=checked_broker_url, repr=shown_broker_url)
    """The URL to post to; user and password in it are sent as basic authentication."""
    first_delay: float = 1.0
    """Seconds before the second attempt; each further delay is twice as long."""
    longest_delay: float = 300.0
    """Longest delay between two attempts, in seconds, unless the broker asks for more."""
    longest_retry_after: float = 3600.0
    """Longest delay that the broker can ask for, in seconds."""
    timeout: float = 10.0
    """Time limit of one attempt, in seconds."""
    claim_time: float = 30.0
    """Seconds after which other relayers send what this one has claimed. Longer than the timeout."""
    concurrency: int = 20
    """Most events that are being sent at once, each of another instance."""
    keep_sent: float = 24 * 3600.0
    """Seconds that sent events stay in the outbox."""
    keep_dead: float = 30 * 24 * 3600.0
    """Seconds that failed, invalid and expired events stay in the outbox."""
