"""``OPTIONS /``: the handshake in which a sender of CloudEvents asks whether it may deliver here."""

from __future__ import annotations

from collections.abc import Collection

from attrs import define
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .answers import RefusedError

ANY = "*"
"""Every origin, or every rate."""


@define(eq=False)
class Handshake:
    """Answers the validation request of the CloudEvents webhook specification, which carries no token.

    Args:
      origins: names of the senders that may deliver, in lower case, or :data:`ANY`.
      methods: the methods of the path.
    """

    _origins: Collection[str]
    _methods: Collection[str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        headers = {"allow": ", ".join(self._methods)}
        origin = request.headers.get("webhook-request-origin")
        if origin is not None:
            if ANY not in self._origins and origin.strip().lower() not in self._origins:
                raise RefusedError(403, "OriginNotAllowed", "this app does not take events from this origin")
            headers["webhook-allowed-origin"] = origin.strip()
            headers["webhook-allowed-rate"] = ANY  # a sender that is too fast waits for its answers
        await Response(status_code=200, headers=headers)(scope, receive, send)
