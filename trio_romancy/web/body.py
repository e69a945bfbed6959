"""Reading of request bodies, which may be too large or never end."""

from __future__ import annotations

from starlette.requests import ClientDisconnect, Request

from .answers import RefusedError


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body of a request.

    Raises:
      RefusedError: if it has more than ``limit`` bytes. The rest is not read.
      ClientDisconnect: if the client disconnects before the end of the body.
    """
    # A body announced as too large is not read. The server checks that the announcement is true.
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
