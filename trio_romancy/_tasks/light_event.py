"""Something that happens once, and that tasks wait for."""

from __future__ import annotations

import trio


class LightEvent:
    """A :class:`trio.Event` that needs nothing for each task that waits but a place in a list, and not even that if
    it is the only one.

    Every workflow waits some times, thousands do so at once, and the garbage collector looks at all that they hold.
    """

    __slots__ = ("_first", "_is_set", "_others")

    def __init__(self) -> None:
        self._is_set = False
        self._first: trio.lowlevel.Task | None = None
        self._others: list[trio.lowlevel.Task] | None = None

    def is_set(self) -> bool:
        """Whether it has happened."""
        return self._is_set

    def set(self) -> None:
        """It has happened: wake all who wait."""
        self._is_set = True
        waiting = [self._first, *(self._others or ())]
        self._first = self._others = None
        for task in waiting:
            # Who has been cancelled is still noted, but does not wait here any more: trio has cleared this.
            if task is not None and task.custom_sleep_data is self:
                trio.lowlevel.reschedule(task)

    async def wait(self) -> None:
        """Wait until it has happened. Does not even make a checkpoint if it has."""
        if not self._is_set:
            task = trio.lowlevel.current_task()
            task.custom_sleep_data = self
            if self._first is None:
                self._first = task
            elif self._others is None:
                self._others = [task]
            else:
                self._others.append(task)
            await trio.lowlevel.wait_task_rescheduled(_abort)


def _abort(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.SUCCEEDED
