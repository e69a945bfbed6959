"""``POST /terminate/{instance_id}``: the end of an instance that does not end by itself."""

from __future__ import annotations

from attrs import define
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .._client.client import Client
from .answers import RefusedError, answer, unavailable
from .body import read_body
from .cancelling import BODY_LIMIT, given_id, invalid, read_fields
from .delivery import refusals
from .in_time import Attempt


@define(eq=False)
class Terminate:
    """Ends an instance. The body is empty, or an object with a ``reason``, ``compensate`` or both."""

    _client: Client
    _seconds: float

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        instance_id = given_id(request)
        fields = read_fields(await read_body(request, BODY_LIMIT), "reason", "compensate")
        compensate = fields.get("compensate", False)
        if not isinstance(compensate, bool):
            raise invalid("compensate is not true or false", "reason", "compensate")

        async def terminate() -> Response:
            with refusals(not_found=404):
                accepted = await self._client.terminate(instance_id, fields.get("reason"), compensate=compensate)
            if not accepted:
                raise RefusedError(409, "InstanceEndedError", f"instance {instance_id!r} has ended otherwise")
            return answer({"instance_id": instance_id, "terminated": True}, 202)

        too_late = unavailable("the database has not answered in time; the instance may be terminated or not")
        await Attempt(self._seconds).answer(terminate, too_late, scope, receive, send)
