"""``POST /cancel/{instance_id}``: a request to cancel an instance."""

from __future__ import annotations

from typing import Any

from attrs import define
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .._client.client import Client
from . import strict_json
from .answers import RefusedError, answer, unavailable
from .body import read_body
from .delivery import refusals
from .in_time import Attempt

_BODY_LIMIT = 64 * 1024
"""Most bytes in the body. A reason is a sentence for people."""


@define(eq=False)
class Cancel:
    """Asks for the cancellation of an instance. The body is empty or ``{"reason": "..."}``."""

    _client: Client
    _seconds: float

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        instance_id = request.path_params["instance_id"]
        if not scope["path"].endswith(f"/{instance_id}"):  # Starlette removes a newline at the end
            raise RefusedError(404, "InstanceNotFoundError", "there is no instance of this id")
        reason = _reason(await read_body(request, _BODY_LIMIT))

        async def cancel() -> Response:
            with refusals(not_found=404):
                accepted = await self._client.cancel(instance_id, reason)
            if not accepted:
                raise RefusedError(409, "InstanceEndedError", f"instance {instance_id!r} has ended otherwise")
            return answer({"instance_id": instance_id, "cancelled": True}, 202)

        too_late = unavailable("the database has not answered in time; the instance may be cancelled or not")
        await Attempt(self._seconds).answer(cancel, too_late, scope, receive, send)


def _reason(body: bytes) -> str | None:
    if not body:
        return None
    try:
        content: Any = strict_json.loads(body)
    except ValueError as error:
        raise _invalid(str(error)) from None
    if not isinstance(content, dict) or content.keys() - {"reason"}:
        raise _invalid("it has other keys, or is not an object")
    reason = content.get("reason")
    if reason is not None and not isinstance(reason, str):
        raise _invalid("the reason is not text")
    return reason


def _invalid(problem: str) -> RefusedError:
    return RefusedError(400, "InvalidRequest", f'the body is empty or {{"reason": "..."}}: {problem}')
