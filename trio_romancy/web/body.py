"""Reading of request bodies, which may be too large or never end."""

from __future__ import annotations

import trio
from attrs import frozen
from starlette.requests import ClientDisconnect, Request

from .answers import RefusedError


@frozen
class BodyLimits:
    """Limits of the body of a request."""

    size: int
    """Most bytes."""
    seconds: float
    """Longest time from the first byte that is waited for to the last. Without it a client that sends a byte now and
    then keeps its connection and its task."""

    def at_most(self, size: int) -> BodyLimits:
        """Return the limits of a smaller body."""
        return BodyLimits(min(self.size, size), self.seconds)


async def read_body(request: Request, limits: BodyLimits) -> bytes:
    """Return the body of a request.

    Raises:
      RefusedError: if it exceeds a limit. The rest is not read.
      ClientDisconnect: if the client disconnects before the end of the body.
    """
    # A body announced as too large is not read. The server checks that the announcement is true.
    promised = request.headers.get("content-length", "")
    if promised.isdecimal() and (len(promised) > len(str(limits.size)) + 1 or int(promised) > limits.size):
        raise _too_large(limits.size)
    with trio.move_on_after(limits.seconds):
        return await _read(request, limits.size)
    raise RefusedError(
        408, "RequestTimeout", f"the body has not arrived within {limits.seconds:g} s", retryable=True, headers=_CLOSE
    )


_CLOSE = {"connection": "close"}


async def _read(request: Request, limit: int) -> bytes:
    body = bytearray()
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(limit: int) -> RefusedError:
    return RefusedError(413, "ContentTooLarge", f"the body of a request may have {limit} bytes here")
