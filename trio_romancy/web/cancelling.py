"""``POST /cancel/{instance_id}``: a request to cancel an instance."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from attrs import define
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .._client.client import Client
from . import strict_json
from .answers import RefusedError, answer, unavailable
from .body import BodyLimits, read_body
from .delivery import refusals
from .in_time import Attempt
from .paths import INSTANCE_ID

REASON_LIMIT = 64 * 1024
"""Most bytes in the body. A reason is a sentence for people."""


@define(eq=False)
class Cancel:
    """Asks for the cancellation of an instance. The body is empty or ``{"reason": "..."}``."""

    _client: Client
    _body_limits: BodyLimits
    _seconds: float

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        instance_id = given_id(request)
        reason = read_fields(await read_body(request, self._body_limits), "reason").get("reason")

        async def cancel() -> bool:
            return await self._client.cancel(instance_id, reason)

        await answer_end(cancel, instance_id, "cancelled", self._seconds, scope, receive, send)


async def answer_end(
    end: Callable[[], Awaitable[bool]],
    instance_id: str,
    done: str,
    seconds: float,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Answer a request to end an instance.

    Args:
      end: makes the request. Returns whether it was accepted.
      done: what the instance is then, in the answer.
      seconds: time limit of the request.
    """

    async def attempt() -> Response:
        with refusals(not_found=404):
            accepted = await end()
        if not accepted:
            raise RefusedError(409, "InstanceEndedError", f"instance {instance_id!r} has ended otherwise")
        return answer({"instance_id": instance_id, done: True}, 202)

    too_late = unavailable(f"the database has not answered in time; the instance may be {done} or not")
    await Attempt(seconds).answer(attempt, too_late, scope, receive, send)


def given_id(request: Request) -> str:
    """Return the instance id in the path of a request."""
    instance_id: str = request.path_params[INSTANCE_ID]
    return instance_id


def read_fields(body: bytes, *names: str) -> dict[str, Any]:
    """Return the fields of a body, which may be empty. The ``reason`` is text or null.

    Args:
      names: the fields that the body may have.
    """
    if not body:
        return {}
    try:
        content: Any = strict_json.loads(body)
    except ValueError as error:
        raise invalid(str(error), *names) from None
    if not isinstance(content, dict) or content.keys() - set(names):
        raise invalid("it has other keys, or is not an object", *names)
    reason = content.get("reason")
    if reason is not None and not isinstance(reason, str):
        raise invalid("the reason is not text", *names)
    return content


def invalid(problem: str, *names: str) -> RefusedError:
    """Return the refusal of a body.

    Args:
      names: the fields that the body may have.
    """
    fields = ", ".join(f'"{name}": ...' for name in names)
    return RefusedError(400, "InvalidRequest", f"the body is empty or {{{fields}}}: {problem}")
