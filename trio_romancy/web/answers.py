"""Answers to HTTP clients: JSON, and one form for all errors."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.responses import Response

from .._data.codec import dumps

RETRY_AFTER = 2
"""Seconds after which a client should try again."""

_LONGEST_ERROR = 2_000
"""Most characters of an error message. A large event can have very many errors."""

_STATUSES = {
    404: ("NotFound", "there is nothing at this path; events are posted to /"),
    405: ("MethodNotAllowed", "this path does not take this method"),
    500: ("InternalServerError", "the server has failed; its log says how"),
}
"""Errors that Starlette raises itself, by status: the type and the message of the answer."""


class RefusedError(HTTPException):
    """Refuses a request. Nothing of it was stored.

    Args:
      status: the HTTP status.
      error_type: the kind of error, for programs.
      message: the reason, for people.
      retryable: whether the same request may be accepted later.
      headers: headers of the answer.
    """

    detail: str

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
        """Position of the refused event in its batch, from 0; None if there is no batch."""

    def at(self, index: int) -> RefusedError:
        """Name the refused event of a batch, and return the error itself."""
        self.detail = f"event {index} of the batch (counted from 0): {self.detail}"
        self.index = index
        return self


def unavailable(message: str) -> RefusedError:
    """Return the error for a request that may succeed later."""
    headers = {"retry-after": str(RETRY_AFTER)}
    return RefusedError(503, "ServiceUnavailable", message, retryable=True, headers=headers)


def answer(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer with JSON data. It is ASCII, so that no text from a client can break it."""
    return Response(dumps(content), status, headers, "application/json")


def refusal(error: HTTPException) -> Response:
    """Return the answer for an error."""
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
