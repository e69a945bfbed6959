"""The owners of sessions: an attempt of an activity, or a block of ``app.transaction()``. Each has its own messages."""

from __future__ import annotations

import logging
from typing import Protocol

from attrs import frozen

from .._data.log_fields import about, visible
from ..errors import RomancyError

_logger = logging.getLogger("trio_romancy.activity")


class SessionOwner(Protocol):
    """What a session belongs to, and ends with."""

    def log_long_wait(self) -> None:
        """Log that a task waits for long until another task has left its savepoint."""
        ...

    def refusal_after_end(self) -> RomancyError:
        """Return the error for a use after the end."""
        ...

    def refusal_of_end_by_code(self) -> RomancyError:
        """Return the error for code that commits or rolls back by itself."""
        ...


@frozen
class AttemptOwner:
    """One attempt of an activity."""

    instance_id: str
    activity_id: str
    workflow: str

    def log_long_wait(self) -> None:
        _logger.warning(
            "instance %s: a task of activity %s waits to use its session until another task has left a block of "
            "begin_nested(); if that block awaits the first task, neither goes on: await it after the block, or start "
            "it in the block",
            visible(self.instance_id),
            visible(self.activity_id),
            extra=about(self.instance_id, self.workflow, self.activity_id),
        )

    def refusal_after_end(self) -> RomancyError:
        error = RomancyError(
            f"instance {self.instance_id!r}: the session of activity {self.activity_id!r} is used after the end "
            f"of its attempt, by a thread or a task that the attempt has left behind; this use is refused; give "
            f"what the thread calls a time limit below the activity's timeout, and await every task"
        )
        # Often nothing awaits the caller any more.
        _logger.warning("%s", error, extra=about(self.instance_id, self.workflow, self.activity_id))
        return error

    def refusal_of_end_by_code(self) -> RomancyError:
        return RomancyError(
            f"instance {self.instance_id!r}: the transaction of activity {self.activity_id!r} was committed or "
            f"rolled back by its code; return to commit, raise to roll back, and use session.begin_nested() to undo a "
            f"part"
        )


@frozen
class BlockOwner:
    """One block of ``app.transaction()``."""

    def log_long_wait(self) -> None:
        _logger.warning(
            "a task waits to use the session of app.transaction() until another task has left a block of "
            "begin_nested(); if that block awaits the first task, neither goes on: await it after the block, or start "
            "it in the block"
        )

    def refusal_after_end(self) -> RomancyError:
        return RomancyError(
            "the session of app.transaction() is used after the end of its block; await every task in it"
        )

    def refusal_of_end_by_code(self) -> RomancyError:
        return RomancyError(
            "the transaction of app.transaction() was committed or rolled back by code in its block; leave the block "
            "to commit, raise to roll back, and use begin_nested() to undo a part"
        )
