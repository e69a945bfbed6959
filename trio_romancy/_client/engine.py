"""An app inside its block: its database, and its worker if it has one."""

from __future__ import annotations

from typing import ParamSpec, TypeVar

import trio
from attrs import frozen
from sqlalchemy import Connection

from .._context.activity import ActivityContext
from .._context.current import current_execution
from .._data.ids import is_id
from .._observe.dispatcher import HookDispatcher
from .._observe.instance_events import sent_info
from .._runtime.worker.supervisor import LocalResult
from .._runtime.worker.worker import Worker
from .._storage.database import Database, SQLFunction
from .._storage.dialects import notify_workers
from .._storage.outages import retry_while_away
from .._storage.sql import chains, instances, messages
from .._storage.sql.messages import Outgoing
from .._storage.sql.rows import InstanceRow
from ..clock import Clock
from ..errors import InstanceNotFoundError, RomancyError
from ..hooks import Hooks
from ..model import ErrorInfo, Sent, Status

P = ParamSpec("P")
R = TypeVar("R")

# What every workflow asks for: to find a member of an enum takes ten times as long as a global (Python 3.11).
_RECURRED = Status.RECURRED

_FIRST_LOOK = 0.02
_LONGEST_LOOK = 1.0
"""Seconds between two looks at an instance that another process may run."""


@frozen(eq=False)
class Engine:
    """An app inside its block."""

    database: Database
    clock: Clock
    worker: Worker | None
    dispatcher: HookDispatcher | None
    """Those who call the hooks; None: there are none."""

    def local_result(self, instance_id: str) -> LocalResult:
        """Return what this process knows of the end of an instance, now or later."""
        return self.worker.ending(instance_id) if self.worker is not None else LocalResult()

    async def read(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await retry_while_away(self.database, lambda: self.database.read(fn, *args, **kwargs))

    async def write(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Write, and let the worker look at what has become due."""
        answer = await retry_while_away(self.database, lambda: self.database.run(fn, *args, **kwargs))
        if self.worker is not None:
            self.worker.nudge()
        return answer

    def nudge_relay(self) -> None:
        """There is something to send: look now."""
        if self.worker is not None and self.worker.relay is not None:
            self.worker.relay.nudge()

    async def start_elsewhere(self, instance_id: str, workflow: str, text: str, trace: str | None) -> None:
        row = instances.new_row(instance_id, workflow, text, self.clock.now(), owner=None, trace=trace)
        await self.write(_store_instance, row)

    async def send(self, outgoing: Outgoing) -> Sent:
        """Send a message."""
        id = outgoing.row["event_id"]
        assert id is not None  # what a client sends always has one
        is_new = outgoing.is_new  # then it has no other duplicate than itself
        if self.worker is not None:
            await self.worker.send([outgoing])
        else:
            await self.write(messages.send_apart, [outgoing], self.clock.now())
        if outgoing.failure is not None:
            raise outgoing.failure
        is_duplicate = outgoing.is_duplicate and not is_new
        if self.dispatcher is not None and not is_duplicate:
            is_event = outgoing.row["source"] is not None
            self.dispatcher.tell(Hooks.event_sent if is_event else Hooks.message_sent, sent_info(outgoing.row))
        return Sent(id, is_duplicate, len(outgoing.waiting))

    async def wait(self, instance_id: str, local_result: LocalResult) -> tuple[Status, str | None, ErrorInfo | None]:
        """Wait until the instance has ended, and whatever it went on as."""
        while True:
            found = None
            while found is None:
                if local_result.status is not None:
                    found = local_result.status, local_result.output, local_result.error
                elif self.worker is not None and self.worker.is_resident(instance_id):
                    await local_result.changed().wait()
                else:
                    found = await self._look_for_end(instance_id, local_result)
            if found[0] is not _RECURRED:
                return found
            last = await self.read(chains.last_of, instance_id)
            if last is None:
                raise InstanceNotFoundError(instance_id)
            instance_id, local_result = last, self.local_result(last)

    async def _look_for_end(
        self, instance_id: str, local_result: LocalResult
    ) -> tuple[Status, str | None, ErrorInfo | None] | None:
        """Look again and again whether the instance has ended somewhere else. None: it is, or was, here by now."""
        interval = _FIRST_LOOK
        while not self._is_here(instance_id, local_result):
            changed = local_result.changed()  # taken before the query, so that no change falls in between
            found = await self.read(instances.get_ending, instance_id)
            if found is None:
                raise InstanceNotFoundError(instance_id)
            if self._is_here(instance_id, local_result):
                break  # it has ended, or was taken up, while the database was asked
            if found[0].is_final or found[0] is Status.STUCK:
                return found
            with trio.CancelScope() as scope:
                if not self.database.is_exclusive or self.worker is None:
                    scope.deadline = trio.current_time() + interval
                await changed.wait()
            interval = min(interval * 2, _LONGEST_LOOK)
        return None

    def _is_here(self, instance_id: str, local_result: LocalResult) -> bool:
        """Whether the instance has ended in this process, or is in its memory, so that its end is told."""
        return local_result.status is not None or (self.worker is not None and self.worker.is_resident(instance_id))

    def refuse_in_open_session(self, what: str) -> None:
        """It would wait for the transaction of the very activity that asks."""
        activity = current_execution.get()
        if not isinstance(activity, ActivityContext) or not self.database.has_one_writer:
            return
        if activity.used_session is not None and activity.used_session.is_open:
            raise RomancyError(
                f"instance {activity.instance_id!r}: activity {activity.activity_id!r} cannot {what} while its session "
                f"is open, because {self.database.name} has one writer; do it before the first statement, or in "
                f"another activity"
            )


def check_instance_id(instance_id: str) -> None:
    """Refuse an id that no database can store. Some databases would not even answer a query for it.

    Raises:
      InstanceNotFoundError: if no instance can have the id.
    """
    if not is_id(instance_id):
        raise InstanceNotFoundError(instance_id)


def _store_instance(connection: Connection, row: InstanceRow) -> None:
    row["started_after"] = messages.last_message(connection)
    instances.start_instance(connection, row)
    notify_workers(connection)
