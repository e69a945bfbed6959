"""What log records say of the instance that they concern: ``instance_id``, ``workflow`` and ``operation_id``."""

from __future__ import annotations


def about(
    instance_id: str | None, workflow: str | None = None, operation_id: str | None = None
) -> dict[str, str | None]:
    """The ``extra`` of a record that concerns an instance. None: that is not known here, or there is none."""
    return {"instance_id": instance_id, "workflow": workflow, "operation_id": operation_id}
