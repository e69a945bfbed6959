"""The app for synchronous programs. Made from the app for trio by ``docs/faces.py``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from sqlalchemy import Executable
from sqlalchemy.engine import Result, ScalarResult

from ._client.handle import WorkflowHandle as _WorkflowHandle
from ._client.schedules import Schedules as _Schedules
from ._client.transaction import TransactionSession as _TransactionSession
from ._client.watch import InstanceChanges as _InstanceChanges
from ._data.conditions import GivenPath, Where
from ._definitions.schedule import Schedule
from ._definitions.values import Workflow
from ._outbox.view import Outbox as _Outbox
from ._portal.blocking_app import BlockingApp
from ._portal.blocking_block import BlockingBlock, BlockingBlockPortal
from ._portal.blocking_portal import BlockingPortal
from ._settings import Limits, OutboxSettings, WebSettings
from ._storage.open import POOL_SIZE
from ._storage.outgoing import DEFAULT_SOURCE
from ._storage.session import E, Parameters
from .app import App as _App
from .app import AppStatistics
from .clock import Duration
from .hooks import Hooks
from .limits import Rate
from .model import (
    Instance,
    InstancePage,
    JournalPage,
    LimitInfo,
    OutboxPage,
    OutboxStatus,
    Overlap,
    ScheduleInfo,
    SendResult,
    SkippedOccurrence,
    Status,
    WorkerInfo,
)
from .retry import RetryPolicy

if TYPE_CHECKING:
    import builtins

    import sqlalchemy.orm

__all__ = ["App", "InstanceChanges", "Outbox", "Schedules", "TransactionSession", "WorkflowHandle"]

P = ParamSpec("P")
R = TypeVar("R")


class InstanceChanges:
    """Iterator over the changes of one instance. Made by :meth:`WorkflowHandle.watch`."""

    def __init__(self, portal: BlockingPortal, inner: _InstanceChanges) -> None:
        self._portal = portal
        self._inner = inner

    def next_change(self) -> Instance | None:
        """Wait for the next change, and return the instance as it is then; None: it has ended."""
        return self._portal.call(self._inner.next_change)

    def __iter__(self) -> InstanceChanges:
        return self

    def __next__(self) -> Instance:
        instance = self.next_change()
        if instance is None:
            raise StopIteration
        return instance


class WorkflowHandle(Generic[R]):
    """One instance, as its clients see it. The instance does not depend on its handles."""

    def __init__(self, portal: BlockingPortal, inner: _WorkflowHandle[R]) -> None:
        self._portal = portal
        self._inner = inner

    def __repr__(self) -> str:
        return f"WorkflowHandle(instance_id={self.instance_id!r})"

    @property
    def instance_id(self) -> str:
        return self._inner.instance_id

    def result(self, timeout: Duration | None = None) -> R:
        """Wait until the instance has ended, and return the result of its workflow, which is durable by then.

        Cancelling the wait does not cancel the instance.

        Args:
          timeout: time limit of the wait: seconds, or a timedelta; None or ``math.inf``: no limit.

        Raises:
          WorkflowFailedError: if the workflow failed.
          WorkflowCancelledError: if it was cancelled; if it was terminated, its subclass WorkflowTerminatedError.
          WorkflowStuckError: if it is parked. Once it is resumed, ``result`` can be called again.
          InstanceNotFoundError: if there is no such instance.
          InvalidDataError: if its result does not fit what the workflow returns in this process, or the type that
            :meth:`App.handle` was given.
          ResultTimeoutError: if it has not ended in time.
        """
        return self._portal.call(self._inner.result, timeout)

    def cancel(self, reason: str | None = None) -> bool:
        """Request the cancellation of the instance: see :meth:`App.cancel`."""
        return self._portal.call(self._inner.cancel, reason)

    def terminate(self, reason: str | None = None, *, compensate: bool = False) -> bool:
        """End the instance at once, whatever its code does: see :meth:`App.terminate`."""
        return self._portal.call(self._inner.terminate, reason, compensate=compensate)

    def resume(self) -> bool:
        """Let the instance go on if it is stuck: see :meth:`App.resume`."""
        return self._portal.call(self._inner.resume)

    def retry(self) -> bool:
        """Start the instance again from its first failed operation: see :meth:`App.retry`."""
        return self._portal.call(self._inner.retry)

    def status(self) -> Status:
        """Return the status of the instance, as the database shows it now.

        Raises:
          InstanceNotFoundError: if there is no such instance.
        """
        return self._portal.call(self._inner.status)

    def details(self) -> Any:
        """Return what the workflow or an activity said last by ``set_details``, as plain JSON data.

        It is None if nothing was said, and once the instance has ended.

        Raises:
          InstanceNotFoundError: if there is no such instance.
        """
        return self._portal.call(self._inner.details)

    def watch(self) -> InstanceChanges:
        """Iterate over the changes of status and details: ``for instance in handle.watch()``.

        The first item is the instance as it is now. Each further one follows when its status or its details have
        changed; states that it has left again meanwhile are passed over. The iteration ends with the instance, and goes
        on with its successor if it recurs. An instance that this process runs is not polled for.

        Cancelling an iteration does not cancel the instance.

        Raises:
          InstanceNotFoundError: by the iteration, if there is no such instance.
        """
        return InstanceChanges(self._portal, self._inner.watch())


class Outbox:
    """The outbox: events that activities have sent to the broker by :meth:`ActivityContext.send_event`.

    An event is in it if and only if its activity has committed. A worker with a ``broker_url`` posts it there: at least
    once, with the same id each time, and the events of one instance in the order in which they were sent. Several
    workers share that work. Without any ``broker_url`` the events wait.

    * An event that the broker takes (any 2xx) is ``sent``, and deleted a day later.
    * An event that the broker does not take now (408, 425, 429, 5xx, no answer, no connection) is tried again, with
      delays that double up to five minutes, and not before the time that a ``Retry-After`` names. Later events of the
      same instance wait for it, those of other instances do not.
    * An event that the broker refuses (any other answer) is ``invalid``; after the ``max_attempts`` of
      :class:`~trio_romancy.OutboxSettings` it is ``failed``; if it is older than their ``max_age`` it is ``expired``.
      Then no attempt follows, and no other event waits for it. It stays for thirty days, to be examined and retried.
    """

    def __init__(self, portal: BlockingPortal, inner: _Outbox) -> None:
        self._portal = portal
        self._inner = inner

    def list(
        self,
        *,
        status: OutboxStatus | None = None,
        instance_id: str | None = None,
        limit: int = 100,
        page_token: str | None = None,
    ) -> OutboxPage:
        """Return one page of events as the database shows them now: the oldest first, those of one instance in order.

        Args:
          status: only events with this status.
          instance_id: only events of this instance.
          limit: most events on the page.
          page_token: token of the next page, from the page before. The other arguments must be the same.

        Raises:
          InvalidInputError: if the page token is not valid.
          ValueError: if the status does not exist, or the limit is not positive.
        """
        return self._portal.call(
            self._inner.list, status=status, instance_id=instance_id, limit=limit, page_token=page_token
        )

    def retry(self, event_id: str) -> bool:
        """Send an event as if it were new: one that failed, expired or is invalid, or that waits for its next attempt.

        Its attempts and its age are counted from now on. If later events of its instance were sent meanwhile, it comes
        after them.

        Returns:
          Whether there was such an event. An event that was sent, or is being sent at this moment, is left alone.
        """
        return self._portal.call(self._inner.retry, event_id)

    def retry_all(self, status: OutboxStatus | None = None) -> int:
        """Send all events that no attempt follows as if they were new: see :meth:`retry`.

        Args:
          status: only events that are ``failed``, ``invalid`` or ``expired``; None: all of these.

        Returns:
          The number of these events.

        Raises:
          ValueError: if the status is another one.
        """
        return self._portal.call(self._inner.retry_all, status)


class Schedules:
    """The schedules in the database, whether an app declares them or :meth:`App.schedule` has made them.

    An unknown name raises :exc:`ScheduleNotFoundError`. What is done here is durable when the method returns.
    """

    def __init__(self, portal: BlockingPortal, inner: _Schedules) -> None:
        self._portal = portal
        self._inner = inner

    def list(self) -> list[ScheduleInfo]:
        """Return all schedules as the database shows them now, in the order of their names."""
        return self._portal.call(self._inner.list)

    def get(self, name: str) -> ScheduleInfo:
        """Return a schedule as the database shows it now."""
        return self._portal.call(self._inner.get, name)

    def next(self, name: str, number: int = 10) -> builtins.list[datetime]:
        """Return the next occurrences, in UTC, without those that are excluded or to be skipped.

        Those of a paused schedule are what would come if it were resumed now.

        Args:
          name: name of the schedule.
          number: how many to return, at most 1,000.
        """
        return self._portal.call(self._inner.next, name, number)

    def skipped(self, name: str | None = None, *, limit: int = 100) -> builtins.list[SkippedOccurrence]:
        """Return occurrences that were skipped, the last first. They are kept for 30 days.

        Args:
          name: only those of this schedule, which may have been deleted.
          limit: most occurrences to return.
        """
        return self._portal.call(self._inner.skipped, name, limit=limit)

    def pause(self, name: str, reason: str | None = None) -> bool:
        """Pause a schedule. Its occurrences do not count meanwhile; instances that run go on.

        Args:
          name: name of the schedule.
          reason: a text that the schedule shows.

        Returns:
          Whether it was not paused before.
        """
        return self._portal.call(self._inner.pause, name, reason)

    def resume(self, name: str) -> bool:
        """Let a paused schedule go on with the next occurrence from now on. Returns whether it was paused."""
        return self._portal.call(self._inner.resume, name)

    def trigger(self, name: str) -> WorkflowHandle[Any]:
        """Start an instance of a schedule now, also if it is paused, or an earlier one has not ended.

        The id of the instance names the time of the call. Overlap policies take it for an occurrence.

        Returns:
          The handle of the instance.
        """
        return WorkflowHandle(self._portal, self._portal.call(self._inner.trigger, name))

    def backfill(self, name: str, start: datetime, end: datetime) -> int:
        """Start the occurrences of a time in the past, except those that were started before.

        They start one after the other, or all at once if the overlap policy is ``allow_all``. A regular occurrence that
        is due meanwhile meets them as earlier ones. While the schedule is paused they wait.

        Args:
          name: name of the schedule.
          start, end: aware datetimes. The occurrences from ``start`` on are started, up to the one before ``end``.

        Returns:
          The number of occurrences that will be started.

        Raises:
          ValueError: if the time is not in the past, or has more than 10,000 occurrences.
        """
        return self._portal.call(self._inner.backfill, name, start, end)

    def skip(self, name: str, due_at: datetime) -> bool:
        """Skip one occurrence that is still to come. Returns whether there is one at that time.

        Args:
          name: name of the schedule.
          due_at: time of the occurrence, as an aware datetime; see :meth:`next`.
        """
        return self._portal.call(self._inner.skip, name, due_at)

    def delete(self, name: str) -> None:
        """Delete a schedule. Its instances stay, and those that run go on."""
        self._portal.call(self._inner.delete, name)


class TransactionSession:
    """The session of :meth:`App.transaction`: a :class:`Session` that can also start, send and cancel."""

    def __init__(self, portal: BlockingBlockPortal, inner: _TransactionSession) -> None:
        self._portal = portal
        self._inner = inner

    def run_sync(self, fn: Callable[[sqlalchemy.orm.Session], R]) -> R:
        """Run ``fn(session)`` with the synchronous session and return its result.

        Use it to run many statements in one go, and to follow relationships that load lazily. ``fn`` may run in another
        thread, and no other task has the session meanwhile.

        Raises:
          RomancyError: if the attempt has ended, or its code has ended the transaction.
        """
        return self._portal.call(self._inner.run_sync, fn)

    def execute(self, statement: Executable, parameters: Parameters | None = None) -> Result[Any]:
        """Run a statement and return its result, with all rows fetched."""
        return self._portal.call(self._inner.execute, statement, parameters)

    def scalars(self, statement: Executable, parameters: Parameters | None = None) -> ScalarResult[Any]:
        """Run a statement and return the first column of every row."""
        return self._portal.call(self._inner.scalars, statement, parameters)

    def scalar(self, statement: Executable, parameters: Parameters | None = None) -> Any:
        """Run a statement and return the first column of the first row, or None if there is no row."""
        return self._portal.call(self._inner.scalar, statement, parameters)

    def get(self, entity: type[E], key: Any, **options: Any) -> E | None:
        """Return the object with a primary key, or None."""
        get: Any = self._inner.get
        found: E | None = self._portal.call(get, entity, key, **options)
        return found

    def add(self, instance: object) -> None:
        """Add an object. The next flush inserts it."""
        self._portal.call(self._inner.add, instance)

    def add_all(self, instances: Iterable[object]) -> None:
        """Add objects. The next flush inserts them."""
        self._portal.call(self._inner.add_all, instances)

    def delete(self, instance: object) -> None:
        """Mark an object as deleted. The next flush deletes it."""
        self._portal.call(self._inner.delete, instance)

    def refresh(self, instance: object) -> None:
        """Load the columns of an object again."""
        self._portal.call(self._inner.refresh, instance)

    def flush(self) -> None:
        """Send pending changes to the database now. Queries and the end of the activity do so by themselves."""
        self._portal.call(self._inner.flush)

    def begin_nested(self) -> AbstractContextManager[None]:
        """Open a savepoint. If the block raises, only its changes are undone, and the exception propagates.

        Tasks that were started in the block take part in it. All others wait until it has ended.
        """
        return self._portal.nested(self._inner.begin_nested)

    @overload
    def start(self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> WorkflowHandle[R]: ...
    @overload
    def start(self, workflow: str, input: Any, /, *, id: str | None = None) -> WorkflowHandle[Any]: ...
    def start(self, workflow: Any, /, *args: Any, **kwargs: Any) -> WorkflowHandle[Any]:
        """Start an instance if and only if the block commits. Await its result after the block.

        Args, Raises: as of :meth:`App.start_in`.
        """
        start: Any = self._inner.start
        return WorkflowHandle(self._portal.app_portal, self._portal.call(start, workflow, *args, **kwargs))

    def send_event(
        self,
        type: str,
        data: Any = None,
        *,
        source: str = DEFAULT_SOURCE,
        id: str | None = None,
        subject: str | None = None,
        to: str | None = None,
        time: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> SendResult:
        """Send an event if and only if the block commits. Call it last: other transactions that send wait for this one.

        Args, Raises: as of :meth:`App.send_event_in`.
        """
        return self._portal.call(
            self._inner.send_event,
            type,
            data,
            source=source,
            id=id,
            subject=subject,
            to=to,
            time=time,
            metadata=metadata,
        )

    def cancel(self, instance_id: str, reason: str | None = None) -> bool:
        """Request the cancellation of an instance if and only if the block commits.

        Args, Returns, Raises: as of :meth:`App.cancel_in`.
        """
        return self._portal.call(self._inner.cancel, instance_id, reason)


class App(BlockingApp):
    """Runs durable workflows in one database, for synchronous code. Used as ``with App(...) as app``.

    It is a :class:`trio_romancy.App` in a thread of its own, where workflows and activities run under trio. Its methods
    can be called in every other thread of the process, which they block. Ctrl-C ends a call at once, and cancels it.
    The app can be entered again after its block has ended.

    Args:
      database: a file name, ``":memory:"``, ``sqlite:///file``, or the URL of a server: ``mysql://``, ``mariadb://``,
        ``postgres://`` or ``postgresql://``, with user, password, host and database. With several hosts, as in
        ``mysql://user@one:3306,two:3306/database``, the first usable host is used; when it fails, the next one.
      worker_id: name of this worker, unique among the live workers of the database. A process that starts under the id
        of a dead worker takes over its instances at once. By default the name consists of host, process and random
        digits; the instances are then taken over by the next process on the same machine, or by any worker after the
        lease.
      worker: False makes a client, which starts, awaits and cancels instances, and runs none.
      retry: retry policy of activities that have none, by default :meth:`RetryPolicy.default`.
      lease: seconds (or a timedelta) of silence after which other workers take over the instances of this one. While
        code holds the event loop, the lease is renewed for six times as long.
      idle_timeout: seconds (or a timedelta) that an instance must have waited before it leaves memory.
      max_running: most instances in memory that do not just wait, for messages, time, or other instances. Further ones
        are stored, and run in turn.
      max_resident: most instances in memory.
      pool_size: most connections to a database server, at least 2. One of them is kept free of the sessions of
        activities. The journal and the heartbeat have further ones of their own; on PostgreSQL another one listens.
      direct_url: URL of the same database of PostgreSQL past a pooler such as PgBouncer, which ``database`` leads to.
        Only notifications and :meth:`index_input` use it. Without it, a worker behind a pooler polls.
      schema: schema of PostgreSQL that the tables are in, so that several apps are side by side in one database. It is
        created with the tables. Other names in sessions of activities mean tables in it, too, or in ``public``.
      code_version: version of the code of this process, such as a commit or a release. An instance whose journal does
        not fit the code of one version is left to workers that run another. By default it is made of what this process
        defines: the code of workflow functions, without the functions that they call; the names of all definitions; and
        the types of the data that are stored.
      check_arguments: whether to record digests of the arguments of each activity and child, and to park an instance
        whose replay passes others. Each call takes some 10 microseconds longer. Arguments of an activity that has
        failed are always compared before the next attempt.
      start_timeout: seconds (or a timedelta) that the database may be away when the block is entered. After that there
        is no limit.
      shutdown_timeout: seconds (or a timedelta) that running activities have to finish when the block ends.
      message_retention: seconds (or a timedelta) that events and messages are kept. For the same time a second event of
        the same source and id is recognised.
      auto_migrate: whether to create or upgrade the tables. Otherwise they must exist.
      broker_url: URL that the worker posts the events of the :attr:`outbox` to, with ``user:password@`` for basic
        authentication. Without a URL the events stay in the outbox. Needs the extra ``trio_romancy[web]``.
      limits: most threads of plain ``def`` activities, the largest payload, and most deaths of workers that an instance
        may outlive, see :class:`Limits`.
      outbox: how events are posted to the broker, see :class:`OutboxSettings`.
      web: what clients of :attr:`asgi` must present and may send, see :class:`WebSettings`.
      schedules: schedules that this program declares, see :class:`Schedule`. Entering the block stores what has
        changed. Those of its workflows that were declared before, and are not any more, are paused. None: it declares
        none, and pauses none.
      hooks: hooks to call, see :class:`Hooks`.

    ``math.inf`` as a duration means that there is no limit. Only ``lease`` must have an end.

    At the end of the block, also by an exception or a cancellation, running activities may finish and are recorded.
    Then all instances are given back to the database, for the next worker.

    Raises:
      ValueError, TypeError: if an option is not valid.
      DatabaseError: on entering the block, if the database cannot be used.
    """

    def __init__(
        self,
        database: str = "romancy.db",
        *,
        worker_id: str | None = None,
        worker: bool = True,
        retry: RetryPolicy | None = None,
        lease: Duration = 10.0,
        idle_timeout: Duration = 10.0,
        max_running: int = 1000,
        max_resident: int = 10000,
        pool_size: int = POOL_SIZE,
        direct_url: str | None = None,
        schema: str | None = None,
        code_version: str | None = None,
        check_arguments: bool = False,
        start_timeout: Duration = 30.0,
        shutdown_timeout: Duration = 30.0,
        message_retention: Duration = 24 * 3600.0,
        auto_migrate: bool = True,
        broker_url: str | None = None,
        limits: Limits | None = None,
        outbox: OutboxSettings | None = None,
        web: WebSettings | None = None,
        schedules: Sequence[Schedule] | None = None,
        hooks: Sequence[Hooks] = (),
    ) -> None:
        super().__init__(
            lambda: _App(
                database,
                worker_id=worker_id,
                worker=worker,
                retry=retry,
                lease=lease,
                idle_timeout=idle_timeout,
                max_running=max_running,
                max_resident=max_resident,
                pool_size=pool_size,
                direct_url=direct_url,
                schema=schema,
                code_version=code_version,
                check_arguments=check_arguments,
                start_timeout=start_timeout,
                shutdown_timeout=shutdown_timeout,
                message_retention=message_retention,
                auto_migrate=auto_migrate,
                broker_url=broker_url,
                limits=limits,
                outbox=outbox,
                web=web,
                schedules=schedules,
                hooks=hooks,
            )
        )

    @overload
    def start(self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> WorkflowHandle[R]: ...
    @overload
    def start(self, workflow: str, input: Any, /, *, id: str | None = None) -> WorkflowHandle[Any]: ...
    def start(self, workflow: Any, /, *args: Any, **kwargs: Any) -> WorkflowHandle[Any]:
        """Start an instance. It is durable once this returns: no crash can lose it any more.

        If the call is cancelled, the instance may or may not have been stored. With an id of your own
        (``workflow.options(id=...)``) it is safe to start it again.

        Args:
          workflow: the workflow; or its name, followed by the input as plain JSON data, and optionally ``id=...``.
          args, kwargs: arguments of the workflow after its context.

        Returns:
          The handle of the instance. If the same workflow was started before with the same id and input, it is the
          handle of that instance.

        Raises:
          InvalidInputError: naming every bad field. Nothing is stored.
          PayloadTooLargeError: if the input is larger than ``max_payload``. Nothing is stored.
          InstanceExistsError: if an instance of another workflow, or with another input, has the id.
        """
        start: Any = self._portal.app.start
        return WorkflowHandle(self._portal, self._portal.call(start, workflow, *args, **kwargs))

    @overload
    def handle(self, instance_id: str, result_of: Workflow[..., R], /) -> WorkflowHandle[R]: ...
    @overload
    def handle(self, instance_id: str, result_type: type[R], /) -> WorkflowHandle[R]: ...
    @overload
    def handle(self, instance_id: str, result_type: Any = Any, /) -> WorkflowHandle[Any]: ...
    def handle(self, instance_id: str, result_type: Any = Any, /) -> WorkflowHandle[Any]:
        """Return the handle of an instance that was started before, in this process or another.

        Args:
          instance_id: id of the instance.
          result_type: the workflow, or the type of its result: what ``result()`` of the handle returns. By default it
            is plain JSON data.

        Raises:
          TypeError: if values of the type cannot be stored.
        """
        handle: Any = self._portal.app.handle
        return WorkflowHandle(self._portal, handle(instance_id, result_type))

    def schedule(
        self,
        name: str,
        workflow: Workflow[..., Any],
        /,
        *args: Any,
        cron: str | None = None,
        every: Duration | None = None,
        tz: str = "UTC",
        exclude: Sequence[date | str] = (),
        overlap: Overlap | str = Overlap.SKIP,
        catch_up: Duration = 86400.0,
        jitter: Duration = 0.0,
        pause_on_failure: bool = False,
    ) -> None:
        """Start a workflow again and again. The schedule is durable once this returns, and can be called again.

        A schedule of the name that is there is changed; if nothing changes, its next occurrence stays as it is.

        Args:
          name, workflow, args: as of :class:`Schedule`.
          cron, every, tz, exclude, overlap, catch_up, jitter, pause_on_failure: as of :class:`Schedule`.

        Raises:
          InvalidInputError, ValueError, TypeError: as of :class:`Schedule`. Nothing is stored.
          PayloadTooLargeError: if the input is larger than ``max_payload``. Nothing is stored.
        """
        self._portal.call(
            self._portal.app.schedule,
            name,
            workflow,
            *args,
            cron=cron,
            every=every,
            tz=tz,
            exclude=exclude,
            overlap=overlap,
            catch_up=catch_up,
            jitter=jitter,
            pause_on_failure=pause_on_failure,
        )

    @property
    def schedules(self) -> Schedules:
        """The schedules in the database: to list, pause, trigger and backfill them, and more."""
        return Schedules(self._portal, self._portal.app.schedules)

    def send_event(
        self,
        type: str,
        data: Any = None,
        *,
        source: str = DEFAULT_SOURCE,
        id: str | None = None,
        subject: str | None = None,
        to: str | None = None,
        time: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> SendResult:
        """Send an event to every instance that waits for its type, now or later. It is durable once this returns.

        It reaches every instance that was started before, no matter when the instance waits for it; see
        :meth:`WorkflowContext.wait_event`. It is kept for the app's ``message_retention``.

        If the call is cancelled, the event may or may not have been stored. With an ``id`` of your own it is safe to
        send it again.

        Args:
          type: type of the event, such as ``"payment.received"``.
          data: plain JSON data, or a value of a type that can be stored.
          source: source of the event.
          id: id of the event, by default a new one. Of the events of one source and id only the first is accepted.
          subject: subject of the event.
          to: id of the one instance that can receive it; None: every instance that waits for it.
          time: time of the event, as an aware datetime; None: now.
          metadata: plain JSON data that accompany it, for workflows that receive it as a :class:`Message`.

        Raises:
          InvalidInputError: naming everything that is wrong with the event. Nothing is stored.
          PayloadTooLargeError: if the event is larger than ``max_payload``. Nothing is stored.
          InstanceNotFoundError: if there is no instance ``to``. Nothing is stored.
        """
        return self._portal.call(
            self._portal.app.send_event,
            type,
            data,
            source=source,
            id=id,
            subject=subject,
            to=to,
            time=time,
            metadata=metadata,
        )

    def publish(
        self, channel: str, data: Any, *, metadata: Mapping[str, Any] | None = None, to: str | None = None
    ) -> SendResult:
        """Publish a message to a channel. It is durable once this returns, and kept for ``message_retention``.

        If the call is cancelled, the message may or may not have been stored.

        Args:
          channel: name of the channel.
          data: plain JSON data, or a value of a type that can be stored.
          metadata: plain JSON data that accompany it.
          to: id of the one instance that receives it, as of :meth:`WorkflowContext.send_to`; None: the subscribers.

        Raises:
          InvalidInputError: naming everything that is wrong with the message. Nothing is stored.
          PayloadTooLargeError: if the message is larger than ``max_payload``. Nothing is stored.
          InstanceNotFoundError: if there is no instance ``to``. Nothing is stored.
        """
        return self._portal.call(self._portal.app.publish, channel, data, metadata=metadata, to=to)

    @overload
    def start_in(
        self, connection: Any, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> WorkflowHandle[R]: ...
    @overload
    def start_in(
        self, connection: Any, workflow: str, input: Any, /, *, id: str | None = None
    ) -> WorkflowHandle[Any]: ...
    def start_in(self, connection: Any, workflow: Any, /, *args: Any, **kwargs: Any) -> WorkflowHandle[Any]:
        """Start an instance in the caller's own transaction: if that is rolled back, nothing was started.

        The instance is durable once the caller has committed, and is claimed then. Only the same connection sees it
        before, so await its result after the commit. The app need not be open.

        Args:
          connection: a connection or a session of SQLAlchemy (also those for asyncio), a connection of psycopg,
            asyncpg, PyMySQL, aiomysql or sqlite3, ``django.db.connection``, or what :meth:`transaction` gives. Its
            transaction is open, in the database of this app. Savepoints count. A connection that blocks does so here.
          workflow: as of :meth:`start`.
          args, kwargs: as of :meth:`start`.

        Returns:
          The handle of the instance.

        Raises:
          RomancyError: if each statement of the connection commits by itself.
          DatabaseError: if the connection is to another kind of database, or to one without the tables of this version.
          InvalidInputError, PayloadTooLargeError, InstanceExistsError: as of :meth:`start`. The transaction can go on.

        Errors of the database are those of the caller's library. After a cancellation, roll back.
        """
        joined, started, instance_id = self._portal.app.prepare_start_in(connection, workflow, args, kwargs)
        self._portal.make(joined)
        return WorkflowHandle(self._portal, self._portal.app.handle(instance_id, started))

    def send_event_in(
        self,
        connection: Any,
        type: str,
        data: Any = None,
        *,
        source: str = DEFAULT_SOURCE,
        id: str | None = None,
        subject: str | None = None,
        to: str | None = None,
        time: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> SendResult:
        """Send an event in the caller's own transaction: if that is rolled back, nothing was sent.

        Messages are numbered in the order in which they are committed. So from this call until the commit, every other
        transaction that sends waits: call it last.

        Args:
          connection: as of :meth:`start_in`. On MariaDB and MySQL its isolation level is READ COMMITTED.
          type, data, source, id, subject, to, time, metadata: as of :meth:`send_event`.

        Raises: as of :meth:`start_in` and :meth:`send_event`.
        """
        return self._portal.make(
            self._portal.app.prepare_send_event_in(
                connection, type, data, source=source, id=id, subject=subject, to=to, time=time, metadata=metadata
            )
        )

    def cancel_in(self, connection: Any, instance_id: str, reason: str | None = None) -> bool:
        """Request the cancellation of an instance in the caller's own transaction.

        The row of the instance is locked until the commit, and its worker waits for it: commit soon.

        Args:
          connection: as of :meth:`send_event_in`.
          instance_id, reason: as of :meth:`cancel`.

        Returns: as of :meth:`cancel`, if the transaction commits.

        Raises: as of :meth:`start_in` and :meth:`cancel`.
        """
        return self._portal.make(self._portal.app.prepare_cancel_in(connection, instance_id, reason))

    def transaction(self) -> AbstractContextManager[TransactionSession]:
        """Return a transaction for your own tables and for what you start, as ``with app.transaction() as tx``.

        The session ``tx`` takes Core statements and ORM objects of SQLAlchemy, as ``current_activity().session`` does,
        and ``tx.start``, ``tx.send_event`` and ``tx.cancel`` join it. It begins with the first statement, and commits
        at the end of the block. If the block raises, it is rolled back. On SQLite it keeps all others from writing, so
        do slow things before the first statement.

        At the end of the block an error of SQLAlchemy is raised if the database refuses the commit. If the connection
        is lost just then, the transaction may have been committed all the same.
        """
        return BlockingBlock(self._portal, self._portal.app.transaction, TransactionSession)

    def get_instance(self, instance_id: str) -> Instance | None:
        """Return an instance as the database shows it now; None if no instance has the id."""
        return self._portal.call(self._portal.app.get_instance, instance_id)

    def list_instances(
        self,
        *,
        workflow: str | None = None,
        status: Status | Collection[Status] | None = None,
        instance_id: str | None = None,
        parent: str | None = None,
        created_from: datetime | None = None,
        created_before: datetime | None = None,
        limit: int = 50,
        page_token: str | None = None,
    ) -> InstancePage:
        """Return one page of the instances that match all arguments, the newest first.

        The pages neither skip nor repeat an instance that was there at the first one, even if others are started
        meanwhile.

        Args:
          workflow: a part of the workflow's name. Workflows that this process does not define are found, too.
          status: a status, or several of which the instance has one.
          instance_id: a part of the instance id.
          parent: id of the instance that started it as a child.
          created_from, created_before: aware datetimes between which the instance was started.
          limit: most instances on the page.
          page_token: token of the next page, from the page before. The other arguments must be the same.

        Raises:
          InvalidInputError: if the page token is not valid.
          ValueError: if a datetime has no time zone, a status does not exist, or the limit is not positive.
        """
        return self._portal.call(
            self._portal.app.list_instances,
            workflow=workflow,
            status=status,
            instance_id=instance_id,
            parent=parent,
            created_from=created_from,
            created_before=created_before,
            limit=limit,
            page_token=page_token,
        )

    def find_instances(
        self,
        where: Where,
        *,
        workflow: str | None = None,
        status: Status | Collection[Status] | None = None,
        limit: int = 100,
        page_token: str | None = None,
    ) -> InstancePage:
        """Return one page of the instances whose input has certain values, the newest first.

        A path leads into the input as it is stored: ``"customer.id"``, ``"items.0.sku"``. A whole number addresses an
        element of an array, and a key of an object. Values are compared exactly: text with its case, numbers as numbers
        (1 equals 1.0, and is neither ``"1"`` nor true), null as a null that is there. Every database finds the same.

        Without an index (see :meth:`index_input`) the instances are searched one after the other, in short
        transactions. If the call is cancelled, it ends after one of these.

        Args:
          where: values by path, or pairs of a path and a value. A key that contains a dot, or is empty, is addressed by
            a path that is a tuple: ``("customer.id", "x")``.
          workflow, status: as of :meth:`list_instances`.
          limit, page_token: as of :meth:`list_instances`.

        Raises:
          InvalidInputError: naming each path that is not valid, and each value that is not text, a number, true, false
            or None; or if the page token is not valid.
          ValueError: if a status does not exist, or the limit is not positive.
        """
        return self._portal.call(
            self._portal.app.find_instances, where, workflow=workflow, status=status, limit=limit, page_token=page_token
        )

    def index_input(self, path: GivenPath) -> bool:
        """Make an index for conditions of :meth:`find_instances` on this path, unless there is one. The index stays.

        Several apps can call this at once. Other apps can run meanwhile, but on SQLite they cannot write. It takes some
        ten seconds for a million instances. If the call is cancelled, or the process dies, the next call completes the
        index.

        Args:
          path: as of :meth:`find_instances`.

        Returns:
          Whether there is an index now. False if this database cannot make one for the path.

        Raises:
          InvalidInputError: if the path is not valid.
          DatabaseError: if the database refuses, for example because the user lacks a privilege.
        """
        return self._portal.call(self._portal.app.index_input, path)

    def history(self, instance_id: str, *, limit: int | None = None, page_token: str | None = None) -> JournalPage:
        """Return the journal of an instance, in order, or one page of it.

        Args:
          instance_id: id of the instance.
          limit: most entries on the page; None: all that follow.
          page_token: token of the next page, from the page before.

        Raises:
          InstanceNotFoundError: if there is no such instance.
          InvalidInputError: if the page token is not valid.
          ValueError: if the limit is not positive.
        """
        return self._portal.call(self._portal.app.history, instance_id, limit=limit, page_token=page_token)

    def limits(self) -> list[LimitInfo]:
        """List the limits that workers have stored, in the order of their names."""
        return self._portal.call(self._portal.app.limits)

    def set_limit(self, name: str, *, concurrent: float | None = None, rate: Rate | None = None) -> None:
        """Change a limit, for all workers, from now on. Attempts that run already go on.

        Arguments that are not given stay as they are. From then on, what the code says about the limit does not count.

        Args:
          name: name of the limit.
          concurrent: most attempts that run at the same time. 0 holds all back, ``math.inf`` allows any number.
          rate: how many attempts may begin in a period.

        Raises:
          InvalidInputError: if no worker has stored a limit of that name.
          DefinitionError: if an argument is not valid.
        """
        self._portal.call(self._portal.app.set_limit, name, concurrent=concurrent, rate=rate)

    def list_workers(self) -> list[WorkerInfo]:
        """Return the workers on this database, in the order of their ids.

        A dead worker is among them until another worker has ended its lease.
        """
        return self._portal.call(self._portal.app.list_workers)

    @property
    def outbox(self) -> Outbox:
        """The outbox: events that activities have sent, on their way to the broker."""
        return Outbox(self._portal, self._portal.app.outbox)

    def cancel(self, instance_id: str, reason: str | None = None) -> bool:
        """Request the cancellation of an instance. The request is durable once this returns.

        The workflow function is cancelled, running activities go on to their outcome, and all completed activities are
        compensated. The workflow function never goes on.

        Args:
          instance_id: id of the instance.
          reason: a text that :class:`WorkflowCancelledError` shows.

        Returns:
          Whether the instance will end as cancelled, or has. False if its workflow function had ended before; then that
          outcome counts.

        Raises:
          InstanceNotFoundError: if there is no such instance.
        """
        return self._portal.call(self._portal.app.cancel, instance_id, reason)

    def terminate(self, instance_id: str, reason: str | None = None, *, compensate: bool = False) -> bool:
        """End an instance that does not end by itself. The request is durable once this returns.

        Use it if :meth:`cancel` does not end the instance, because its code hangs, swallows cancellations, or is stuck.
        Running code is abandoned: it is cancelled, and nothing that it does from then on is recorded. So the outcome
        of an activity or compensation that was running is not known. If the instance has recurred, this applies to the
        last one of its chain. Children that have not ended are terminated as well.

        An instance that no worker owns ends at once, and so does one whose worker is seen to be dead on this machine.
        Otherwise its worker ends it, or the next worker that claims it.
        It ends as cancelled; waiting for its result raises :class:`WorkflowTerminatedError`.

        Args:
          instance_id: id of the instance.
          reason: a text that :class:`WorkflowTerminatedError` shows.
          compensate: whether the activities and children that had completed are compensated, and running children
            cancelled instead of terminated. If not, ``error.uncompensated`` names what was not undone, and
            :meth:`resume` undoes it.

        Returns:
          Whether the instance ends because of this call, or was terminated before. False if it had ended otherwise.

        Raises:
          InstanceNotFoundError: if there is no such instance.
        """
        return self._portal.call(self._portal.app.terminate, instance_id, reason, compensate=compensate)

    def resume(self, instance_id: str) -> bool:
        """Let a stuck instance go on, or try compensations that failed for good again. It is durable once this returns.

        If the instance has recurred, this applies to the last one of its chain.

        Returns:
          Whether there was something to resume.

        Raises:
          InstanceNotFoundError: if there is no such instance.
        """
        return self._portal.call(self._portal.app.resume, instance_id)

    def retry(self, instance_id: str) -> bool:
        """Start a failed instance again from its first failed operation. It is durable once this returns.

        If the instance has recurred, this applies to the last one of its chain.

        Successful outcomes are kept, including those from beside or after that operation, and children that have
        completed. A child that failed is retried with its parent, and so is one that was cancelled because the parent
        failed. If no operation has failed, but the code of the workflow, that code runs again.

        Returns:
          Whether the instance had failed.

        Raises:
          InstanceNotFoundError: if there is no such instance.
          RomancyError: if something was compensated; if a child was cancelled by others; or if the instance is a child
            whose parent has not ended.
        """
        return self._portal.call(self._portal.app.retry, instance_id)

    def purge(
        self,
        *,
        older_than: Duration,
        status: Status | Collection[Status] | None = None,
        on_batch: Callable[[int], object] | None = None,
    ) -> int:
        """Delete instances that have ended, with their journals. Events that they sent stay in the :attr:`outbox`.

        Each transaction deletes some hundred instances, each of them as a whole, and workers can run meanwhile. A child
        stays until its parent has ended, and the first instance of a chain until the last one has. If the call is
        cancelled, it ends after one of the transactions, and their deletions stay.

        Args:
          older_than: seconds (or a timedelta) since the end of the instance.
          status: a final status, or several; None: all final ones.
          on_batch: called after each transaction with the number of instances that it has deleted.

        Returns:
          The number of deleted instances.

        Raises:
          ValueError: if a status is not final, or the duration is negative.
        """
        return self._portal.call(self._portal.app.purge, older_than=older_than, status=status, on_batch=on_batch)

    @property
    def worker_id(self) -> str:
        """Name of this worker. If none was given, each process that is forked has a name of its own."""
        return self._portal.app.worker_id

    @property
    def runs_workflows(self) -> bool:
        """Whether the app has a worker. Otherwise it is only a client."""
        return self._portal.app.runs_workflows

    def statistics(self) -> AppStatistics:
        """Return numbers about this app.

        Raises:
          RomancyError: outside of the app's block.
        """
        return self._portal.call_sync(self._portal.app.statistics)
