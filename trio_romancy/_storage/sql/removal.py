"""SQL that removes instances as if they had never been."""

from __future__ import annotations

from sqlalchemy import Connection, delete, select

from ...clock import Microseconds
from .purge import OF_INSTANCES
from .tables import instances, outbox


def remove_instances(connection: Connection, workflow: str, created_from: Microseconds, limit: int) -> int:
    """Remove some instances of a workflow that were started then or later, with all they have. Nobody may run them.

    Returns how many: fewer than the limit, if those were all.
    """
    found = select(instances.c.instance_id).where(
        instances.c.created_at >= created_from, instances.c.workflow == workflow
    )
    ids = list(connection.execute(found.limit(limit)).scalars())
    for table in (outbox, *OF_INSTANCES) if ids else ():
        connection.execute(delete(table).where(table.c.instance_id.in_(ids)))
    return len(ids)
