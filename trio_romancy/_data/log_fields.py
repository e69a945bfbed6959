"""Fields of log records about an instance: ``instance_id``, ``workflow`` and ``operation_id``."""

from __future__ import annotations


def about(
    instance_id: str | None, workflow: str | None = None, operation_id: str | None = None
) -> dict[str, str | None]:
    """Return the ``extra`` of a log record about an instance. A field is None if it is not known, or does not exist."""
    return {"instance_id": instance_id, "workflow": workflow, "operation_id": operation_id}
