"""The order of a workflow's tasks: at most one of them is runnable at a time, and it is the same one on each replay.

Trio runs each batch of runnable tasks forwards or backwards, at random, and wakes the tasks of a cancelled scope in
the order of a set. A lock, a limiter or a ``finally`` block makes code depend on either. Here the tasks of a workflow
go in rounds: all that are runnable when a round begins have one step each, and the one spawned first goes first.

Two instruments do that. The first sees each spawn in the program, and costs nothing else. The second sees each step,
and is installed only while some workflow has more than one task. Trio drops an instrument that raises. These never
raise, and :meth:`Turns.rest` notices if trio has dropped them nevertheless: no outcome is then told out of turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

import trio

from .held_thread import HeldThread
from .leavable import make_leavable
from .light_event import LightEvent
from .trio_internals import check_run_queue, is_installed, is_runnable, run_queue

HELD_TOO_LONG = 1.0
"""Seconds for which a task may run without letting others run, before its workflow is named."""


class Owner(Protocol):
    """The run of a workflow, as the scheduler sees it."""

    turns: Turns | None
    """The turns of its tasks, while there is more than one."""

    def own_nurseries(self, task: trio.lowlevel.Task, /) -> int | None:
        """Return how many of the task's nurseries are the workflow's, if an activity runs in it; None: all of them."""

    def holds_thread(self, task: trio.lowlevel.Task, seconds: float, place: str, /) -> None:
        """Name a task of the workflow, or of one of its activities, that lets no other task run. In another thread."""

    def left_behind(self, task: trio.lowlevel.Task, /) -> None:
        """Note that a task was left where it is, because it catches each cancellation."""

    def crash(self, cause: Exception, /) -> None:
        """Stop the run: its tasks may have run in an order that no replay repeats."""


class OrderLostError(RuntimeError):
    """Raised if the tasks of a workflow may have run out of turn. Its run has to start again from the journal."""


class Turns:
    """The turns of the tasks of one workflow, while there is more than one.

    A task that runs an activity is away: what happens in there has an order of its own. It comes back before it waits
    for its outcome to be told.
    """

    __slots__ = (
        "_away",
        "_begins",
        "_current",
        "_lost",
        "_order",
        "_paused",
        "_ready",
        "_rested",
        "_returned",
        "_round",
        "_scheduler",
        "_spawned",
        "owner",
    )

    def __init__(self, scheduler: Scheduler, owner: Owner) -> None:
        self._scheduler = scheduler
        self.owner = owner
        self._order: dict[trio.lowlevel.Task, int] = {}
        """Number of each task, in the order in which they were spawned."""
        self._spawned = 0
        self._current: trio.lowlevel.Task | None = None
        """The task whose turn it is: in trio's run queue, or running. None: all rest."""
        self._begins = False
        """Whether the task whose turn it is was the first one to wake, and has not had its step."""
        self._round: list[trio.lowlevel.Task] = []
        """Tasks that wait for their turn in this round. The next one is the last."""
        self._ready: list[trio.lowlevel.Task] = []
        """Tasks that wait for the next round."""
        self._away: dict[trio.lowlevel.Task, int] = {}
        """Tasks that run an activity, with the number of their nurseries that are the workflow's."""
        self._paused: dict[trio.lowlevel.Task, None] = {}
        """Tasks that may have begun to wait for something outside: not for an operation, a lock or a channel."""
        self._returned: trio.lowlevel.Task | None = None
        """The task that came back in its present step, which is out of turn."""
        self._rested: LightEvent | None = None
        self._lost: OrderLostError | None = None

    def __iter__(self) -> Iterator[trio.lowlevel.Task]:
        """Iterate over the tasks, in the order in which they were spawned."""
        return iter(self._order)

    # -- for the run -----------------------------------------------------------------------------------------------

    async def rest(self) -> None:
        """Wait until no task can go on by itself, or there is only one.

        Raises:
          OrderLostError: if a task may have run out of turn.
        """
        while True:
            if self._lost is None:
                self._scheduler.check()
            if self._lost is not None:
                raise self._lost
            if self._current is None:
                return
            self._rested = LightEvent()
            await self._rested.wait()
            self._rested = None

    def resting(self, *, all_of_them: bool) -> list[trio.lowlevel.Task]:
        """Return the tasks that wait, of those that have begun to since the last call; none unless all tasks wait.

        Args:
          all_of_them: return also those that were returned before.
        """
        if self._current is not None:
            return []
        paused, self._paused = self._paused, {}
        return [
            task
            for task in (self._order if all_of_them else paused)
            if task in self._order and task not in self._away and not is_runnable(task)
        ]

    def leave(self, task: trio.lowlevel.Task, nurseries: int) -> None:
        """Let the current task run an activity, without turns.

        Args:
          nurseries: number of the task's nurseries that are the workflow's. Tasks in others are not the workflow's.
        """
        if task in self._order:
            self._away[task] = nurseries

    def come_back(self, task: trio.lowlevel.Task) -> None:
        """End what :meth:`leave` began. The current task must wait for its turn before it runs workflow code.

        A checkpoint is such a wait, of tasks that come back together in trio's order.
        """
        if self._away.pop(task, None) is not None and self._current is not task:
            self._returned = task

    # -- for the scheduler -----------------------------------------------------------------------------------------

    def owns(self, nursery: trio.Nursery) -> bool:
        """Whether a nursery of one of the tasks is the workflow's, and not an activity's."""
        nurseries = self._away.get(nursery.parent_task)
        return nurseries is None or nursery in nursery.parent_task.child_nurseries[:nurseries]

    def add(self, task: trio.lowlevel.Task) -> None:
        """Add a task that was spawned. Others that were spawned before it go before it."""
        self._order[task] = self._spawned
        self._spawned += 1

    def start(self, task: trio.lowlevel.Task) -> None:
        """Give the first task the turn: it can go on by itself."""
        self._current = task

    def scheduled(self, task: trio.lowlevel.Task) -> None:
        """Give a task the turn that trio has just put into its run queue, or let it wait for one."""
        if task in self._away:
            return
        if self._current is None:
            self._current = task
            self._begins = True
            return
        queue = run_queue(task)
        if queue[-1] is task:
            queue.pop()
        else:
            queue.remove(task)
        self._ready.append(task)
        if self._begins and is_runnable(self._current) and self._order[task] < self._order[self._current]:
            # One event, such as a cancellation, wakes several tasks in the order of a set. The round has not begun,
            # unless trio has taken its tasks out of the queue.
            index = _last_index(queue, self._current)
            if index >= 0:
                self._ready[-1], self._current = self._current, task
                queue[index] = task

    def stepped(self, task: trio.lowlevel.Task) -> None:
        """End the turn of a task that has had its step.

        Raises:
          OrderLostError: if it was the turn of another.
        """
        if task is self._returned:
            self._returned = None  # the turn that it may have now is its next one
        elif task is self._current:
            if task.custom_sleep_data is None and not is_runnable(task) and task not in self._away:
                self._paused[task] = None
            self.pass_on()
        elif task not in self._away:
            raise OrderLostError(f"task {task.name!r} of a workflow has run out of turn")

    def pass_on(self) -> None:
        """Give the turn to the next task."""
        self._begins = False
        if not self._round:
            self._round, self._ready = self._ready, self._round
            if len(self._round) > 1:
                self._round.sort(key=self._order.__getitem__, reverse=True)
        if self._round:
            self._current = task = self._round.pop()
            run_queue(task).append(task)
        else:
            self._current = None
            self._wake()

    def exited(self, task: trio.lowlevel.Task) -> bool:
        """Remove a task that has ended. Returns whether there still is more than one."""
        del self._order[task]
        self._away.pop(task, None)
        self._paused.pop(task, None)
        if self._returned is task:
            self._returned = None
        if self._current is task:
            self.pass_on()
        return len(self._order) > 1

    def dissolve(self, lost: OrderLostError | None = None) -> None:
        """Let trio run what waits for a turn.

        Args:
          lost: error if the tasks may have run out of turn.
        """
        for task in (*reversed(self._round), *self._ready):
            run_queue(task).append(task)
        self._round, self._ready, self._current = [], [], None
        self._lost = lost
        self._wake()

    def _wake(self) -> None:
        if self._rested is not None:
            self._rested.set()


