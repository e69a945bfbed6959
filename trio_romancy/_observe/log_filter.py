"""A filter for the log of a whole program, which says on behalf of which instance something was logged."""

from __future__ import annotations

import logging

from .._context.activity import ActivityContext
from .._context.current import current_execution
from .._data.log_fields import about

_OWN = __name__.partition(".")[0]


class InstanceFilter(logging.Filter):
    """Gives every log record the attributes ``instance_id``, ``workflow`` and ``operation_id``, for formatters.

    What workflow or activity code logs, also through libraries that it calls, in child tasks and in threads, gets those
    of its instance; workflow code has no ``operation_id``. What trio_romancy logs of an instance has them already.
    Where there is nothing to say they are None.

    It is to be added to a handler, so that it sees the records of all loggers::

        handler.addFilter(InstanceFilter())

    It must see them where they are made: with a :class:`logging.handlers.QueueHandler`, add it to that one.

    Args:
      drop_replayed: drop what workflow code logs while it is replayed, as it was logged before. What activities log,
        and what trio_romancy does, is never dropped.
    """

    def __init__(self, *, drop_replayed: bool = False) -> None:
        super().__init__()
        self._drop_replayed = drop_replayed

    def filter(self, record: logging.LogRecord) -> bool:
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
