"""Authorization by bearer token."""

from __future__ import annotations

import hmac

from attrs import define, field
from starlette.types import ASGIApp, Receive, Scope, Send

from .answers import RefusedError


@define(eq=False)
class Authorization:
    """Passes requests with the token on, and refuses others with 401 before their bodies are read.

    OPTIONS needs no token: a handshake tells nothing secret, and senders make it without one.
    """

    _app: ASGIApp
    _token: bytes = field(repr=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not (scope["method"] == "OPTIONS" or self._is_allowed(scope)):
            raise RefusedError(
                401,
                "Unauthorized",
                "this needs the header Authorization: Bearer, with the token of this app",
                headers={"www-authenticate": "Bearer"},
            )
        await self._app(scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
        if len(given) != 1:
            return False
        scheme, _, token = given[0].strip().partition(b" ")
        # Constant time: the duration must not reveal how much of a guess is right.
        return hmac.compare_digest(token.strip(), self._token) and scheme.lower() == b"bearer"
