"""The engine of an open app: its database, and its worker if it has one."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext, suppress
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

import trio
from attrs import frozen

from .._context.activity import ActivityContext
from .._context.current import current_execution
from .._data.ids import is_id
from .._data.log_fields import about, visible
from .._data.start_times import StartTimes
from .._observe.dispatcher import HookDispatcher
from .._observe.instance_events import sent_info, tell_end
from .._runtime.run.local_result import LocalResult
from .._runtime.worker.worker import Worker
from .._storage.database import Database, SQLFunction
from .._storage.outages import retry_while_away
from .._storage.session import Session
from .._storage.sql import chains, instances, messages
from .._storage.sql.messages import Outgoing
from .._storage.sql.starts import start_for_any_worker
from .._storage.sql.termination import Termination
from ..clock import Clock
from ..errors import InstanceNotFoundError, RomancyError
from ..hooks import Hooks
from ..model import ErrorInfo, SendResult, Status

P = ParamSpec("P")
R = TypeVar("R")

_logger = logging.getLogger("trio_romancy.activity")

_SHORTEST_POLL = 0.02
_LONGEST_POLL = 1.0
"""Seconds between two queries for the end of an instance that another process may run."""

_LIKE_ANY_OTHER = nullcontext()

open_block: ContextVar[Session | None] = ContextVar("trio_romancy_block", default=None)
"""The session of the block of ``app.transaction()`` that the current task is in. Tasks that start in it inherit it."""


@frozen(eq=False)
class Engine:
    """The parts of an app inside its block."""

    database: Database
    clock: Clock
    worker: Worker | None
    """The worker; None: the app is only a client."""
    dispatcher: HookDispatcher | None
    """Calls the hooks; None: the app has none."""
    run: trio.lowlevel.TrioToken
    """Identifies the ``trio.run`` that the app belongs to."""

    def local_result(self, instance_id: str) -> LocalResult:
        """Return what this process knows of the end of an instance, now or later."""
        return self.worker.local_result(instance_id) if self.worker is not None else LocalResult()

    def watch_result(self, instance_id: str) -> LocalResult:
        """Return a result that is notified of each change of the instance by this process, as well."""
        return self.worker.watch_result(instance_id) if self.worker is not None else LocalResult()

    def learns_of_changes(self, instance_id: str) -> bool:
        """Tell whether this process makes all changes of an instance, so that no query is needed to learn of them."""
        worker = self.worker
        return worker is not None and (self.database.is_exclusive or worker.is_resident(instance_id))

    async def read(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run an SQL function that only reads. Wait while the database is away."""
        return await retry_while_away(self.database, lambda: self.database.read(fn, *args, **kwargs))

    async def write(self, fn: SQLFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run an SQL function that writes, and notify the worker. Wait while the database is away."""
        answer = await retry_while_away(self.database, lambda: self.database.run(fn, *args, **kwargs))
        if self.worker is not None:
            self.worker.notify_due()
        return answer

    def tell_end(self, ended: Termination) -> None:
        """Tell hooks, and the callers that wait for its result, of an instance that has ended without a worker."""
        if not ended.status.is_final:
            return
        if self.dispatcher is not None:
            me = "" if self.worker is None else self.worker.worker_id
            tell_end(self.dispatcher, ended, me, self.clock.now(), ended.status, ended.error)
        if self.worker is not None:
            self.worker.notify_result(ended.instance_id)

    def notify_commit(self) -> None:
        """Notify the worker of a commit by a caller, about now. Can be called in any thread, and after the end."""
        if self.worker is not None:
            with suppress(trio.RunFinishedError):
                self.run.run_sync_soon(self.worker.notify_soon)

    def tell_change(self, instance_id: str) -> None:
        """Notify the callers that watch an instance, or wait for it, of a change that no journal has made."""
        if self.worker is not None:
            self.worker.notify_result(instance_id)

    def notify_schedules(self) -> None:
        """Notify the worker of a schedule that was changed."""
        if self.worker is not None:
            self.worker.notify_schedules()

    def notify_relay(self) -> None:
        """Notify the relayer of events to send."""
        if self.worker is not None and self.worker.relay is not None:
            self.worker.relay.notify()

    async def start_elsewhere(
        self, instance_id: str, workflow: str, text: str, trace: str | None, times: StartTimes | None
    ) -> None:
        """Store a new instance, for any worker."""
        row = instances.new_row(instance_id, workflow, text, self.clock.now(), owner=None, trace=trace, times=times)
        await self.write(start_for_any_worker, row)
        if times is not None and self.worker is not None:
            self.worker.notify_deadlines()

    async def send(self, outgoing: Outgoing) -> SendResult:
        """Store a message or an event for its receivers.

        Raises: the failure of the message, if it cannot be sent.
        """
        id = outgoing.row["event_id"]
        assert id is not None  # every message of a client has one
        is_new = outgoing.is_new  # a repeated commit can find no other duplicate than the message itself
        if self.worker is not None:
            await self.worker.send([outgoing])
        else:
            await self.write(messages.send_apart, [outgoing], self.clock.now())
        if outgoing.failure is not None:
            raise outgoing.failure
        is_duplicate = outgoing.is_duplicate and not is_new
        if self.dispatcher is not None and not is_duplicate:
            is_event = outgoing.row["source"] is not None
            self.dispatcher.call(Hooks.event_sent if is_event else Hooks.message_sent, sent_info(outgoing.row))
        return SendResult(id, is_duplicate, len(outgoing.waiting))

    async def wait(self, instance_id: str, local_result: LocalResult) -> tuple[Status, str | None, ErrorInfo | None]:
        """Wait until an instance has ended, or the last one of its chain. Return status, output and error of that one.

        An end in this process is learned from ``local_result``. Otherwise the database is polled. An activity that
        waits leaves its place among the running instances to others, of which the awaited one may be the first.
        """
        activity = current_execution.get()
        if not isinstance(activity, ActivityContext):
            return await self._wait(instance_id, local_result)
        _warn_of_vain_wait(activity, instance_id)
        with self.apart_from_session("await an instance"), activity.awaiting_instance():
            return await self._wait(instance_id, local_result)

    async def _wait(self, instance_id: str, local_result: LocalResult) -> tuple[Status, str | None, ErrorInfo | None]:
        while True:
            found = None
            while found is None:
                if local_result.status is not None:
                    found = local_result.status, local_result.output, local_result.error
                elif self.worker is not None and self.worker.is_resident(instance_id):
                    await local_result.changed().wait()
                else:
                    found = await self._poll_for_end(instance_id, local_result)
            if found[0] is not Status.RECURRED:
                return found
            last = await self.read(chains.last_of, instance_id)
            if last is None:
                raise InstanceNotFoundError(instance_id)
            instance_id, local_result = last, self.local_result(last)

    async def _poll_for_end(
        self, instance_id: str, local_result: LocalResult
    ) -> tuple[Status, str | None, ErrorInfo | None] | None:
        """Query the database until the instance has ended elsewhere. None: it is, or was, in this process by now."""
        interval = _SHORTEST_POLL
        while not self._is_here(instance_id, local_result):
            if self.worker is not None:
                self.worker.refuse_if_ended()
            changed = local_result.changed()  # taken before the query, so that no change falls in between
            found = await self.read(instances.get_ending, instance_id)
            if found is None:
                raise InstanceNotFoundError(instance_id)
            if self._is_here(instance_id, local_result):
                break  # it has ended, or was claimed, during the query
            if found[0].is_final or found[0] is Status.STUCK:
                return found
            with trio.CancelScope() as scope:
                if not self.database.is_exclusive or self.worker is None:
                    scope.deadline = trio.current_time() + interval
                await changed.wait()
            interval = min(interval * 2, _LONGEST_POLL)
        return None

    def _is_here(self, instance_id: str, local_result: LocalResult) -> bool:
        """Tell whether the instance has ended in this process, or is in its memory, so that no query is needed."""
        return local_result.status is not None or (self.worker is not None and self.worker.is_resident(instance_id))

    def apart_from_session(self, what: str) -> AbstractContextManager[None]:
        """Return a context manager for a write by an activity apart from its session, on a database with one writer.

        The write would wait for the transaction of the session, and the activity for the write. So the transaction must
        not be open, and begins only after the block. Elsewhere, and for other callers, the block is like any other.

        Args:
          what: what the activity wants, for the message.

        Raises:
          RomancyError: if the current task or thread belongs to an activity with an open session.
        """
        if not self.database.has_one_writer:
            return _LIKE_ANY_OTHER
        block = open_block.get()
        if block is not None and block.has_begun and not block.has_ended:
            raise RomancyError(
                f"a task in a block of app.transaction() cannot {what} apart from it, because {self.database.name} has "
                f"one writer; call the method of the session, or do it after the block"
            )
        activity = current_execution.get()
        if not isinstance(activity, ActivityContext) or activity.has_ended:
            return _LIKE_ANY_OTHER
        session = activity.session
        if session.has_begun:
            raise RomancyError(
                f"instance {activity.instance_id!r}: activity {activity.activity_id!r} cannot {what} while its session "
                f"is open, because {self.database.name} has one writer; do it before the first statement, or in "
                f"another activity"
            )
        return session.apart()


def _warn_of_vain_wait(activity: ActivityContext, instance_id: str) -> None:
    """Log what the wait of an activity for an instance holds up."""
    session = activity.used_session
    if activity.has_ended:
        return
    if instance_id == activity.instance_id:
        why = "its own instance, which ends only after the activity; await it elsewhere"
    elif session is not None and session.is_open:
        why = (
            "an instance while its session is open, whose locks and connection are held until then; await it before "
            "the first statement, or in another activity"
        )
    else:
        return
    message = "instance %s: activity %s awaits %s"
    ids = visible(activity.instance_id), visible(activity.activity_id)
    _logger.warning(message, *ids, why, extra=about(activity.instance_id, activity.workflow, activity.activity_id))


def check_instance_id(instance_id: str) -> None:
    """Refuse an id that no database can store. Some databases would not even answer a query for it.

    Raises:
      InstanceNotFoundError: if no instance can have the id.
    """
    if not is_id(instance_id):
        raise InstanceNotFoundError(instance_id)
