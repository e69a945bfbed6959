"""A request to end an instance, as the row of the instance holds it: to cancel it, or to terminate it."""

from __future__ import annotations

from typing import Any, Self, final

from .._tasks.fast_frozen import frozen
from ..clock import Microseconds
from .codec import dumps
from .readable import readable


@final
@frozen
class EndRequest:
    """An accepted request to cancel or terminate an instance.

    A cancel request counts unless there is a request already. A request to terminate takes the place of any other.
    """

    reason: str | None
    """Reason that the request gave."""
    at: Microseconds | None = None
    """Time of the request, in microseconds since the epoch; None if a release that kept no time has stored it."""
    by_parent: bool = False
    """Whether the instance is a child, and its parent asks, since it is cancelled, rolled back or terminated."""
    terminates: bool = False
    """Whether to terminate the instance. False also once the termination was carried out."""
    compensates: bool = False
    """Whether a terminated instance compensates what it completed."""

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return the request that this JSON text stands for. Earlier releases stored only the reason.

        A text that is damaged is a request without a reason: that it was accepted is known all the same.
        """
        data, _ = readable(text)
        if not isinstance(data, dict) or "reason" not in data:
            return cls(data if isinstance(data, str) else None)
        flags = [data.get(name) is True for name in ("by_parent", "terminates", "compensates")]
        reason, at = data["reason"], data.get("at")
        return cls(reason if isinstance(reason, str) else None, at if type(at) is int else None, *flags)

    def to_text(self) -> str:
        """Return the request as it is stored: JSON text."""
        data: dict[str, Any] = {"reason": self.reason, "at": self.at}
        if self.by_parent:
            data["by_parent"] = True
        if self.terminates:
            data |= {"terminates": True, "compensates": self.compensates}
        return dumps(data)
