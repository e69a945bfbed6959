"""Entries about children, in the journal of the parent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self, final

from attrs import field

from ..._tasks.fast_frozen import frozen
from ...model import EntryKind, ErrorInfo, Status
from ..codec import dumps
from .failures import error_from_data, error_text

_statuses = {status.value: status for status in Status}


@final
@frozen
class ChildStarted:
    """A child was started, or refused because its id is taken."""

    KIND: ClassVar[EntryKind] = EntryKind.CHILD_STARTED

    child: str
    """Id of the child."""
    workflow: str
    """Name of its workflow."""
    refused: str | None = None
    """Holder of the id, if it was taken; null: the child was started. Missing if the id is made of the parent's."""
    _is_named: bool = False
    """Whether the id is the user's own, and so can be refused."""
    arguments: Mapping[str, str] | None = field(default=None, hash=False)
    """Digests of the child's arguments by name, as of :attr:`.ActivityCompleted.arguments`; missing if not taken."""

    @classmethod
    def named(cls, child: str, workflow: str, refused: str | None, arguments: Mapping[str, str] | None = None) -> Self:
        """Return the entry of a child with an id of the user's own.

        Args:
          refused: what else has the id; None: the child was started.
          arguments: digests of its arguments.
        """
        return cls(child, workflow, refused, True, arguments)

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """Return the entry that this plain JSON data stands for."""
        return cls(data["child"], data["workflow"], data.get("refused"), "refused" in data, data.get("arguments"))

    def to_text(self) -> str:
        """Return the payload as it is stored: JSON text."""
        payload: dict[str, Any] = {"child": self.child, "workflow": self.workflow}
        if self._is_named:
            payload["refused"] = self.refused
        if self.arguments is not None:
            payload["arguments"] = self.arguments
        return dumps(payload)


@final
@frozen
class ChildEnded:
    """A child that was awaited has ended."""

    KIND: ClassVar[EntryKind] = EntryKind.CHILD_ENDED

    child: str
    """Id of the child: the first of its chain, if it has recurred."""
    workflow: str
    """Name of its workflow."""
    status: Status
    """Status with which the child ended: ``completed``, ``failed`` or ``cancelled``."""
    output: Any
    """Result of the child, as plain JSON data; null unless it completed."""
    error: ErrorInfo | None
    """Why it did not complete: an object of ``error_type``, ``message``, ``traceback`` and ``uncompensated``.

    Also of ``error_types`` and ``details``, if there are any.
    """
    seq: int = 1
    """Always 1: it stands in the place of a message's number."""

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """Return the entry that this plain JSON data stands for."""
        error = data["error"]
        if error is not None:
            error = error_from_data(error)
        return cls(data["child"], data["workflow"], _statuses[data["status"]], data["output"], error, data["seq"])

    @property
    def must_be_undone(self) -> bool:
        """Whether a rollback of the parent has to undo what the child did: it has not done so itself, or not all."""
        return self.status is Status.COMPLETED or (self.error is not None and bool(self.error.uncompensated))

    @staticmethod
    def text(child: str, workflow: str, status: Status | str, output: str | None, error: str | None) -> str:
        """Return the payload. Nothing of the two JSON texts is parsed to be written.

        Args:
          output: JSON text; None: null.
          error: JSON text; None: null.
        """
        return (
            f'{{"seq":1,"child":{dumps(child)},"workflow":{dumps(workflow)},"status":{dumps(status)},'
            f'"output":{output or "null"},"error":{error or "null"}}}'
        )

    def to_text(self) -> str:
        """Return the payload as it is stored: JSON text."""
        error = None if self.error is None else error_text(self.error)
        return self.text(self.child, self.workflow, self.status, dumps(self.output), error)
