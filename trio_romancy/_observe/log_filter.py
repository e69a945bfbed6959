"""A log filter that adds the instance on whose behalf a record was logged."""

from __future__ import annotations

import logging

from .._context.activity import ActivityContext
from .._context.current import current_execution
from .._data.log_fields import about

_OWN = __name__.partition(".")[0]


class InstanceFilter(logging.Filter):
    """Adds the attributes ``instance_id``, ``workflow`` and ``operation_id`` to every log record, for formatters.

    Records of workflow and activity code get those of the instance, also from libraries, child tasks and threads.
    Records of workflow code have no ``operation_id``. Records of trio_romancy about an instance have the attributes
    already. In all other records they are None.

    Add it to a handler, so that it sees the records of all loggers::

        handler.addFilter(InstanceFilter())

    It must see a record in the task or thread that logs it: with a :class:`logging.handlers.QueueHandler`, add it to
    that handler.

    Args:
      drop_replayed: whether to drop records of workflow code that is being replayed, because they were logged before.
        Records of activities and of trio_romancy are never dropped.
    """

    def __init__(self, *, drop_replayed: bool = False) -> None:
        super().__init__()
        self._drop_replayed = drop_replayed

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the attributes to a record. Return whether the record is kept."""
        execution = current_execution.get()
        if execution is None:
            known = about(None)
        elif isinstance(execution, ActivityContext):
            known = about(execution.instance_id, execution.workflow, execution.activity_id)
        else:
            if self._drop_replayed and execution.is_replaying and record.name.partition(".")[0] != _OWN:
                return False
            known = about(execution.instance_id, execution.workflow_name)
        for name, value in known.items():
            if not hasattr(record, name):
                setattr(record, name, value)
        return True
