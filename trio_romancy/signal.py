"""Something that happens once, and that tasks wait for."""

from __future__ import annotations

import trio


class Signal:
    """A :class:`trio.Event` that needs nothing for each task that waits but a place in a list.

    Every workflow waits some times, thousands do so at once, and the garbage collector looks at all that they hold.
    """

    __slots__ = ("_is_set", "_waiting")

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: list[trio.lowlevel.Task] = []

    def is_set(self) -> bool:
        """Whether it has happened."""
        return self._is_set

    def set(self) -> None:
        """It has happened: wake all who wait."""
        self._is_set = True
        for task in self._waiting:
            # Who has been cancelled is still in the list, but does not wait here any more: trio has cleared this.
            if task.custom_sleep_data is self:
                trio.lowlevel.reschedule(task)
        self._waiting.clear()

    async def wait(self) -> None:
        """Wait until it has happened. Does not even make a checkpoint if it has."""
        if not self._is_set:
            task = trio.lowlevel.current_task()
            task.custom_sleep_data = self
            self._waiting.append(task)
            await trio.lowlevel.wait_task_rescheduled(_abort)


def _abort(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.SUCCEEDED
