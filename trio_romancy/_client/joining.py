"""Writes in the transactions of callers: what ``start_in``, ``send_event_in`` and ``cancel_in`` do.

Each is checked first, and then written by the same SQL functions that ``start``, ``send_event`` and ``cancel`` use.
Nothing here needs an open app, nor trio: every face of the app takes a :class:`Joined` where the caller's library runs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import trio
from attrs import frozen
from sqlalchemy import Connection

from .._definitions.values import Workflow
from .._storage import migrations
from .._storage.callers import callers_connection
from .._storage.callers.connection import CallersConnection, Runs, is_in_transaction, is_pipelined
from .._storage.dialects import backend_name, file_name, misses_commits, server_time, use_schema
from .._storage.drivers.urls import backend_of, file_of
from .._storage.sql import instances, messages, steering
from .._storage.sql.messages import Outgoing
from .._storage.sql.rows import MessageRow
from .._storage.sql.starts import start_for_any_worker
from ..clock import Microseconds, hold_virtual_time
from ..errors import DatabaseError, InstanceExistsError, InstanceNotFoundError, RomancyError
from ..model import SendResult
from .same_start import is_same_start

R = TypeVar("R")


@frozen(eq=False)
class Joined(Generic[R]):
    """A write that is checked, and has not been made. It is made once, by one of its two methods."""

    _caller: CallersConnection
    _write: Callable[[Connection], R]
    _notify: Callable[[], object] | None

    @property
    def runs(self) -> Runs:
        """Where the write must be made."""
        return self._caller.runs

    @property
    def shown(self) -> str:
        """What the caller has passed, for messages."""
        return self._caller.shown

    def here(self) -> R:
        """Make the write in this thread.

        Raises:
          TypeError: if the caller's library is for asyncio, or for trio.
        """
        if self.runs is not Runs.HERE:
            raise TypeError(f"{self._caller.shown} is for asynchronous code; here a blocking one is needed")
        result = self._caller.use(self._write)
        self._call_after_commit()
        return cast(R, result)

    async def in_task(self) -> R:
        """Make the write in a task of the library that :attr:`runs` names; in any task if that is no such library."""
        result = self._caller.use(self._write)
        done = await result if isinstance(result, Awaitable) else result
        self._call_after_commit()
        return cast(R, done)

    def _call_after_commit(self) -> None:
        if self._notify is not None:
            self._caller.after_commit(self._notify)


@frozen(eq=False)
class Joiner:
    """Prepares writes to one app's database.

    Args:
      url: the URL of the app's database.
      schema: the schema of the app's tables; None: the usual one.
      now: the clock of the open app; None: the time is that of the server, or of this machine.
      notify: called soon after the commit, in any thread, where the caller's library tells of it.
    """

    _url: str
    _schema: str | None
    _now: Callable[[], Microseconds] | None
    _notify: Callable[[], object] | None

    def start(
        self, connection: object, workflow: Workflow[..., Any], instance_id: str, text: str, trace: str | None
    ) -> Joined[None]:
        """Prepare the start of an instance whose input has been encoded and checked."""

        def write(connection: Connection, now: Microseconds) -> None:
            times = workflow.times
            row = instances.new_row(instance_id, workflow.name, text, now, owner=None, trace=trace, times=times)
            try:
                start_for_any_worker(connection, row)
            except InstanceExistsError as error:
                held = instances.get_instance(connection, instance_id)
                if not is_same_start(workflow, text, held, error):
                    raise

        return self._joined(connection, write)

    def send(self, connection: object, row: MessageRow) -> Joined[SendResult]:
        """Prepare an event that has been encoded and checked."""

        def write(connection: Connection, now: Microseconds) -> SendResult:
            outgoing = Outgoing({**row, "sent_at": now}, must_exist=True)
            messages.send_apart(connection, [outgoing], now)
            if outgoing.failure is not None:
                raise outgoing.failure
            assert row["event_id"] is not None
            return SendResult(row["event_id"], outgoing.is_duplicate, len(outgoing.waiting))

        return self._joined(connection, write, needs_current=True)

    def cancel(self, connection: object, instance_id: str, reason: str | None) -> Joined[bool]:
        """Prepare a request to cancel an instance. Its result is whether the instance will end as cancelled."""

        def write(connection: Connection, now: Microseconds) -> bool:
            answer = steering.request_cancel(connection, instance_id, reason, now)
            if answer is None:
                raise InstanceNotFoundError(instance_id)
            return answer.accepted

        return self._joined(connection, write, needs_current=True)

    def _joined(
        self,
        given: object,
        write: Callable[[Connection, Microseconds], R],
        *,
        needs_current: bool = False,
    ) -> Joined[R]:
        """Return a write to make.

        Args:
          needs_current: whether the write depends on queries that miss nothing that was committed.
        """
        caller = callers_connection(given)

        def checked(connection: Connection) -> R:
            if caller.runs is Runs.IN_TRIO:
                return write(connection, self._time(connection))  # of this app, and behind its own checks
            self._check_kind(connection, caller)
            if is_pipelined(connection):
                raise RomancyError(
                    f"{caller.shown} is in pipeline mode, which answers no statement before the next one; call this "
                    f"outside of `with connection.pipeline()`"
                )
            if self._schema is None:
                return checked_here(connection)
            with use_schema(connection, self._schema):
                return checked_here(connection)

        def checked_here(connection: Connection) -> R:
            migrations.check(connection, self._schema)
            if not is_in_transaction(connection):
                raise RomancyError(
                    f"{caller.shown} commits each statement by itself, so there is no transaction to join; "
                    f"{caller.begin}"
                )
            if needs_current and misses_commits(connection):
                raise RomancyError(
                    f"{caller.shown} is under REPEATABLE READ, where the transaction does not see who waits; set the "
                    f"isolation level of the connection to READ COMMITTED"
                )
            return write(connection, self._time(connection))

        return Joined(caller, checked, self._notify)

    def _check_kind(self, connection: Connection, caller: CallersConnection) -> None:
        """Check that the caller's database may be that of the app.

        Raises:
          DatabaseError: if it is another kind of database, or another file.
        """
        expected, found = backend_of(self._url), backend_name(connection)
        if found != expected:
            raise DatabaseError(f"{caller.shown} is to a database of {found}, and that of the app is {expected}")
        file = file_of(self._url)
        if file is not None:
            held = file_name(connection)
            if not file or not held:
                raise DatabaseError("a SQLite database in memory has one connection, which is that of its app")
            if not (Path(file).exists() and Path(file).samefile(held)):
                raise DatabaseError(f"{caller.shown} is to the file {held}, and that of the app is {file}")

    def _time(self, connection: Connection) -> Microseconds:
        if self._now is not None:
            return self._now()
        return server_time(connection) or time.time_ns() // 1000


async def make_in_trio(joined: Joined[R]) -> R:
    """Make a write in a task of trio. If the caller's library is for asyncio, the write crosses to asyncio.

    Raises:
      RomancyError: if no asyncio loop runs in this task.
    """
    if joined.runs is Runs.HERE:
        await trio.lowlevel.checkpoint_if_cancelled()
        return joined.here()
    if joined.runs is Runs.IN_TRIO:
        return await joined.in_task()
    # Its connections live in a loop of trio-asyncio, so that is imported.
    trio_asyncio = sys.modules.get("trio_asyncio")
    if trio_asyncio is None or trio_asyncio.current_loop.get() is None:
        raise RomancyError(f"{joined.shown} is for asyncio; call this in the asyncio loop that it was made in")
    with hold_virtual_time():
        result: R = await trio_asyncio.aio_as_trio(joined.in_task)()
        return result
