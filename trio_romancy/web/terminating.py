"""``POST /terminate/{instance_id}``: the end of an instance that does not end by itself."""

from __future__ import annotations

from attrs import define
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from .._client.client import Client
from .body import BodyLimits, read_body
from .cancelling import answer_end, given_id, invalid, read_fields


@define(eq=False)
class Terminate:
    """Ends an instance. The body is empty, or an object with a ``reason``, ``compensate`` or both."""

    _client: Client
    _body_limits: BodyLimits
    _seconds: float

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        instance_id = given_id(request)
        fields = read_fields(await read_body(request, self._body_limits), "reason", "compensate")
        compensate = fields.get("compensate", False)
        if not isinstance(compensate, bool):
            raise invalid("compensate is not true or false", "reason", "compensate")

        async def terminate() -> bool:
            return await self._client.terminate(instance_id, fields.get("reason"), compensate=compensate)

        await answer_end(terminate, instance_id, "terminated", self._seconds, scope, receive, send)
