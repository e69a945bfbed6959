"""Reading the body of a request, which may be too large, or never end."""

from __future__ import annotations

from starlette.requests import ClientDisconnect, Request

from .answers import RefusedError


async def read_body(request: Request, limit: int) -> bytes:
    """The body.

    Raises:
      RefusedError: if it has more than ``limit`` bytes. No more than that was read.
      ClientDisconnect: if it ends in the middle.
    """
    # Only a promise, but one that makes reading pointless. The server checks that it is kept.
    promised = request.headers.get("content-length", "")
    if promised.isdecimal() and (len(promised) > len(str(limit)) + 1 or int(promised) > limit):
        raise _too_large(limit)
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
