"""What is said to an HTTP client: JSON, and one form for every error."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.responses import Response

from .._data.codec import dumps

RETRY_AFTER = 2
"""Seconds that a client is asked to wait before it tries again."""

_LONGEST_ERROR = 2_000
"""Characters. What is wrong with a large event can be a long story."""

_STATUSES = {
    404: ("NotFound", "there is nothing at this path; events are posted to /"),
    405: ("MethodNotAllowed", "this path does not take this method"),
    500: ("InternalServerError", "the server has failed; its log says how"),
}
"""What Starlette itself answers, in our words."""


class RefusedError(HTTPException):
    """A request is refused, and nothing was stored.

    Args:
      status: the HTTP status.
      error_type: a name of this kind of error, for programs.
      message: what is wrong, for people.
      retryable: whether the same request may be accepted later.
    """

    def __init__(
        self,
        status: int,
        error_type: str,
        message: str,
        *,
        retryable: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.error_type = error_type
        self.retryable = retryable
        self.index: int | None = None
        """Which event of a batch it is about."""

    def at(self, index: int) -> RefusedError:
        """The same, of one event of a batch."""
        self.detail = f"event {index} of the batch (counted from 0): {self.detail}"
        self.index = index
        return self


def unavailable(message: str) -> RefusedError:
    """It cannot be done now, and may be later."""
    headers = {"retry-after": str(RETRY_AFTER)}
    return RefusedError(503, "ServiceUnavailable", message, retryable=True, headers=headers)


def answer(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Plain JSON data as an answer. ASCII only, so that what a client has sent cannot break it."""
    return Response(dumps(content), status, headers, "application/json")


def refusal(error: HTTPException) -> Response:
    """The answer that an error stands for."""
    message = error.detail
    if isinstance(error, RefusedError):
        error_type, retryable, index = error.error_type, error.retryable, error.index
    else:
        error_type, message = _STATUSES.get(error.status_code, (type(error).__name__, message))
        retryable, index = error.status_code >= 500, None
    if len(message) > _LONGEST_ERROR:
        message = message[:_LONGEST_ERROR] + "..."
    content: dict[str, object] = {"error": message, "error_type": error_type, "retryable": retryable}
    if index is not None:
        content["index"] = index
    return answer(content, error.status_code, error.headers)