def _last_index(queue: deque[trio.lowlevel.Task], task: trio.lowlevel.Task) -> int:
    """Return the place of a task that was put into the queue not long ago; -1 if it is not there any more."""
    index = len(queue) - 1
    while index >= 0 and queue[index] is not task:
        index -= 1
    return index


class _Spawns(trio.abc.Instrument):
    """Notices when a workflow gets a second task, and each further one."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        try:
            self._scheduler.spawned(task)
        except BaseException as error:  # trio would drop the instrument without a word
            self._scheduler.lose_order(error)


class _Steps(trio.abc.Instrument):
    """Gives tasks their turns."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._turns_of = scheduler.turns_of

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        turns = self._turns_of.get(task)
        if turns is not None:
            try:
                turns.scheduled(task)
            except BaseException as error:
                self._scheduler.lose_order(error)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        turns = self._turns_of.get(task)
        if turns is not None:
            try:
                turns.stepped(task)
            except BaseException as error:
                self._scheduler.lose_order(error)

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        if task in self._turns_of:
            try:
                self._scheduler.exited(task)
            except BaseException as error:
                self._scheduler.lose_order(error)


class Scheduler:
    """Gives the tasks of all workflows in one ``trio.run`` their turns, whichever apps they belong to."""

    def __init__(self) -> None:
        self.turns_of: dict[trio.lowlevel.Task, Turns] = {}
        """Turns of each task of a workflow with more than one."""
        self._owners: dict[trio.lowlevel.Task, Owner] = {}
        """Runs of the workflow functions that run, by their first tasks."""
        self._spawns = _Spawns(self)
        self._steps = _Steps(self)
        self._has_steps = False
        """Whether the second instrument was installed."""
        self._users = 0

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Watch for spawned tasks, as long as one of these blocks is open in the program."""
        self._users += 1
        trio.lowlevel.add_instrument(self._spawns)
        if self._users == 1:
            self._held_thread = HeldThread(self._holds_thread, HELD_TOO_LONG)
            self._held_thread.start()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._held_thread.stop()
                with suppress(KeyError):
                    trio.lowlevel.remove_instrument(self._spawns)

    def begin(self, task: trio.lowlevel.Task, owner: Owner) -> None:
        """Note that a workflow function begins in a task."""
        self._owners[task] = owner

    def end(self, task: trio.lowlevel.Task) -> None:
        """Note that the workflow function of a task has ended. Tasks that it has left behind have no turns any more."""
        owner = self._owners.pop(task)
        if owner.turns is not None:
            self._dissolve(owner.turns)

    def check(self) -> None:
        """Notice if trio has dropped an instrument: tasks may have run out of turn since then."""
        has_spawns = not self._users or is_installed(self._spawns)
        if not has_spawns or (self._has_steps and not is_installed(self._steps)):
            self.lose_order(OrderLostError("trio has dropped an instrument of the scheduler; its log record says why"))

    def lose_order(self, cause: BaseException) -> None:
        """Crash each run with more than one task: the tasks may have run in an order that no replay repeats."""
        groups = {id(turns): turns for turns in self.turns_of.values()}.values()
        self.turns_of.clear()
        self._remove_steps()
        if self._users:
            trio.lowlevel.add_instrument(self._spawns)
        token = trio.lowlevel.current_trio_token()
        for turns in groups:
            lost = OrderLostError(f"the tasks of the workflow may have run out of turn: {cause!r}")
            lost.__cause__ = cause
            turns.dissolve(lost)
            token.run_sync_soon(_crash, turns, lost)  # later: the caller may be in the middle of a cancellation

    def _holds_thread(self, task: trio.lowlevel.Task, seconds: float, place: str) -> None:
        """Find the workflow whose task, or whose activity's task, holds the thread."""
        ancestor: trio.lowlevel.Task | None = task
        while ancestor is not None:
            turns = self.turns_of.get(ancestor)
            owner = self._owners.get(ancestor) if turns is None else turns.owner
            if owner is not None:
                owner.holds_thread(ancestor, seconds, place)
                return
            ancestor = None if ancestor.parent_nursery is None else ancestor.parent_nursery.parent_task

    # -- calls of the instruments ----------------------------------------------------------------------------------

    def spawned(self, task: trio.lowlevel.Task) -> None:
        """Give a spawned task its turns, if it is a workflow's."""
        nursery = task.parent_nursery
        if nursery is None:
            return
        turns = self.turns_of.get(nursery.parent_task)
        if turns is None:
            owner = self._owners.get(nursery.parent_task)
            if owner is None or owner.turns is not None:
                return
            turns = self._open(nursery, owner)
        elif not turns.owns(nursery):
            return
        if turns is not None:
            turns.add(task)
            self.turns_of[task] = turns
            make_leavable(task, turns.owner.left_behind)

    def exited(self, task: trio.lowlevel.Task) -> None:
        """Forget a task that has ended."""
        turns = self.turns_of.pop(task)
        if not turns.exited(task):
            self._dissolve(turns)

    def _open(self, nursery: trio.Nursery, owner: Owner) -> Turns | None:
        """Begin the turns of a workflow that gets a second task; None if that is an activity's."""
        main = nursery.parent_task
        nurseries = owner.own_nurseries(main)
        if nurseries is not None and nursery not in main.child_nurseries[:nurseries]:
            return None
        turns = Turns(self, owner)
        turns.add(main)
        if nurseries is not None:
            turns.leave(main, nurseries)
        elif is_runnable(main) or main is trio.lowlevel.current_task():
            turns.start(main)
        self.turns_of[main] = turns
        owner.turns = turns
        if not self._has_steps:
            check_run_queue(main)
            self._has_steps = True
            trio.lowlevel.add_instrument(self._steps)
        return turns

    def _dissolve(self, turns: Turns) -> None:
        for task in turns:
            self.turns_of.pop(task, None)
        turns.owner.turns = None
        turns.dissolve()
        if not self.turns_of:
            self._remove_steps()

    def _remove_steps(self) -> None:
        if self._has_steps:
            self._has_steps = False
            with suppress(KeyError):
                trio.lowlevel.remove_instrument(self._steps)


def _crash(turns: Turns, lost: OrderLostError) -> None:
    if turns.owner.turns is turns:
        turns.owner.crash(lost)


_current: trio.lowlevel.RunVar[Scheduler] = trio.lowlevel.RunVar("trio_romancy_scheduler")


def current_scheduler() -> Scheduler:
    """Return the scheduler of this ``trio.run``."""
    try:
        return _current.get()
    except LookupError:
        scheduler = Scheduler()
        _current.set(scheduler)
        return scheduler
