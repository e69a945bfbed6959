"""SQL that stores a new instance apart from the journal of a worker."""

from __future__ import annotations

from sqlalchemy import Connection

from ..dialects import notify_workers
from .instances import start_instance
from .messages import last_message
from .rows import InstanceRow


def start_for_any_worker(connection: Connection, row: InstanceRow) -> None:
    """Store one new instance for any worker, unless the same instance is stored already.

    Raises:
      InstanceExistsError: if another workflow or another input has the id.
    """
    start_instance(connection, {**row, "started_after": last_message(connection)})
    notify_workers(connection)
